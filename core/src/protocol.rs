//! What a trainer says on its standard output and hears on its standard input: one JSON object a line.
//!
//! `distillery-trainer train SPEC --output DIR --events` writes [`Event`]s. With `--supervised` it also reads
//! [`Command`]s, and ends when its standard input does, so that it never outlives its worker. The files below `DIR`
//! are named in [`files`].

pub mod series;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The files that a trainer keeps below its output directory. Each is replaced by rename, never written in place,
/// except the metrics, to which it appends.
pub mod files {
    /// The student with the best evaluation accuracy so far.
    pub const BEST_STUDENT: &str = "student.safetensors";
    /// The student after the last epoch.
    pub const LAST_STUDENT: &str = "student-last.safetensors";
    /// How the students came to be; written last.
    pub const MANIFEST: &str = "manifest.json";
    /// The state that the last epoch started from, for `distillery verify`; only where there was more than one epoch.
    pub const BEFORE_LAST_EPOCH: &str = "before-last-epoch.safetensors";
    /// What the teacher sees in the regions of the evaluation split; only where there are regions.
    pub const REGIONS: &str = "regions.json";
    /// One [`Point`](super::Point) a line.
    pub const METRICS: &str = "metrics.ndjson";
    /// All that is needed to go on: weights, best weights, optimiser, counters. One file, so that it is never torn.
    pub const CHECKPOINT: &str = "state/checkpoint.safetensors";
}

/// Exit status of a trainer that stopped because it was told to.
pub const EXIT_STOPPED: u8 = 3;

/// What a trainer reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The data is loaded and the networks are built.
    Started(Started),
    /// The teacher's accuracy on the evaluation split, before training.
    Teacher(Evaluation),
    /// Where training is; at most a few times a second.
    Progress(Progress),
    /// New points of the job's series, in order.
    Metrics {
        /// The points.
        points: Vec<Point>,
    },
    /// A line for the job's event history.
    Log {
        /// How serious it is.
        level: Level,
        /// What happened and, for a warning, what to do about it.
        message: String,
    },
    /// [`files::CHECKPOINT`] now holds the state after this epoch.
    Checkpoint {
        /// Epochs done.
        epoch: u32,
        /// Steps done.
        step: u64,
    },
    /// All is written; the trainer exits with 0.
    Finished(Outcome),
    /// Told to stop, it did; what it had is in the last checkpoint.
    Stopped {
        /// Epochs done.
        epoch: u32,
        /// Steps done.
        step: u64,
    },
    /// It cannot go on; the trainer exits with 1.
    Failed(Failure),
}

/// What a worker tells its trainer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Stop at the next step, without a checkpoint.
    Stop,
    /// Write a checkpoint at the next step, then stop.
    Pause,
}

/// The facts of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// What `auto` came to: `float32`, `bfloat16`, or `tf32`, float32 that a GPU multiplies with 10 bits of mantissa.
    pub precision: String,
    /// Threads of the networks' arithmetic.
    pub threads: u32,
    /// Images of the training split, after `limit`.
    pub train_images: u64,
    /// Images of the evaluation split.
    pub eval_images: u64,
    /// Classes.
    pub classes: u32,
    /// Optimisation steps per epoch.
    pub steps_per_epoch: u64,
    /// Epochs of the whole run.
    pub epochs: u32,
    /// Epochs that an earlier attempt had done.
    pub resumed_epochs: u32,
    /// Steps that an earlier attempt had done: points after it are void.
    pub resumed_step: u64,
}

/// Accuracy on the evaluation split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Evaluation {
    /// Percent of images whose class was the first guess.
    pub top1: f64,
    /// Percent of images whose class was among the first five guesses.
    pub top5: f64,
    /// Mean cross entropy.
    pub loss: f64,
    /// Images evaluated.
    pub images: u64,
}

/// Where training is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Epoch in progress, from 1; `epochs` when done.
    pub epoch: u32,
    /// Epochs of the whole run.
    pub epochs: u32,
    /// Steps done.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Share of the steps done, 0 to 1.
    pub fraction: f64,
    /// Training images per second, lately.
    pub images_per_second: f64,
    /// Seconds left at that rate, evaluations included.
    pub eta_seconds: f64,
}

/// One point of one series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// One of [`series`].
    pub name: String,
    /// Optimisation steps done.
    pub step: u64,
    /// Epochs done, with the part of the current one.
    pub epoch: f64,
    /// When.
    pub time: DateTime<Utc>,
    /// Percent for `top1` and `top5`.
    pub value: f64,
}

/// How serious a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// For the record.
    Info,
    /// Somebody should look at it.
    Warning,
}

/// What training came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// The teacher's top-1 accuracy in percent; absent for `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_top1: Option<f64>,
    /// The best student's top-1 accuracy in percent.
    pub best_top1: f64,
    /// The epoch that it came from.
    pub best_epoch: u32,
    /// Top-1 accuracy in percent after the last epoch.
    pub last_top1: f64,
    /// The student itself.
    pub student: StudentFacts,
}

/// The file that a user downloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StudentFacts {
    /// Trained parameters.
    pub parameters: u64,
    /// Size of `student.safetensors`.
    pub size_bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// What kind of failure, which decides whether to try again.
    pub class: ErrorClass,
    /// What happened and what to do about it.
    pub message: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The specification, the checkpoint or the data cannot work as they are.
    User,
    /// Not enough memory.
    Oom,
    /// A loss that is not finite.
    Numeric,
    /// The worker or its trainer went away.
    WorkerLost,
    /// Files could not be read or written.
    Storage,
    /// A fault of ours.
    Internal,
}

impl ErrorClass {
    /// The name in the database and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Oom => "oom",
            Self::Numeric => "numeric",
            Self::WorkerLost => "worker_lost",
            Self::Storage => "storage",
            Self::Internal => "internal",
        }
    }

    /// Whether the same attempt could go better another time.
    #[must_use]
    pub fn is_retried(self) -> bool {
        match self {
            Self::User | Self::Oom | Self::Numeric => false,
            Self::WorkerLost | Self::Storage | Self::Internal => true,
        }
    }
}
