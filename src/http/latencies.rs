//! How long students take on this server's CPU: measured by `distillery measure` in a process of its own, one at a
//! time, once a job has succeeded, and before training where a request asks what an untrained network would take.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use distillery_core::export::EXIT_REFUSED;
use tokio::sync::Semaphore;

use super::AppState;
use super::error::ApiError;
use super::exports::{self, Ended, OUT_OF_MEMORY, StoredInput};
use super::workspace::Workspace;
use crate::db;
use crate::db::latencies::{self, Latency, NetworkKey};
use crate::onnx_runtime::{self, EXIT_NO_RUNTIME};
use crate::process;
use crate::protocol::files;

/// Pause between two searches for students that have not been measured.
const POLL: Duration = Duration::from_secs(5);
/// Pause before a failure that may be temporary is retried.
const RETRY: Duration = Duration::from_secs(60);
/// Failures in a row after which a student counts as one that cannot be measured.
const MOST_FAILURES: u32 = 3;
/// How long a request waits for an untrained network to be measured.
const REQUEST_PATIENCE: Duration = Duration::from_secs(20);
/// Untrained networks that are remembered.
const KEPT: usize = 64;

/// The measurements of this process.
#[derive(Debug)]
pub struct Latencies {
    turn: Semaphore,
    /// The latest last.
    untrained: Mutex<VecDeque<(NetworkKey, Latency)>>,
    /// Why nothing can be measured here; `None` if nothing is known to prevent it.
    missing: Mutex<Option<String>>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { turn: Semaphore::new(1), untrained: Mutex::default(), missing: Mutex::default() }
    }
}

impl Latencies {
    fn known(&self, network: &NetworkKey) -> Option<Latency> {
        let untrained = self.untrained.lock().unwrap_or_else(PoisonError::into_inner);
        untrained.iter().find(|(known, _)| known == network).map(|(_, latency)| latency.clone())
    }

    fn keep(&self, network: NetworkKey, latency: &Latency) {
        let mut untrained = self.untrained.lock().unwrap_or_else(PoisonError::into_inner);
        untrained.push_back((network, latency.clone()));
        while untrained.len() > KEPT {
            untrained.pop_front();
        }
    }
}

/// Why nothing is measured on this server; `None` if it measures.
pub fn missing(state: &AppState) -> Option<String> {
    if !state.settings.measure_latency {
        return Some("this server measures no latencies (--measure-latency)".to_owned());
    }
    state.latencies.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Why there is no latency.
enum MeasureFailure {
    /// Because of the network.
    Refused(String),
    /// ONNX Runtime is not here.
    NoRuntime(String),
    /// A later attempt may succeed.
    Passing(ApiError),
}

impl From<ApiError> for MeasureFailure {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Gone(detail) => Self::Refused(detail.into_owned()),
            other => Self::Passing(other),
        }
    }
}

impl From<anyhow::Error> for MeasureFailure {
    fn from(error: anyhow::Error) -> Self {
        Self::Passing(error.into())
    }
}

impl From<sqlx::Error> for MeasureFailure {
    fn from(error: sqlx::Error) -> Self {
        Self::Passing(error.into())
    }
}

/// Measures the students of finished jobs until the server stops, or ends early without ONNX Runtime.
pub async fn keep_up(state: AppState) {
    let stopping = state.stopping.clone();
    tokio::select! {
        () = stopping.cancelled() => {}
        () = measure_finished(&state) => {}
    }
}

async fn measure_finished(state: &AppState) {
    let mut failures = 0;
    while missing(state).is_none() {
        let pause = match measure_next(state, failures).await {
            Ok(true) => {
                failures = 0;
                Duration::ZERO
            }
            Ok(false) => POLL,
            Err(error) => {
                failures += 1;
                tracing::warn!(?error, "cannot measure a student; trying again");
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Measures a student, if one is left. `failures`: how often that has failed.
async fn measure_next(state: &AppState, failures: u32) -> Result<bool, ApiError> {
    let Some(job) = latencies::unmeasured(&state.pool).await? else { return Ok(false) };
    let measured = of_job(state, &job).await;
    let reason = match measured {
        Ok(latency) => {
            latencies::insert(&state.pool, &job, Ok(&latency)).await?;
            return Ok(true);
        }
        Err(MeasureFailure::NoRuntime(reason)) => {
            tracing::info!("students' latencies are not measured: {reason}");
            note_missing(state, reason);
            return Ok(false);
        }
        Err(MeasureFailure::Refused(reason)) => reason,
        Err(MeasureFailure::Passing(error)) if failures + 1 < MOST_FAILURES => return Err(error),
        Err(MeasureFailure::Passing(error)) => {
            tracing::warn!(job, ?error, "a student is not measured");
            "measuring it failed several times: the server's log has the reason".to_owned()
        }
    };
    latencies::insert(&state.pool, &job, Err(&reason)).await?;
    Ok(true)
}

fn note_missing(state: &AppState, reason: String) {
    *state.latencies.missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
}

async fn of_job(state: &AppState, id: &str) -> Result<Latency, MeasureFailure> {
    let gone = |what: &str| MeasureFailure::Refused(format!("{what} is gone"));
    let job = db::jobs::get(&state.pool, id).await?.ok_or_else(|| gone("the job"))?;
    let weights = db::artifacts::get(&state.pool, id, files::BEST_STUDENT).await?.ok_or_else(|| gone("its file"))?;
    let network = exports::network_of(state, &job).await?;
    let inputs = [("--student", Some(StoredInput::from(&weights))), ("--network", network)];
    measure(state, inputs, Vec::new()).await
}

/// What an untrained network would take, or why that is not known.
///
/// # Errors
/// The database or storage cannot be read.
pub async fn of_untrained(
    state: &AppState,
    network: &NetworkKey,
    classes: u32,
) -> Result<Result<Latency, String>, ApiError> {
    let known = latencies::of_network(&state.pool, network, &onnx_runtime::cpu()).await?;
    if let Some(known) = known.or_else(|| state.latencies.known(network)) {
        return Ok(Ok(known));
    }
    if let Some(reason) = missing(state) {
        return Ok(Err(reason));
    }
    let file = match &network.checkpoint {
        Some(checkpoint) if network.architecture.is_none() => {
            let stored = db::checkpoints::stored_bytes(&state.pool, checkpoint).await?;
            stored.map(|file| StoredInput { key: file.key, sha256: file.sha256 })
        }
        _ => None,
    };
    if network.architecture.is_none() && file.is_none() {
        return Ok(Err("the exported network is gone".to_owned()));
    }
    let mut flags = ["--seconds", "1"].map(str::to_owned).to_vec();
    if let Some(architecture) = &network.architecture {
        let (classes, side) = (classes.to_string(), network.image_size.to_string());
        let of_network = [("--architecture", architecture), ("--num-classes", &classes), ("--image-size", &side)];
        flags.extend(of_network.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).clone()]));
    }
    let measuring = measure(state, [("--network", file), ("--student", None)], flags);
    match tokio::time::timeout(REQUEST_PATIENCE, measuring).await {
        Ok(Ok(latency)) => {
            state.latencies.keep(network.clone(), &latency);
            Ok(Ok(latency))
        }
        Ok(Err(MeasureFailure::Refused(reason))) => Ok(Err(reason)),
        Ok(Err(MeasureFailure::NoRuntime(reason))) => {
            note_missing(state, reason.clone());
            Ok(Err(reason))
        }
        Ok(Err(MeasureFailure::Passing(error))) => Err(error),
        Err(_) => Ok(Err(format!("measuring it takes longer than {} s", REQUEST_PATIENCE.as_secs()))),
    }
}

/// Runs `distillery measure` on these files, once it is their turn.
async fn measure(
    state: &AppState,
    inputs: [(&str, Option<StoredInput>); 2],
    flags: Vec<String>,
) -> Result<Latency, MeasureFailure> {
    let _turn = state.latencies.turn.acquire().await.expect("nobody closes it");
    let _place = state.exports.turn().await;
    let workspace = Workspace::make(&state.settings.spool_dir).await?;
    let directory = workspace.files();
    let memory = state.settings.export_memory_mib;
    let mut command = process::command("KILL", &state.settings.program);
    command.arg("measure").arg("--onnxruntime").arg(&state.settings.onnxruntime);
    command.arg("--memory-mib").arg(memory.to_string()).args(flags);
    for (flag, input) in inputs {
        let Some(input) = input else { continue };
        let path = directory.join(flag.trim_start_matches('-'));
        exports::fetch(state, &input, &path).await?;
        command.arg(flag).arg(path);
    }
    let ended = exports::finish(command, &directory).await.map_err(ApiError::from)?;
    let Some(Ended { status, said, complaint }) = ended else {
        return Err(MeasureFailure::Refused("measuring it took too long".to_owned()));
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    match code {
        Some(0) => Ok(serde_json::from_str(&said).map_err(anyhow::Error::from)?),
        Some(EXIT_REFUSED) => Err(MeasureFailure::Refused(complaint)),
        Some(EXIT_NO_RUNTIME) => Err(MeasureFailure::NoRuntime(complaint)),
        _ if OUT_OF_MEMORY.iter().any(|words| complaint.contains(words)) => Err(MeasureFailure::Refused(format!(
            "measuring it takes more than the {memory} MiB of memory that this server gives it (--export-memory-mib)"
        ))),
        _ => Err(ApiError::Internal(anyhow::anyhow!("distillery measure: {status}: {complaint}")).into()),
    }
}
