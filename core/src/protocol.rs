//! What a trainer says on its standard output and hears on its standard input: one JSON object a line.
//!
//! `distillery-trainer train SPEC --output DIR --events` writes [`Event`]s. With `--supervised` it also reads
//! [`StopRequest`]s, and ends when its standard input does, so that it never outlives its worker. The files below `DIR`
//! are named in [`files`].

pub mod series;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Files in a trainer's output directory. Each is replaced atomically, except the metrics, which are appended to.
pub mod files {
    /// The student with the best evaluation accuracy so far.
    pub const BEST_STUDENT: &str = "student.safetensors";
    /// The student after the last epoch.
    pub const LAST_STUDENT: &str = "student-last.safetensors";
    /// Everything that determined the students. Written last.
    pub const MANIFEST: &str = "manifest.json";
    /// The state from which the last epoch started, for `distillery verify`. Only if there was more than one epoch.
    pub const BEFORE_LAST_EPOCH: &str = "before-last-epoch.safetensors";
    /// The teacher's predictions by region of the evaluation split. Only if the method has regions.
    pub const REGIONS: &str = "regions.json";
    /// Recall, precision and F1 of the best student by class. Not in older runs.
    pub const CLASSES: &str = "classes.json";
    /// What the best student and the teacher predict for each evaluation image, with small pictures of some: see
    /// [`predictions`](crate::predictions). Not there if the images were too many, and in older runs.
    pub const PREDICTIONS: &str = "predictions.safetensors";
    /// What is counted of these: confusion, classes, agreement and calibration.
    pub const PREDICTION_REPORT: &str = "predictions.json";
    /// Images as the network sees them and the best student's logits, to check exported students with. Not there if
    /// they could not be written, and in older runs; exports are then not checked.
    pub const SAMPLES: &str = "samples.safetensors";
    /// One [`Point`](super::Point) per line.
    pub const METRICS: &str = "metrics.ndjson";
    /// The state to resume from: weights, best weights, optimiser, counters. A single file, so that it is consistent.
    pub const CHECKPOINT: &str = "state/checkpoint.safetensors";
}

/// What a trainer that was asked to `probe` these devices writes once it has computed on each. No other program says
/// that, so a worker that was given one by mistake takes no jobs.
#[must_use]
pub fn probe_answer(devices: &str) -> String {
    format!("distillery-trainer computes on {devices}")
}

/// Exit status of a trainer that stopped on request.
pub const EXIT_STOPPED: u8 = 3;

/// What a trainer reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The data is loaded and the networks are built.
    Started(Started),
    /// The teacher's accuracy on the evaluation split, before training.
    Teacher(Evaluation),
    /// How far training has come; at most a few times per second.
    Progress(Progress),
    /// New points of the job's series, in order.
    Metrics { points: Vec<Point> },
    /// A line for the job's event history.
    Log {
        level: Level,
        /// What happened and, for a warning, what to do next.
        message: String,
    },
    /// [`files::CHECKPOINT`] now holds the state after this epoch.
    Checkpoint {
        /// Completed epochs.
        epoch: u32,
        /// Completed steps.
        step: u64,
    },
    /// All files are written. The trainer exits with status 0.
    Finished(Outcome),
    /// The trainer has stopped on request, and exits with [`EXIT_STOPPED`]. The last checkpoint has its state.
    Stopped {
        /// Completed epochs.
        epoch: u32,
        /// Completed steps.
        step: u64,
    },
    /// Training has failed. The trainer exits with status 1.
    Failed(Failure),
}

/// A request to end a run before its last epoch. It travels from the job's status by the worker's lease to the trainer
/// and all its ranks. The greater of two requests prevails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum StopRequest {
    /// Write a checkpoint at the next step, then stop.
    Pause,
    /// Stop at the next step, without a checkpoint.
    #[serde(rename = "stop")]
    Cancel,
}

/// The facts of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// `float32`, `bfloat16`, or `tf32` (float32 that a GPU multiplies with 10 bits of mantissa).
    pub precision: String,
    /// Threads for computation.
    pub threads: u32,
    /// Images in the training split, after `limit`.
    pub train_images: u64,
    /// Images in the evaluation split.
    pub eval_images: u64,
    pub classes: u32,
    /// Optimisation steps per epoch.
    pub steps_per_epoch: u64,
    /// Epochs of the whole run.
    pub epochs: u32,
    /// Epochs completed by an earlier attempt.
    pub resumed_epochs: u32,
    /// Steps completed by an earlier attempt. Its points after this step are obsolete.
    pub resumed_step: u64,
}

/// Accuracy on the evaluation split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Evaluation {
    /// Top-1 accuracy in percent.
    pub top1: f64,
    /// Top-5 accuracy in percent.
    pub top5: f64,
    /// Mean cross entropy.
    pub loss: f64,
    /// Images evaluated.
    pub images: u64,
}

/// How far training has come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Current epoch, from 1; `epochs` at the end.
    pub epoch: u32,
    /// Epochs of the whole run.
    pub epochs: u32,
    /// Completed steps.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Completed fraction of the steps, from 0 to 1.
    pub fraction: f64,
    /// Current rate in training images per second.
    pub images_per_second: f64,
    /// Estimated seconds until the end, including evaluations.
    pub eta_seconds: f64,
}

/// A point of a series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// One of [`series`].
    pub name: String,
    /// Completed optimisation steps.
    pub step: u64,
    /// Completed epochs, including the fraction of the current one.
    pub epoch: f64,
    pub time: DateTime<Utc>,
    /// In percent for `top1` and `top5`.
    pub value: f64,
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// For information.
    Info,
    /// Somebody should look into it.
    Warning,
}

/// Results of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// The teacher's top-1 accuracy in percent; absent for the method `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_top1: Option<f64>,
    /// The best student's top-1 accuracy in percent.
    pub best_top1: f64,
    /// The epoch of the best student.
    pub best_epoch: u32,
    /// Top-1 accuracy in percent after the last epoch.
    pub last_top1: f64,
    /// The best student.
    pub student: StudentFacts,
}

/// Facts about a student.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StudentFacts {
    /// Number of trained parameters.
    pub parameters: u64,
    /// Size of `student.safetensors` in bytes.
    pub size_bytes: u64,
    /// SHA-256 of `student.safetensors`, in hexadecimal.
    pub sha256: String,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// The kind of failure, which decides whether to retry.
    pub class: ErrorClass,
    /// What happened, and what to do next.
    pub message: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The specification, a checkpoint or the data is invalid.
    User,
    /// Out of memory.
    Oom,
    /// The loss is not finite.
    Numeric,
    /// The worker or its trainer disappeared.
    WorkerLost,
    /// A file cannot be read or written.
    Storage,
    /// The worker's machine cannot run the job: its disk, a device, its copy of the data, its trainer, or its way to
    /// storage failed. The job goes to another worker, and the attempt does not count.
    Machine,
    /// A bug.
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
            Self::Machine => "machine",
            Self::Internal => "internal",
        }
    }

    /// Whether another attempt may succeed.
    #[must_use]
    pub fn is_retried(self) -> bool {
        match self {
            Self::User | Self::Oom | Self::Numeric => false,
            Self::WorkerLost | Self::Storage | Self::Machine | Self::Internal => true,
        }
    }
}
