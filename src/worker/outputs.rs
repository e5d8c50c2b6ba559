//! Stores an attempt's files.

use std::path::Path;

use tokio::io::{AsyncBufReadExt, BufReader};

use super::WorkerContext;
use super::names::FileNames;
use crate::artifacts::{Error, keys};
use crate::db::artifacts::NewArtifact;
use crate::db::queue::{FencingToken, SavedCheckpoint};
use crate::protocol::{Point, files};

/// Stores the state to resume from, and the metrics up to it.
///
/// # Errors
/// A file cannot be read or stored.
pub(super) async fn save_checkpoint(
    context: &WorkerContext,
    token: &FencingToken,
    output: &Path,
    epoch: u32,
    step: u64,
) -> Result<SavedCheckpoint, Error> {
    // The state is useful only with all the points before it, so the metrics are stored first. The state file is
    // opened even earlier, because the trainer may replace it in the meantime.
    let path = output.join(files::CHECKPOINT);
    let opened = tokio::fs::File::open(&path).await;
    let state = opened.map_err(|source| Error::File { path: path.clone(), source })?;
    context
        .store
        .put_file(&keys::attempt_file(&token.job, &token.name(), files::METRICS), &output.join(files::METRICS))
        .await?;
    let key = keys::state(&token.job, &token.name(), step);
    let stored = context.store.put_open_file(&key, state, &path).await?;
    let (sha256, size_bytes) = (Some(stored.sha256), Some(stored.size_bytes));
    Ok(SavedCheckpoint { attempt: token.attempt, epoch, step, key, sha256, size_bytes })
}

/// The points of the attempt's metrics file from the step `known` to the step `until`, both inclusive. Empty if the
/// file cannot be read: training continues, with a gap in the charts.
pub(super) async fn points_between(output: &Path, known: u64, until: u64) -> Vec<Point> {
    let path = output.join(files::METRICS);
    let mut points = Vec::new();
    let Ok(file) = tokio::fs::File::open(&path).await else { return points };
    let mut lines = BufReader::new(file).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // The last line may be incomplete while the trainer writes it.
        let Ok(point) = serde_json::from_str::<Point>(&line) else { break };
        if point.step > until {
            break;
        }
        if point.step >= known {
            points.push(point);
        }
    }
    points
}

/// Removes the attempt's states except the one that the database refers to now.
pub(super) async fn forget_older(context: &WorkerContext, token: &FencingToken, saved: &SavedCheckpoint) {
    let states = keys::states(&token.job, &token.name());
    if let Err(error) = context.store.delete_below(&states, |key| key == saved.key).await {
        tracing::warn!(job = token.job, %error, "cannot remove an older checkpoint");
    }
}

/// Writes into the manifest what the job's specification names, in place of the paths of this machine. The trainer has
/// ended, so nobody else reads or writes the file.
async fn name_inputs(manifest: &Path, names: &FileNames) -> Result<(), Error> {
    let failed = |source| Error::File { path: manifest.to_owned(), source };
    let text = tokio::fs::read_to_string(manifest).await.map_err(failed)?;
    tokio::fs::write(manifest, names.in_place_of_strings(text)).await.map_err(failed)
}

/// Stores the results of a finished attempt.
///
/// # Errors
/// A file cannot be read or stored.
pub(super) async fn store(
    context: &WorkerContext,
    token: &FencingToken,
    output: &Path,
    names: &FileNames,
) -> Result<Vec<NewArtifact>, Error> {
    let mut artifacts = Vec::new();
    let optional = [
        files::REGIONS,
        files::BEFORE_LAST_EPOCH,
        files::SAMPLES,
        files::CLASSES,
        files::PREDICTIONS,
        files::PREDICTION_REPORT,
    ];
    let optional = optional.into_iter().filter(|name| output.join(name).exists());
    let always = [files::BEST_STUDENT, files::LAST_STUDENT, files::MANIFEST, files::METRICS];
    for name in always.into_iter().chain(optional) {
        if name == files::MANIFEST {
            name_inputs(&output.join(name), names).await?;
        }
        let key = keys::attempt_file(&token.job, &token.name(), name);
        let stored = context.store.put_file(&key, &output.join(name)).await?;
        artifacts.push(NewArtifact {
            name: name.to_owned(),
            key,
            size_bytes: stored.size_bytes,
            sha256: stored.sha256,
        });
    }
    Ok(artifacts)
}

/// Removes the job's files that are not published, mainly states to resume from.
pub(super) async fn tidy(context: &WorkerContext, job: &str, published: &[NewArtifact]) {
    let keep = |key: &str| published.iter().any(|artifact| artifact.key == key);
    if let Err(error) = context.store.delete_below(&keys::job(job), keep).await {
        tracing::warn!(job, %error, "cannot remove files that are no longer needed");
    }
}
