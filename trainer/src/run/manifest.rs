//! `manifest.json`: how the students were made.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::attempt::AttemptRecord;
use super::networks::FileHashes;
use super::resume::Counters;
use super::setup::Setup;
use crate::data::hash::sha256;
use crate::error::{Error, Result};
use distillery_core::protocol::{Evaluation, Outcome, StudentFacts};
use distillery_core::spec::TrainingPlan;

/// Size and hash of a student's file.
///
/// # Errors
/// The file cannot be read.
pub fn facts(path: &Path, parameters: u64) -> Result<StudentFacts> {
    let (sha256, size_bytes) = sha256(path).map_err(Error::storage(path))?;
    Ok(StudentFacts { parameters, size_bytes, sha256 })
}

/// `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// With all defaults filled in and local paths. A worker that publishes the file puts in place of the paths what
    /// the job named: ids of checkpoints and jobs, and the data set's name.
    pub specification: TrainingPlan,
    /// Determines initial weights, order and augmentation.
    pub seed: u64,
    pub versions: Versions,
    /// The attempts that wrote a checkpoint or finished. Those that found nothing left to train are not among them.
    pub attempts: Vec<AttemptRecord>,
    pub finished_at: DateTime<Utc>,
    /// `None` for plain training.
    pub teacher: Option<TeacherEntry>,
    /// SHA-256 of the checkpoint that the student started from, if there was one; of an exported network's file.
    pub initial_student_sha256: Option<String>,
    /// SHA-256 of the file with an exported student's graph, if its first weights are in another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub student_network_sha256: Option<String>,
    pub data: DataEntry,
    pub steps: u64,
    /// The student at the best evaluation.
    pub best: StudentEntry,
    /// The student after the last epoch.
    pub last: StudentEntry,
}

impl Manifest {
    /// The attempts that trained, without those that earlier versions added when a finished run was run again.
    pub fn trained(&self) -> impl DoubleEndedIterator<Item = &AttemptRecord> {
        self.attempts.iter().filter(|attempt| attempt.from_step < self.steps)
    }

    /// What the run reported at its end; `None` if an evaluation is missing.
    #[must_use]
    pub fn outcome(self) -> Option<Outcome> {
        let teacher = self.teacher.and_then(|teacher| teacher.evaluation);
        Some(Outcome {
            teacher_top1: teacher.map(|teacher| teacher.top1),
            best_top1: self.best.evaluation?.top1,
            best_epoch: self.best.epoch,
            last_top1: self.last.evaluation?.top1,
            student: self.best.student,
        })
    }
}

/// Versions of the programs that trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub distillery: String,
    pub libtorch: String,
}

impl Versions {
    /// The versions that run now.
    #[must_use]
    pub fn current() -> Self {
        Self { distillery: env!("CARGO_PKG_VERSION").to_owned(), libtorch: env!("LIBTORCH_VERSION").to_owned() }
    }
}

/// The teacher and how good it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct TeacherEntry {
    /// SHA-256 of its checkpoint.
    pub sha256: String,
    /// SHA-256 of the file with an exported teacher's graph, if its weights are in another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_sha256: Option<String>,
    pub evaluation: Option<Evaluation>,
    /// Its own normalisation, where it differs from the student's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f64; 3]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<[f64; 3]>,
}

/// What was trained and evaluated on.
#[derive(Debug, Serialize, Deserialize)]
pub struct DataEntry {
    /// SHA-256 by split, over the names and bytes of the stored files.
    pub sha256_of_files: BTreeMap<String, String>,
    /// Training images after `limit`.
    pub train_images: u64,
    pub eval_images: u64,
    /// Images that could not be decoded.
    pub dropped_images: u64,
    pub classes: u32,
    /// The student's normalisation.
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

/// A student's file and how good it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct StudentEntry {
    /// Epochs of training.
    pub epoch: u32,
    pub evaluation: Option<Evaluation>,
    pub student: StudentFacts,
}

/// Writes the manifest. The file is replaced as a whole or not at all.
///
/// # Errors
/// It cannot be written, or the data set's files could not be hashed.
pub fn write(path: &Path, spec: &TrainingPlan, mut setup: Setup, outcome: &Outcome, last: StudentFacts) -> Result<()> {
    let sha256_of_files = setup.data.split_hashes.get()?.clone();
    let Counters { epoch, step, best, teacher, last: last_evaluation, attempts, .. } = setup.state.counters;
    let own = setup.objective.teacher_normalisation.as_ref();
    let (mean, std) = own.map(|own| (own.mean, own.std)).unzip();
    let teacher_entry = |FileHashes { checkpoint, network }| TeacherEntry {
        sha256: checkpoint,
        network_sha256: network,
        evaluation: teacher,
        mean,
        std,
    };
    let (initial_student_sha256, student_network_sha256) = match setup.files.hashes.student {
        Some(FileHashes { checkpoint, network }) => (Some(checkpoint), network),
        None => (None, None),
    };
    let manifest = Manifest {
        specification: spec.clone(),
        seed: spec.training.seed,
        versions: Versions::current(),
        attempts,
        finished_at: Utc::now(),
        teacher: setup.files.hashes.teacher.map(teacher_entry),
        initial_student_sha256,
        student_network_sha256,
        data: DataEntry {
            sha256_of_files,
            train_images: setup.started.train_images,
            eval_images: setup.started.eval_images,
            dropped_images: setup.data.dropped,
            classes: setup.started.classes,
            mean: setup.data.mean_std.mean,
            std: setup.data.mean_std.std,
        },
        steps: step,
        best: StudentEntry {
            epoch: outcome.best_epoch,
            evaluation: best.map(|(best, _)| best),
            student: outcome.student.clone(),
        },
        last: StudentEntry { epoch, evaluation: last_evaluation, student: last },
    };
    write_json(path, &manifest)
}

/// Writes a JSON file. The file is replaced as a whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("what is written here is JSON") + "\n";
    let directory = path.parent().unwrap_or(Path::new("."));
    // A temporary file would be readable by its owner only.
    let permissions = std::fs::Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().permissions(permissions).tempfile_in(directory);
    let mut file = file.map_err(Error::storage(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(Error::storage(path))?;
    file.persist(path).map_err(|error| Error::storage(path)(error.error))?;
    Ok(())
}
