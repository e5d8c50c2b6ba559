//! The checkpoint to resume from: a single file, so that it is always consistent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::Tensor;

use super::attempt::AttemptRecord;
use super::classes::ClassCounts;
use super::networks::NetworkHashes;
use super::predictions::RunPredictions;
use crate::data::split_hashes::Hashes;
use crate::error::{Error, Result};
use crate::loss::region_report::RegionReport;
use crate::models::state_dict::{self, StateDict};
use distillery_core::checkpoint::{self, Checkpoint};
use distillery_core::protocol::Evaluation;
use distillery_core::spec::{DatasetDirectory, TeacherCache, TrainingPlan, TrainingSpec};

/// How much data a run is of. In JSON it is a list of the three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u32)", into = "(u64, u64, u32)")]
pub struct DataSize {
    pub train_images: u64,
    pub eval_images: u64,
    pub classes: u32,
}

impl From<(u64, u64, u32)> for DataSize {
    fn from((train_images, eval_images, classes): (u64, u64, u32)) -> Self {
        Self { train_images, eval_images, classes }
    }
}

impl From<DataSize> for (u64, u64, u32) {
    fn from(DataSize { train_images, eval_images, classes }: DataSize) -> Self {
        (train_images, eval_images, classes)
    }
}

/// How far a run is, and its results so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// [`identity`] of the run.
    pub specification: String,
    /// The size of its data; `None` in checkpoints of earlier versions.
    #[serde(default)]
    pub data: Option<DataSize>,
    /// SHA-256 of its data's files by split; `None` until they are known, and in checkpoints of earlier versions.
    #[serde(default)]
    pub data_sha256: Option<Hashes>,
    /// Epochs done.
    pub epoch: u32,
    /// Steps done of the current epoch. Their batches follow from the seed, so nothing else needs to be kept.
    pub step_in_epoch: u64,
    /// Steps done in all.
    pub step: u64,
    /// The best evaluation so far, and the number of epochs before it.
    pub best: Option<(Evaluation, u32)>,
    pub teacher: Option<Evaluation>,
    /// What the teacher sees in the regions of the evaluation split; `None` for methods without regions.
    pub regions: Option<RegionReport>,
    /// The latest evaluation.
    pub last: Option<Evaluation>,
    /// The latest evaluation of the weights as trained, if the student is their average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_raw: Option<Evaluation>,
    /// Number of evaluations since the best one.
    #[serde(default)]
    pub stale: u32,
    /// Whether training has ended early, because the student no longer became better.
    #[serde(default)]
    pub ended_early: bool,
    /// The best evaluation by class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub best_classes: Vec<ClassCounts>,
    /// The attempts that wrote a checkpoint, and the current one if there is anything left to train.
    pub attempts: Vec<AttemptRecord>,
}

impl Counters {
    /// The counters of a run that has not begun. `specification` is its [`identity`].
    #[must_use]
    pub fn new(specification: String, data: DataSize) -> Self {
        Self {
            specification,
            data: Some(data),
            data_sha256: None,
            epoch: 0,
            step_in_epoch: 0,
            step: 0,
            best: None,
            teacher: None,
            regions: None,
            last: None,
            last_raw: None,
            stale: 0,
            ended_early: false,
            best_classes: Vec::new(),
            attempts: Vec::new(),
        }
    }

    /// Whether there is nothing left to train.
    #[must_use]
    pub fn is_over(&self, epochs: u32) -> bool {
        self.epoch >= epochs || self.ended_early
    }

    /// Whether the run can end with the next epoch.
    #[must_use]
    pub fn next_may_be_last(&self, training: &TrainingSpec) -> bool {
        let next = self.epoch + 1;
        let is_evaluated = next.is_multiple_of(training.eval_every_epochs);
        let patience = training.early_stopping_patience.filter(|_| is_evaluated);
        next == training.epochs || patience.is_some_and(|patience| self.stale + 1 >= patience)
    }
}

/// Everything that a run changes.
#[derive(Debug)]
pub struct RunState {
    pub counters: Counters,
    pub student: StateDict,
    /// The student at its best evaluation.
    pub best: Option<StateDict>,
    pub predictions: RunPredictions,
    pub optimizer: StateDict,
}

/// The key of the counters in the metadata.
const COUNTERS: &str = "distillery";

/// A hash of everything that determines a run, in hexadecimal. It covers the specification without names, paths and
/// priority, which may differ from attempt to attempt; the SHA-256 of the networks' files; and the data's numbers of
/// training images, evaluation images and classes.
#[must_use]
pub fn identity(spec: &TrainingPlan, hashes: &NetworkHashes, data: DataSize) -> String {
    let mut spec = spec.clone();
    (spec.name, spec.priority, spec.max_attempts) = (String::new(), 0, 0);
    spec.labels.clear();
    spec.dataset.location = DatasetDirectory { name: None, path: PathBuf::new() };
    // Only views change what is trained on.
    spec.training.teacher_cache = spec.training.teacher_cache.filter(|cache| matches!(cache, TeacherCache::Views(_)));
    let of_student = hashes.student.as_ref();
    spec.student.checkpoint = of_student.map(|student| PathBuf::from(&student.checkpoint));
    spec.student.network = of_student.and_then(|student| student.network.as_ref()).map(PathBuf::from);
    if let Some(of_teacher) = &mut spec.teacher {
        let hashes = hashes.teacher.as_ref();
        of_teacher.checkpoint = hashes.map(|teacher| PathBuf::from(&teacher.checkpoint)).unwrap_or_default();
        of_teacher.network = hashes.and_then(|teacher| teacher.network.as_ref()).map(PathBuf::from);
        // Only decides whether the run begins.
        of_teacher.min_top1 = None;
    }
    let text = serde_json::to_string(&(&spec, data)).expect("a specification is JSON");
    // Keeps the identity of checkpoints from before these fields were there. Inside a string, the quotes would be
    // escaped.
    let mut text = text.replacen(r#""devices":1,"#, "", 1).replacen(r#""path":"","#, "", 1);
    if spec.dataset.limit.is_some() {
        // Earlier checkpoints are of runs on the first images of the split.
        text.push_str("spread over the classes");
    }
    hex::encode(Sha256::digest(text))
}

/// Writes the state in place of an earlier one.
///
/// # Errors
/// The file cannot be written.
pub fn save(path: &Path, state: &RunState) -> Result<()> {
    let predictions = state.predictions.to_state();
    let parts = [
        ("student", Some(&state.student)),
        ("best", state.best.as_ref()),
        ("predictions", Some(&predictions)),
        ("optimizer", Some(&state.optimizer)),
    ];
    let mut tensors = Vec::new();
    for (part, dict) in parts {
        for (name, tensor) in dict.into_iter().flatten() {
            tensors.push((format!("{part}.{name}"), tensor.shallow_clone()));
        }
    }
    let counters = serde_json::to_string(&state.counters).expect("counters are JSON");
    state_dict::write(path, &tensors, &BTreeMap::from([(COUNTERS.to_owned(), counters)]))
}

/// The error of a run whose data set is another one than when its checkpoint was written.
fn changed(how: &str) -> Error {
    Error::user(format!(
        "the data set has changed since the checkpoint to resume from: {how}. Put it back as it was and retry, or \
         start from the beginning: post the job again or, without a server, choose another output directory"
    ))
}

fn of_another_size(before: DataSize, now: DataSize) -> Error {
    let describe = |DataSize { train_images, eval_images, classes }| {
        format!("{train_images} images to train on, {eval_images} to evaluate on and {classes} classes")
    };
    changed(&format!("it had {}, and has {} now", describe(before), describe(now)))
}

/// Compares the SHA-256 of the data's files by split with those when the checkpoint was written.
///
/// # Errors
/// They differ.
pub fn check_same(before: &Hashes, now: &Hashes) -> Result<()> {
    let Some((split, hash)) = before.iter().find(|(split, hash)| now.get(*split) != Some(*hash)) else {
        return Ok(());
    };
    let now = now.get(split).map_or("none", String::as_str);
    Err(changed(&format!("the files of its {split} split had the SHA-256 {hash}, and have {now} now")))
}

/// Says that a run cannot be resumed, and what to do: nobody can download its state again.
fn damaged(path: &Path, error: &checkpoint::Error) -> Error {
    let fault = match error {
        checkpoint::Error::Io(_) => return state_dict::unreadable(path, error),
        checkpoint::Error::Empty => "the file is empty".to_owned(),
        checkpoint::Error::Truncated(why) => format!("the file is truncated: {why}"),
        checkpoint::Error::Corrupt(why) => format!("the file is damaged: {why}"),
        other => other.to_string(),
    };
    Error::user(format!(
        "the run cannot be resumed from {}: {fault}; remove it to start from the beginning, or choose another output \
         directory",
        path.display()
    ))
}

/// Loads the state that an earlier attempt left, if there is one.
///
/// # Errors
/// It cannot be read, or belongs to another run or to other data.
pub fn load(path: &Path, identity: &str, data: DataSize) -> Result<Option<RunState>> {
    let checkpoint = match Checkpoint::open_as_written(path) {
        Ok(checkpoint) => checkpoint,
        Err(checkpoint::Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(damaged(path, &error)),
    };
    let foreign = || {
        Error::user(format!(
            "{} belongs to another specification or other data: choose another output directory, or remove it to start \
             from the beginning",
            path.display()
        ))
    };
    let counters = checkpoint.metadata().get(COUNTERS).ok_or_else(foreign)?;
    let counters: Counters = serde_json::from_str(counters).map_err(|_| foreign())?;
    if counters.specification != identity {
        return Err(match counters.data {
            Some(before) if before != data => of_another_size(before, data),
            _ => foreign(),
        });
    }
    let mut parts: BTreeMap<String, StateDict> = BTreeMap::new();
    for stored in checkpoint.tensors() {
        let bytes = checkpoint.bytes(stored).map_err(|error| damaged(path, &error))?;
        let shape: Vec<i64> = stored.shape().iter().map(|&size| size as i64).collect();
        let tensor = Tensor::f_from_data_size(&bytes, &shape, state_dict::kind(stored.dtype()))?;
        let (part, name) = stored.name().split_once('.').ok_or_else(foreign)?;
        parts.entry(part.to_owned()).or_default().push((name.to_owned(), tensor));
    }
    let mut take = |part: &str| parts.remove(part);
    Ok(Some(RunState {
        counters,
        student: take("student").ok_or_else(foreign)?,
        best: take("best"),
        predictions: RunPredictions::of_state(take("predictions").unwrap_or_default()),
        optimizer: take("optimizer").unwrap_or_default(),
    }))
}
