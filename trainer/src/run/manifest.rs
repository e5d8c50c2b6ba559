//! `manifest.json`: how the students came to be.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::resume::{Attempt, Counters};
use super::setup::Setup;
use crate::data::hash::sha256;
use crate::error::{Error, Result};
use distillery::protocol::{Evaluation, Outcome, StudentFacts};
use distillery::spec::JobSpec;

/// What is said about a student's file.
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
    /// With every default filled in, and local paths.
    pub specification: JobSpec,
    /// What decides initial weights, order and augmentation.
    pub seed: u64,
    /// Of the programs.
    pub versions: Versions,
    /// Those that left a state or finished, and where each ran.
    pub attempts: Vec<Attempt>,
    /// When the students were written.
    pub finished_at: DateTime<Utc>,
    /// Absent for plain training.
    pub teacher: Option<Teacher>,
    /// SHA-256 of the checkpoint that the student started from, where it did.
    pub initial_student_sha256: Option<String>,
    /// What was trained and evaluated on.
    pub data: Data,
    /// Optimisation steps.
    pub steps: u64,
    /// After the best evaluation.
    pub best: Student,
    /// After the last epoch.
    pub last: Student,
}

/// Of the programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Of this program.
    pub distillery: String,
    /// Of the arithmetic.
    pub libtorch: String,
}

impl Versions {
    /// Those that run now.
    #[must_use]
    pub fn current() -> Self {
        Self { distillery: env!("CARGO_PKG_VERSION").to_owned(), libtorch: env!("LIBTORCH_VERSION").to_owned() }
    }
}

/// The network that was learned from.
#[derive(Debug, Serialize, Deserialize)]
pub struct Teacher {
    /// Of its file.
    pub sha256: String,
    /// On the evaluation split.
    pub evaluation: Option<Evaluation>,
}

/// What was trained and evaluated on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Data {
    /// Of each split, over the names and bytes of the files as they are stored, not over decoded pixels.
    pub sha256_of_files: BTreeMap<String, String>,
    /// After `limit`.
    pub train_images: u64,
    /// Of the evaluation split.
    pub eval_images: u64,
    /// Images that could not be read.
    pub dropped_images: u64,
    /// Classes.
    pub classes: u32,
    /// Of the student's normalisation.
    pub mean: [f64; 3],
    /// Of the student's normalisation.
    pub std: [f64; 3],
}

/// A student's file and how good it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Student {
    /// The epoch that it comes from.
    pub epoch: u32,
    /// On the evaluation split.
    pub evaluation: Option<Evaluation>,
    /// The file.
    pub student: StudentFacts,
}

/// Writes the manifest, whole or not at all.
///
/// # Errors
/// It cannot be written, or the data could not be read for its hash.
pub fn write(path: &Path, spec: &JobSpec, mut setup: Setup, outcome: &Outcome, last: StudentFacts) -> Result<()> {
    let sha256_of_files = setup.data.fingerprints.get()?.clone();
    let Counters { epoch, step, best, teacher, last: last_evaluation, attempts, .. } = setup.counters;
    let manifest = Manifest {
        specification: spec.clone(),
        seed: spec.training.seed,
        versions: Versions::current(),
        attempts,
        finished_at: Utc::now(),
        teacher: setup.hashes.teacher.map(|sha256| Teacher { sha256, evaluation: teacher }),
        initial_student_sha256: setup.hashes.student,
        data: Data {
            sha256_of_files,
            train_images: setup.started.train_images,
            eval_images: setup.started.eval_images,
            dropped_images: setup.data.dropped,
            classes: setup.started.classes,
            mean: setup.data.mean,
            std: setup.data.std,
        },
        steps: step,
        best: Student {
            epoch: outcome.best_epoch,
            evaluation: best.map(|(best, _)| best),
            student: outcome.student.clone(),
        },
        last: Student { epoch, evaluation: last_evaluation, student: last },
    };
    write_json(path, &manifest)
}

/// Writes a JSON file, whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("what is written here is JSON") + "\n";
    let directory = path.parent().unwrap_or(Path::new("."));
    // Readable to whoever the umask lets, like the other files.
    let permissions = std::fs::Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().permissions(permissions).tempfile_in(directory);
    let mut file = file.map_err(Error::storage(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(Error::storage(path))?;
    file.persist(path).map_err(|error| Error::storage(path)(error.error))?;
    Ok(())
}
