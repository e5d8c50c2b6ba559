//! Prepares an attempt's directory: the specification with local paths, the teacher, and the checkpoint of an earlier
//! attempt.
//!
//! ```text
//! <work>/<job>/<attempt>-<claim>/
//!     lock, spec.json, teacher, teacher-network, student, output/{state/checkpoint.safetensors, …}
//! ```

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::failure::{AttemptError, on_disk, storage_failure};
use super::names::FileNames;
use super::record::{Recorder, held};
use super::{WorkerContext, WorkerSettings, uploads};
use crate::architecture::UnknownArchitecture;
use crate::artifacts;
use crate::artifacts::keys::{self, Owner};
use crate::dataset_cache::LocalCopy;
use crate::db::queue::{self, Claim, FencingToken, ReportBatch, SavedCheckpoint};
use crate::db::{self, checkpoints};
use crate::protocol::{ErrorClass, Failure, Level, files};
use crate::spec::{DatasetDirectory, JobSpec, TeacherSource, TrainingPlan};
use crate::text::quoted;

/// How long the lock on the own directory may seem to be held after it was released: a child that another thread has
/// forked has a copy of every descriptor until it executes its program.
const OWN_LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// An attempt's directory, and the number of the attempt whose state is in it.
pub(super) struct Prepared {
    pub(super) directory: PathBuf,
    pub(super) resumes: Option<i32>,
    /// Held until the attempt ends, however its worker ends.
    pub(super) lock: std::fs::File,
    /// The copy of an uploaded data set, which is not removed while this is held.
    pub(super) dataset: Option<LocalCopy>,
    /// What users call the trainer's inputs.
    pub(super) names: FileNames,
}

/// Creates the directory and fills it.
///
/// # Errors
/// An input is missing or cannot be stored, which fails the attempt; or the job was lost, or is to stop.
pub(super) async fn prepare(
    context: &WorkerContext,
    claim: &Claim,
    record: &Recorder<'_>,
    drain: &CancellationToken,
) -> Result<Prepared, AttemptError> {
    remove(&context.settings, &claim.token).await;
    let directory = directory(&context.settings, &claim.token.job, &claim.token.name());
    let lock = lock_new(&directory).map_err(|error| storage(&directory, &error))?;
    let output = directory.join("output");
    tokio::fs::create_dir_all(output.join("state")).await.map_err(|error| storage(&output, &error))?;
    let dataset = match &claim.dataset_id {
        Some(id) => Some(uploads::fetch(context, id, record, drain).await?),
        None => None,
    };
    let dataset_path = match &dataset {
        Some(copy) => copy.path().to_owned(),
        None => own_directory(context, &claim.spec.dataset.location.name)?,
    };
    let mut names = FileNames::default();
    names.add(&directory, "the attempt's directory");
    names.add(&output, "output");
    names.add(&dataset_path, &claim.spec.dataset.location.name);
    let plan = localise(context, claim.spec.clone(), dataset_path, &directory, record, &mut names).await?;
    let path = directory.join("spec.json");
    // Fails if a path is not Unicode.
    let text = serde_json::to_vec_pretty(&plan).map_err(|error| internal(&format!("spec.json: {error}")))?;
    tokio::fs::write(&path, text).await.map_err(|error| storage(&path, &error))?;
    let resumes = match &claim.checkpoint {
        Some(saved) => restore(context, &claim.token, saved, &output, record).await?,
        None => None,
    };
    Ok(Prepared { directory, resumes, lock, dataset, names })
}

/// The data set of that name below `--datasets-dir`.
fn own_directory(context: &WorkerContext, name: &str) -> Result<PathBuf, Failure> {
    let path = context.settings.datasets_dir.join(name);
    if path.is_dir() {
        return Ok(path);
    }
    tracing::warn!(data_set = name, path = %path.display(), "is not a directory");
    let message = format!(
        "data set {name} is gone: this worker has no such directory below its --datasets-dir",
        name = quoted(name)
    );
    Err(Failure { class: ErrorClass::Machine, message })
}

fn directory(settings: &WorkerSettings, job: &str, attempt: &str) -> PathBuf {
    settings.work_dir.join(job).join(attempt)
}

/// An attempt's number and its claim, by the name of its directory. Programs without claims named it by the number.
fn parse(name: &str) -> Option<(i32, Option<&str>)> {
    match name.split_once('-') {
        Some((number, claim)) => Some((number.parse().ok()?, Some(claim))),
        None => Some((name.parse().ok()?, None)),
    }
}

/// The file in an attempt's directory that its worker locks. The kernel releases the lock when the worker ends.
const LOCK: &str = "lock";

/// Makes a directory and locks it.
fn lock_new(directory: &Path) -> std::io::Result<std::fs::File> {
    // A worker that starts may take the new directory for a leftover, and remove it before it is locked.
    for _ in 0..100 {
        std::fs::create_dir_all(directory)?;
        match lock(directory) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(std::io::Error::other("another process works in this directory"))
}

/// Locks a directory; none if a running worker has it. An error of kind `NotFound` if the directory is gone.
fn lock(directory: &Path) -> std::io::Result<Option<std::fs::File>> {
    let path = directory.join(LOCK);
    let file = std::fs::File::options().create(true).write(true).truncate(false).open(&path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
        Err(std::fs::TryLockError::Error(error)) => return Err(error),
    }
    // The directory may have been removed between the opening and the lock.
    let (locked, found) = (file.metadata()?, std::fs::metadata(&path)?);
    if (locked.dev(), locked.ino()) == (found.dev(), found.ino()) { Ok(Some(file)) } else { Ok(None) }
}

/// Removes the directories of an attempt and of earlier ones, whose results are in storage or lost. A later attempt, or
/// one that was given the same number, may run in another worker on this machine, so its directory stays.
pub(super) async fn remove(settings: &WorkerSettings, token: &FencingToken) {
    let own = token.name();
    for name in names(&settings.work_dir.join(&token.job)) {
        if name == own || parse(&name).is_some_and(|(number, _)| number < token.attempt) {
            let patience = if name == own { OWN_LOCK_PATIENCE } else { Duration::ZERO };
            remove_unless_used(&directory(settings, &token.job, &name), patience).await;
        }
    }
    // Fails if another attempt's directory is left.
    let _ = tokio::fs::remove_dir(settings.work_dir.join(&token.job)).await;
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Removes a directory unless a running worker has locked it. The database does not say so: workers of another one may
/// have the same data directory. Failures are logged: no attempt depends on the removal.
async fn remove_unless_used(directory: &Path, patience: Duration) {
    let deadline = Instant::now() + patience;
    let removed = loop {
        match lock(directory) {
            Ok(Some(_lock)) => break tokio::fs::remove_dir_all(directory).await,
            Ok(None) if Instant::now() >= deadline => return,
            Ok(None) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(error) => break Err(error),
        }
    };
    if let Err(error) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(directory = %directory.display(), %error, "cannot remove an attempt's directory");
    }
}

/// Removes what killed workers left on this machine: the directories of all attempts that hold no job now and that no
/// worker has locked.
pub(super) async fn remove_leftovers(context: &WorkerContext) {
    let work_dir = &context.settings.work_dir;
    // Listed before the query: an attempt claimed after it has a directory that is not in this list.
    let found: Vec<(String, Vec<String>)> =
        names(work_dir).into_iter().map(|job| (job.clone(), names(&work_dir.join(job)))).collect();
    if found.is_empty() {
        return;
    }
    let held = match queue::held(&context.pool).await {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(%error, "cannot find out which attempt directories are still needed");
            return;
        }
    };
    for (job, attempts) in found {
        for name in attempts {
            let Some((_, claim)) = parse(&name) else { continue };
            if !held.iter().any(|(other, holder)| *other == job && holder.as_deref() == claim) {
                remove_unless_used(&directory(&context.settings, &job, &name), Duration::ZERO).await;
            }
        }
        // Fails if an attempt's directory is left.
        let _ = tokio::fs::remove_dir(work_dir.join(job)).await;
    }
}

/// Fetches the files that the job refers to, and returns a plan with their local paths. `names` notes what is where.
async fn localise(
    context: &WorkerContext,
    spec: JobSpec,
    dataset_path: PathBuf,
    directory: &Path,
    record: &Recorder<'_>,
    names: &mut FileNames,
) -> Result<TrainingPlan, AttemptError> {
    let JobSpec { name, teacher, student, dataset, distillation, training, priority, max_attempts, labels } = spec;
    let teacher = match teacher {
        Some(teacher) => {
            let (file, network) = match &teacher.source {
                TeacherSource::Job(job) if teacher.architecture.is_none() => {
                    (student_of(record, job).await?, Some(network_of(record, job).await?))
                }
                TeacherSource::Job(job) => (student_of(record, job).await?, None),
                TeacherSource::Checkpoint(id) => (uploaded(record, id).await?, None),
            };
            let checkpoint = fetch(context, &file, directory.join("teacher"), names).await?;
            let network = match network {
                Some(network) => Some(fetch(context, &network, directory.join("teacher-network"), names).await?),
                None => None,
            };
            Some(teacher.plan(checkpoint, network).map_err(unknown_architecture)?)
        }
        None => None,
    };
    let first_weights = match &student.checkpoint {
        Some(id) => Some(fetch(context, &uploaded(record, id).await?, directory.join("student"), names).await?),
        None => None,
    };
    let student = student.plan(first_weights).map_err(unknown_architecture)?;
    let dataset = dataset.at(DatasetDirectory { name: None, path: dataset_path });
    Ok(TrainingPlan { name, teacher, student, dataset, distillation, training, priority, max_attempts, labels })
}

/// Happens if a server of another version accepted the job.
fn unknown_architecture(error: UnknownArchitecture) -> Failure {
    Failure { class: ErrorClass::User, message: error.to_string() }
}

/// A stored file: its key, its SHA-256, and what users call it.
struct InStorage {
    key: String,
    sha256: String,
    name: String,
    /// What the specification, or that of the job whose student it is, has for it.
    reference: String,
}

async fn student_of(record: &Recorder<'_>, job: &str) -> Result<InStorage, AttemptError> {
    match record.query(async |pool| db::artifacts::get(pool, job, files::BEST_STUDENT).await).await? {
        Some(artifact) => {
            let name = format!("{} of {job}", files::BEST_STUDENT);
            Ok(InStorage { key: artifact.key, sha256: artifact.sha256, reference: name.clone(), name })
        }
        None => Err(AttemptError::Failed(Failure {
            class: ErrorClass::User,
            message: format!("the teacher's job {job} no longer has a student: train it again, or upload a checkpoint"),
        })),
    }
}

/// The exported network that a job has trained: the file from which its student started.
async fn network_of(record: &Recorder<'_>, job: &str) -> Result<InStorage, AttemptError> {
    match record.query(async |pool| db::jobs::network_of(pool, job).await).await? {
        Some(checkpoint) => uploaded(record, &checkpoint).await,
        None => Err(AttemptError::Failed(Failure {
            class: ErrorClass::User,
            message: format!("the teacher's job {job} no longer has an exported network: upload a checkpoint"),
        })),
    }
}

async fn uploaded(record: &Recorder<'_>, id: &str) -> Result<InStorage, AttemptError> {
    match record.query(async |pool| checkpoints::stored_bytes(pool, id).await).await? {
        Some(stored) => {
            let known = record.query(async |pool| checkpoints::get(pool, id).await).await?;
            let given = known.and_then(|checkpoint| checkpoint.name);
            let name = given.map_or_else(|| id.to_owned(), |given| format!("{given} ({id})"));
            Ok(InStorage { key: stored.key, sha256: stored.sha256, name, reference: id.to_owned() })
        }
        None => Err(AttemptError::Failed(Failure {
            class: ErrorClass::User,
            message: format!("checkpoint {id} no longer exists: upload it again"),
        })),
    }
}

async fn fetch(
    context: &WorkerContext,
    file: &InStorage,
    path: PathBuf,
    names: &mut FileNames,
) -> Result<PathBuf, Failure> {
    let fetched = context.store.fetch_verified(&file.key, &path, &file.sha256).await;
    fetched.map_err(|error| storage_failure(&error))?;
    names.add_with_reference(&path, &file.name, &file.reference);
    Ok(path)
}

/// Puts the last checkpoint where the trainer looks for it, and returns the number of the attempt that wrote it. If it
/// is missing or damaged, the last other one in storage is used: a database that was restored from a backup names one
/// that a later one has replaced. Without any, training starts from the beginning; the job does not fail.
async fn restore(
    context: &WorkerContext,
    token: &FencingToken,
    saved: &SavedCheckpoint,
    output: &Path,
    record: &Recorder<'_>,
) -> Result<Option<i32>, AttemptError> {
    let state = output.join(files::CHECKPOINT);
    let fetched = match &saved.sha256 {
        Some(sha256) => context.store.fetch_verified(&saved.key, &state, sha256).await,
        None => context.store.fetch(&saved.key, &state).await.map(drop),
    };
    let key = match fetched {
        Ok(()) => Some(saved.key.clone()),
        Err(error @ (artifacts::Error::NotFound(_) | artifacts::Error::Damaged { .. })) => {
            let other = restore_other(context, &token.job, saved, &state).await?;
            let instead = match &other {
                Some((step, _)) => format!("training resumes from the one after step {step}, which is in storage"),
                None => "training starts from the beginning".to_owned(),
            };
            let message = format!("the checkpoint cannot be used, so {instead}: {error}");
            tracing::warn!(job = token.job, attempt = token.attempt, message);
            let batch = ReportBatch { logs: vec![(Level::Warning, message)], ..ReportBatch::default() };
            record.persist(async |pool, write| held(queue::record(pool, write, &batch).await)).await?;
            other.map(|(_, key)| key)
        }
        Err(error) => return Err(storage_failure(&error).into()),
    };
    let Some(Owner::Job { attempt, .. }) = key.as_deref().and_then(Owner::of) else { return Ok(None) };
    let metrics = format!("{attempt}/{}", files::METRICS);
    match context.store.fetch(&metrics, &output.join(files::METRICS)).await {
        Ok(_) | Err(artifacts::Error::NotFound(_)) => {}
        Err(error) => return Err(storage_failure(&error).into()),
    }
    let number = attempt.rsplit('/').next().and_then(parse).map(|(number, _)| number);
    Ok(Some(number.unwrap_or(saved.attempt)))
}

/// Fetches the job's state after the most steps, apart from the one that cannot be used. Returns its step and its key.
async fn restore_other(
    context: &WorkerContext,
    job: &str,
    unusable: &SavedCheckpoint,
    to: &Path,
) -> Result<Option<(u64, String)>, Failure> {
    let files = context.store.list_below(&keys::job(job)).await.map_err(|error| storage_failure(&error))?;
    let others = files.into_iter().map(|file| file.key).filter(|key| *key != unusable.key);
    let Some((step, key)) = others.filter_map(|key| Some((keys::step_of(&key)?, key))).max() else { return Ok(None) };
    match context.store.fetch(&key, to).await {
        Ok(_) => Ok(Some((step, key))),
        // Another attempt, which has lost the job, has just replaced it.
        Err(artifacts::Error::NotFound(_)) => Ok(None),
        Err(error) => Err(storage_failure(&error)),
    }
}

fn storage(path: &Path, error: &std::io::Error) -> Failure {
    Failure { class: ErrorClass::Machine, message: on_disk(path, error) }
}

fn internal(message: &str) -> Failure {
    Failure { class: ErrorClass::Internal, message: message.to_owned() }
}
