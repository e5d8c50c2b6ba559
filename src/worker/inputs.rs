//! Lays out an attempt's directory: the specification with local paths, the teacher, what an earlier attempt left.
//!
//! ```text
//! <work>/<job>/<attempt>/spec.json, teacher, student, output/{state/checkpoint.safetensors, metrics.ndjson, …}
//! ```

use std::path::{Path, PathBuf};

use super::record::{AttemptError, Record, held};
use super::{Context, Settings};
use crate::architecture::UnknownArchitecture;
use crate::artifacts::{self, keys};
use crate::db::queue::{self, Batch, Claim, FencingToken, SavedCheckpoint};
use crate::db::{self, checkpoints};
use crate::protocol::{ErrorClass, Failure, Level, files};
use crate::spec::{DatasetDirectory, JobSpec, TeacherSource, TrainingPlan};

/// Creates the directory and returns its path.
///
/// # Errors
/// The failure of the attempt that it means, or that the job was lost meanwhile.
pub(super) async fn prepare(context: &Context, claim: &Claim, record: &Record<'_>) -> Result<PathBuf, AttemptError> {
    let FencingToken { job, attempt, .. } = &claim.token;
    remove(&context.settings, job, *attempt).await;
    let directory = directory(&context.settings, job, *attempt);
    let output = directory.join("output");
    tokio::fs::create_dir_all(output.join("state")).await.map_err(|error| storage(&output, &error))?;
    let plan = localise(context, claim.spec.clone(), &directory, record).await?;
    let path = directory.join("spec.json");
    // Paths are JSON where they are Unicode.
    let text = serde_json::to_vec_pretty(&plan).map_err(|error| internal(&format!("{}: {error}", path.display())))?;
    tokio::fs::write(&path, text).await.map_err(|error| storage(&path, &error))?;
    if let Some(saved) = &claim.checkpoint {
        restore(context, &claim.token, saved, &output, record).await?;
    }
    Ok(directory)
}

fn directory(settings: &Settings, job: &str, attempt: i32) -> PathBuf {
    settings.work_dir.join(job).join(attempt.to_string())
}

/// Removes the directory of an attempt, and those that earlier ones left: what they had is in storage, or lost. A later
/// attempt, by another worker of this machine, keeps its own. What cannot be removed is in nobody's way.
pub(super) async fn remove(settings: &Settings, job: &str, attempt: i32) {
    for attempt in 1..=attempt {
        let directory = directory(settings, job, attempt);
        if let Err(error) = tokio::fs::remove_dir_all(&directory).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %directory.display(), %error, "cannot remove an attempt's directory");
        }
    }
    // Fails where another attempt's is left.
    let _ = tokio::fs::remove_dir(settings.work_dir.join(job)).await;
}

/// Removes what workers of this machine left that were killed: every attempt's directory but of those held now.
pub(super) async fn remove_leftovers(context: &Context) {
    // Found first: whatever is claimed after that has a directory that is not among these.
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
        Err(error) => tracing::warn!(%error, "cannot tell which directories of attempts are not needed any more"),
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

/// Fetches what the job names, and says what to train with the local files.
async fn localise(
    context: &Context,
    spec: JobSpec,
    directory: &Path,
    record: &Record<'_>,
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
            Some(teacher.plan(fetch(context, &file, directory.join("teacher")).await?).map_err(unknown)?)
        }
        None => None,
    };
    let first_weights = match &student.checkpoint {
        Some(id) => Some(fetch(context, &uploaded(record, id).await?, directory.join("student")).await?),
        None => None,
    };
    let student = student.plan(first_weights).map_err(unknown)?;
    let dataset = dataset.at(DatasetDirectory { name: None, path });
    Ok(TrainingPlan { name, teacher, student, dataset, distillation, training, priority, max_attempts, labels })
}

/// A server of another version took the job.
fn unknown(error: UnknownArchitecture) -> Failure {
    Failure { class: ErrorClass::User, message: error.to_string() }
}

/// A stored file: its key and its SHA-256.
struct InStorage {
    key: String,
    sha256: String,
}

async fn student_of(record: &Record<'_>, job: &str) -> Result<InStorage, AttemptError> {
    match record.ask(async |pool| db::artifacts::get(pool, job, files::BEST_STUDENT).await).await? {
        Some(artifact) => Ok(InStorage { key: artifact.key, sha256: artifact.sha256 }),
        None => Err(AttemptError::Failed(Failure {
            class: ErrorClass::User,
            message: format!("the teacher's job {job} has no student any more: train it again, or upload a checkpoint"),
        })),
    }
}

async fn uploaded(record: &Record<'_>, id: &str) -> Result<InStorage, AttemptError> {
    match record.ask(async |pool| checkpoints::sha256_of(pool, id).await).await? {
        Some(sha256) => Ok(InStorage { key: keys::checkpoint(&sha256), sha256 }),
        None => Err(AttemptError::Failed(Failure {
            class: ErrorClass::User,
            message: format!("checkpoint {id} is not there any more: upload it again"),
        })),
    }
}

async fn fetch(context: &Context, file: &InStorage, path: PathBuf) -> Result<PathBuf, Failure> {
    let fetched = context.store.fetch_verified(&file.key, &path, &file.sha256).await;
    fetched.map_err(|error| of_storage(&error))?;
    Ok(path)
}

/// Puts the last checkpoint where the trainer looks for it. One that has gone missing or was damaged costs time, not
/// the job.
async fn restore(
    context: &Context,
    token: &FencingToken,
    saved: &SavedCheckpoint,
    output: &Path,
    record: &Record<'_>,
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
            let batch = Batch { logs: vec![(Level::Warning, message)], ..Batch::default() };
            return record.persist(async |pool, write| held(queue::record(pool, write, &batch).await)).await;
        }
        Err(error) => return Err(of_storage(&error).into()),
    }
    let metrics = keys::attempt_file(&token.job, saved.attempt, files::METRICS);
    match context.store.fetch(&metrics, &output.join(files::METRICS)).await {
        Ok(_) | Err(artifacts::Error::NotFound(_)) => Ok(()),
        Err(error) => Err(of_storage(&error).into()),
    }
}

fn storage(path: &Path, error: &std::io::Error) -> Failure {
    Failure { class: ErrorClass::Storage, message: format!("cannot write {}: {error}", path.display()) }
}

/// A failure of storage, as that of an attempt.
pub(super) fn of_storage(error: &artifacts::Error) -> Failure {
    Failure { class: ErrorClass::Storage, message: error.to_string() }
}

fn internal(message: &str) -> Failure {
    Failure { class: ErrorClass::Internal, message: message.to_owned() }
}
