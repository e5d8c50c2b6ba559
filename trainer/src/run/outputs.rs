//! The files that a run leaves: the checkpoint to resume from, the students, and the manifest.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::classes;
use super::manifest::{self, Manifest};
use super::prediction_file;
use super::resume::{self, Counters, RunState};
use super::samples::{self, Students};
use super::setup::Setup;
use crate::error::{Error, Result};
use crate::models::state_dict::{self, StateDict};
use crate::worker_link::report::{Report, warning};
use distillery_core::checkpoint::{ACCURACY, EXPORTED, NETWORK};
use distillery_core::protocol::{Event, Level, Outcome, files};
use distillery_core::spec::{EvalPart, TrainingPlan};

/// Writes the checkpoint to resume from.
///
/// # Errors
/// A weight is not finite, or the file cannot be written.
pub fn save_checkpoint(path: &Path, setup: &Setup) -> Result<()> {
    let student = state_dict::copy_of(&setup.student)?;
    check_finite(&student, setup.state.counters.step)?;
    let optimizer = setup.optimizer.state();
    let optimizer = optimizer.iter().map(|(name, tensor)| Ok((name.clone(), state_dict::to_cpu(tensor)?)));
    let shared = |best: &StateDict| -> StateDict {
        best.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    };
    let state = RunState {
        counters: setup.state.counters.clone(),
        student,
        best: setup.state.best.as_ref().map(shared),
        predictions: setup.state.predictions.clone(),
        optimizer: optimizer.collect::<Result<_>>()?,
    };
    resume::save(path, &state)
}

/// A loss can be finite while the weights after its step are not.
fn check_finite(state: &StateDict, step: u64) -> Result<()> {
    for (name, tensor) in state {
        if tensor.isfinite().all().int64_value(&[]) == 0 {
            return Err(Error::numeric(format!(
                "{name} is not finite after step {step}: lower training.optimizer.learning_rate, or set \
                 training.clip_grad_norm"
            )));
        }
    }
    Ok(())
}

/// Keeps the checkpoint before the last epoch, so that `distillery verify` can repeat that epoch. Checkpoints are
/// replaced by rename, so a hard link keeps this one.
///
/// # Errors
/// The file cannot be written.
pub fn keep_for_verification(output: &Path) -> Result<()> {
    let kept = output.join(files::BEFORE_LAST_EPOCH);
    match std::fs::remove_file(&kept) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::storage(&kept)(error)),
        _ => {}
    }
    let checkpoint = output.join(files::CHECKPOINT);
    // Not every file system has hard links.
    std::fs::hard_link(&checkpoint, &kept)
        .or_else(|_| std::fs::copy(&checkpoint, &kept).map(drop))
        .map_err(Error::storage(&kept))
}

/// The outcome that the files of a finished run tell; `None` if one of them is missing, or another run wrote them.
#[must_use]
pub fn written(output: &Path, counters: &Counters) -> Option<Outcome> {
    let text = std::fs::read(output.join(files::MANIFEST)).ok()?;
    let manifest: Manifest = serde_json::from_slice(&text).ok()?;
    let are_there = [files::BEST_STUDENT, files::LAST_STUDENT].iter().all(|name| output.join(name).is_file());
    // Attempts have begun at different times. Earlier versions added those that found nothing left to train.
    let is_of_run = manifest.attempts.starts_with(&counters.attempts);
    if are_there && is_of_run { manifest.outcome() } else { None }
}

/// Writes the students, what they get wrong, images of the data set (`samples`) if they are wanted, and, last, the
/// manifest. Warns of what could not be written.
///
/// # Errors
/// A file cannot be written, or the data set's files could not be hashed or are others than before.
pub fn write_results(
    output: &Path,
    spec: &TrainingPlan,
    mut setup: Setup,
    samples: bool,
    report: &mut dyn Report,
) -> Result<Outcome> {
    setup.check_files(Duration::MAX)?;
    let missing = || Error::internal("no evaluation was done");
    let (best, best_epoch) = setup.state.counters.best.ok_or_else(missing)?;
    let last = setup.state.counters.last.ok_or_else(missing)?;
    let last_weights = match setup.optimizer.average() {
        Some(average) => average.copy()?,
        None => state_dict::copy_of(&setup.student)?,
    };
    let best_weights = setup.state.best.take().ok_or_else(missing)?;
    let write = |name: &str, state: &StateDict, epochs: u32, top1: f64| {
        let metadata = student_metadata(&setup, spec, top1);
        let path = output.join(name);
        let batches = setup.started.steps_per_epoch * u64::from(epochs) * u64::from(spec.training.parts());
        // An exported network counts its batches itself.
        let is_zoos = setup.student.architecture().is_some();
        let counted = is_zoos.then(|| state_dict::with_batches_tracked(state, batches));
        state_dict::write(&path, counted.as_ref().unwrap_or(state), &metadata)?;
        manifest::facts(&path, setup.student.parameters())
    };
    let student = write(files::BEST_STUDENT, &best_weights, best_epoch, best.top1)?;
    let last_student = write(files::LAST_STUDENT, &last_weights, setup.state.counters.epoch, last.top1)?;
    report.event(&match prediction_file::write(output, &setup, &best_weights, samples) {
        Ok(message) => Event::Log { level: Level::Info, message },
        Err(error) => warning(format!(
            "what the student gets wrong was not written: {error}. The students themselves are complete"
        )),
    });
    let students = Students { best: &best_weights, last: &last_weights };
    if let Err(error) = write_samples(output, &setup, students, samples) {
        report.event(&warning(format!(
            "exports of its students are not checked, and int8 has no images to calibrate with, because no samples could \
             be written: {error}. The students themselves are complete"
        )));
    }
    let outcome = Outcome {
        teacher_top1: setup.state.counters.teacher.map(|teacher| teacher.top1),
        best_top1: best.top1,
        best_epoch,
        last_top1: last.top1,
        student,
    };
    if let Some(regions) = &setup.state.counters.regions {
        manifest::write_json(&output.join(files::REGIONS), regions)?;
    }
    // Evaluations of earlier versions have none.
    if !setup.state.counters.best_classes.is_empty() {
        let report = classes::report(&setup.state.counters.best_classes, setup.data.classes.names.as_deref());
        manifest::write_json(&output.join(files::CLASSES), &report)?;
    }
    manifest::write(&output.join(files::MANIFEST), spec, setup, &outcome, last_student)?;
    Ok(outcome)
}

/// Writes samples if they are `wanted`, and removes those of an earlier run, which are of other students.
fn write_samples(output: &Path, setup: &Setup, students: Students<'_>, wanted: bool) -> Result<()> {
    let path = output.join(files::SAMPLES);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::storage(&path)(error)),
        _ => {}
    }
    if wanted { samples::write(&path, setup, students) } else { Ok(()) }
}

/// The metadata of a student's file: what `evaluate`, jobs with it as the teacher, and other readers need to use it.
/// `top1`: its accuracy in percent.
fn student_metadata(setup: &Setup, spec: &TrainingPlan, top1: f64) -> BTreeMap<String, String> {
    let data = &setup.data;
    let numbers = || (0..data.classes.count).map(|class| class.to_string()).collect();
    let names: Vec<String> = data.classes.names.clone().unwrap_or_else(numbers);
    let json = |value: serde_json::Value| value.to_string();
    let part = spec.dataset.eval_part(spec.training.augmentation);
    let mut metadata = BTreeMap::from([
        ("image_size".to_owned(), spec.dataset.image_size.to_string()),
        ("eval_crop".to_owned(), if part == EvalPart::Whole { "whole" } else { "centre" }.to_owned()),
        ("eval_filter".to_owned(), "bilinear, antialiased".to_owned()),
        (ACCURACY.to_owned(), top1.to_string()),
        ("num_classes".to_owned(), data.classes.count.to_string()),
        ("mean".to_owned(), json(data.mean_std.mean.as_slice().into())),
        ("std".to_owned(), json(data.mean_std.std.as_slice().into())),
        ("classes".to_owned(), json(names.into())),
    ]);
    let of_network = match setup.student.architecture() {
        // transformers and other readers expect this for weights in PyTorch's layout.
        Some(architecture) => [("format", "pt".to_owned()), ("architecture", architecture.name.to_owned())],
        None => [
            ("format", EXPORTED.to_owned()),
            (NETWORK, setup.files.hashes.student_network().unwrap_or_default().to_owned()),
        ],
    };
    metadata.extend(of_network.map(|(key, value)| (key.to_owned(), value)));
    if let Some(decay) = spec.training.ema_decay {
        metadata.insert("ema_decay".to_owned(), decay.to_string());
    }
    if let EvalPart::Centre { resize } = part {
        metadata.insert("eval_resize".to_owned(), resize.to_string());
    }
    metadata
}
