//! Prepares an attempt's directory: the specification with local paths, the teacher, and the checkpoint of an earlier
//! attempt.
//!
//! ```text
//! <work>/<job>/<attempt>/spec.json, teacher, student, output/{state/checkpoint.safetensors, metrics.ndjson, …}
//! ```

use std::path::{Path, PathBuf};

use super::record::{AttemptError, Recorder, held};
use super::{WorkerContext, WorkerSettings};
use crate::architecture::UnknownArchitecture;
use crate::artifacts::{self, keys};
use crate::db::queue::{self, Claim, FencingToken, ReportBatch, SavedCheckpoint};
use crate::db::{self, checkpoints};
use crate::protocol::{ErrorClass, Failure, Level, files};
use crate::spec::{DatasetDirectory, JobSpec, TeacherSource, TrainingPlan};

/// Creates the directory and returns its path.
///
/// # Errors
/// An input is missing or cannot be stored, which fails the attempt; or the job was lost.
pub(super) async fn prepare(
    context: &WorkerContext,
    claim: &Claim,
    record: &Recorder<'_>,
) -> Result<PathBuf, AttemptError> {
    let FencingToken { job, attempt, .. } = &claim.token;
    remove(&context.settings, job, *attempt).await;
    let directory = directory(&context.settings, job, *attempt);
    let output = directory.join("output");
    tokio::fs::create_dir_all(output.join("state")).await.map_err(|error| storage(&output, &error))?;
    let plan = localise(context, claim.spec.clone(), &directory, record).await?;
    let path = directory.join("spec.json");
    // Fails if a path is not Unicode.
    let text = serde_json::to_vec_pretty(&plan).map_err(|error| internal(&format!("{}: {error}", path.display())))?;
    tokio::fs::write(&path, text).await.map_err(|error| storage(&path, &error))?;
    if let Some(saved) = &claim.checkpoint {
        restore(context, &claim.token, saved, &output, record).await?;
    }
    Ok(directory)
}

fn directory(settings: &WorkerSettings, job: &str, attempt: i32) -> PathBuf {
    settings.work_dir.join(job).join(attempt.to_string())
}

/// Removes the directories of an attempt and of earlier ones, whose results are in storage or lost. A later attempt may
/// already run in another worker on this machine, so its directory stays. Failures are logged: no attempt depends on
/// the removal.
pub(super) async fn remove(settings: &WorkerSettings, job: &str, attempt: i32) {
    for attempt in 1..=attempt {
        let directory = directory(settings, job, attempt);
        if let Err(error) = tokio::fs::remove_dir_all(&directory).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %directory.display(), %error, "cannot remove an attempt's directory");
        }
    }
    // Fails if another attempt's directory is left.
    let _ = tokio::fs::remove_dir(settings.work_dir.join(job)).await;
}

/// Removes what killed workers left on this machine: the directories of all attempts that hold no job now.
pub(super) async fn remove_leftovers(context: &WorkerContext) {
    // Listed before the query: an attempt claimed after it has a directory that is not in this list.
    let found = attempts_below(&context.settings.work_dir);
    if found.is_empty() {
        return;
    }
    match queue::held_attempts(&context.pool).await {
        Ok(held) => {
            for (job, attempt) in found.into_iter().filter(|attempt| !held.contains(attempt)) {
                remove(&context.settings, &job, attempt).await;
            }
        }
        Err(error) => tracing::warn!(%error, "cannot find out which attempt directories are still needed"),
    }
}

fn attempts_below(work_dir: &Path) -> Vec<(String, i32)> {
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let attempts_of = |job: String| {
        let attempts = names(&work_dir.join(&job)).into_iter().filter_map(|attempt| attempt.parse().ok());
        attempts.map(move |attempt| (job.clone(), attempt)).collect::<Vec<_>>()
    };
    names(work_dir).into_iter().flat_map(attempts_of).collect()
}

/// Fetches the files that the job refers to, and returns a plan with their local paths.
async fn localise(
    context: &WorkerContext,
    spec: JobSpec,
    directory: &Path,
    record: &Recorder<'_>,
) -> Result<TrainingPlan, AttemptError> {
    let JobSpec { name, teacher, student, dataset, distillation, training, priority, max_attempts, labels } = spec;
    let path = context.settings.datasets_dir.join(&dataset.place.name);
    if !path.is_dir() {
        return Err(AttemptError::Failed(Failure {
            class: ErrorClass::User,
            message: format!(
                "data set {:?} no longer exists: {} is not a directory on this worker. Put it back and retry",
                dataset.place.name,
                path.display()
            ),
        }));
    }
    let teacher = match teacher {
        Some(teacher) => {
            let file = match &teacher.source {
                TeacherSource::Job(job) => student_of(record, job).await?,
                TeacherSource::Checkpoint(id) => uploaded(record, id).await?,
            };
            Some(teacher.plan(fetch(context, &file, directory.join("teacher")).await?).map_err(unknown_architecture)?)
        }
        None => None,
    };
    let first_weights = match &student.checkpoint {
        Some(id) => Some(fetch(context, &uploaded(record, id).await?, directory.join("student")).await?),
        None => None,
    };
    let student = student.plan(first_weights).map_err(unknown_architecture)?;
    let dataset = dataset.at(DatasetDirectory { name: None, path });
    Ok(TrainingPlan { name, teacher, student, dataset, distillation, training, priority, max_attempts, labels })
}

/// Happens if a server of another version accepted the job.
fn unknown_architecture(error: UnknownArchitecture) -> Failure {
    Failure { class: ErrorClass::User, message: error.to_string() }
}

/// A stored file: its key and its SHA-256.
struct InStorage {
    key: String,
    sha256: String,
}

async fn student_of(record: &Recorder<'_>, job: &str) -> Result<InStorage, AttemptError> {
    match record.ask(async |pool| db::artifacts::get(pool, job, files::BEST_STUDENT).await).await? {
        Some(artifact) => Ok(InStorage { key: artifact.key, sha256: artifact.sha256 }),
        None => Err(AttemptError::Failed(Failure {
            class: ErrorClass::User,
            message: format!("the teacher's job {job} no longer has a student: train it again, or upload a checkpoint"),
        })),
    }
}

async fn uploaded(record: &Recorder<'_>, id: &str) -> Result<InStorage, AttemptError> {
    match record.ask(async |pool| checkpoints::sha256_of(pool, id).await).await? {
        Some(sha256) => Ok(InStorage { key: keys::checkpoint(&sha256), sha256 }),
        None => Err(AttemptError::Failed(Failure {
            class: ErrorClass::User,
            message: format!("checkpoint {id} no longer exists: upload it again"),
        })),
    }
}

async fn fetch(context: &WorkerContext, file: &InStorage, path: PathBuf) -> Result<PathBuf, Failure> {
    let fetched = context.store.fetch_verified(&file.key, &path, &file.sha256).await;
    fetched.map_err(|error| storage_failure(&error))?;
    Ok(path)
}

/// Puts the last checkpoint where the trainer looks for it. If it is missing or damaged, training starts from the
/// beginning; the job does not fail.
async fn restore(
    context: &WorkerContext,
    token: &FencingToken,
    saved: &SavedCheckpoint,
    output: &Path,
    record: &Recorder<'_>,
) -> Result<(), AttemptError> {
    let state = output.join(files::CHECKPOINT);
    let fetched = match &saved.sha256 {
        Some(sha256) => context.store.fetch_verified(&saved.key, &state, sha256).await,
        None => context.store.fetch(&saved.key, &state).await.map(drop),
    };
    match fetched {
        Ok(()) => {}
        Err(error @ (artifacts::Error::NotFound(_) | artifacts::Error::Damaged { .. })) => {
            let message = format!("the checkpoint cannot be used, so training starts from the beginning: {error}");
            tracing::warn!(job = token.job, attempt = token.attempt, message);
            let batch = ReportBatch { logs: vec![(Level::Warning, message)], ..ReportBatch::default() };
            return record.persist(async |pool, write| held(queue::record(pool, write, &batch).await)).await;
        }
        Err(error) => return Err(storage_failure(&error).into()),
    }
    let metrics = keys::attempt_file(&token.job, saved.attempt, files::METRICS);
    match context.store.fetch(&metrics, &output.join(files::METRICS)).await {
        Ok(_) | Err(artifacts::Error::NotFound(_)) => Ok(()),
        Err(error) => Err(storage_failure(&error).into()),
    }
}

fn storage(path: &Path, error: &std::io::Error) -> Failure {
    Failure { class: ErrorClass::Storage, message: format!("cannot write {}: {error}", path.display()) }
}

pub(super) fn storage_failure(error: &artifacts::Error) -> Failure {
    Failure { class: ErrorClass::Storage, message: error.to_string() }
}

fn internal(message: &str) -> Failure {
    Failure { class: ErrorClass::Internal, message: message.to_owned() }
}
