//! Students in other formats, written on request by `distillery export` in a process of its own.
//!
//! A few at a time: each takes a processor and room for two copies of a student. The last ones are kept, so that a
//! download that was interrupted goes on with the same bytes; equal requests give equal bytes in any case.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use distillery_core::export::{EXIT_REFUSED, ExportFormat};
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::AppState;
use super::error::ApiError;
use super::workspace::Workspace;
use crate::artifacts;
use crate::db::artifacts::Artifact;
use crate::db::checkpoints;
use crate::db::jobs::Job;
use crate::process;

/// Most exports that are written simultaneously. Further ones wait.
const TURNS: usize = 2;
/// How long a request waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(60);
/// How long writing and checking may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Most files that are kept.
const KEPT: usize = 4;
/// Most bytes that are read of what the process says.
const LONGEST_ANSWER: u64 = 1 << 20;

/// What is wanted. Equal requests give equal files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRequest {
    pub format: ExportFormat,
    pub preprocess: bool,
    /// The formats in a bundle; empty for the usual ones.
    pub with: Vec<ExportFormat>,
    /// The title of a bundle's model card.
    pub title: String,
    /// Bundle: the name of an exported teacher.
    pub teacher: Option<String>,
    /// Bundle: the name of the exported network that the student was trained as.
    pub network_name: Option<String>,
    pub student: StoredInput,
    /// Whether the student is the one after the last epoch.
    pub is_last: bool,
    /// The exported network that the student was trained as.
    pub network: Option<StoredInput>,
    pub manifest: Option<StoredInput>,
    /// Images and logits to compare with.
    pub samples: Option<StoredInput>,
}

/// A file in storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredInput {
    pub key: String,
    pub sha256: String,
}

impl From<&Artifact> for StoredInput {
    fn from(artifact: &Artifact) -> Self {
        Self { key: artifact.key.clone(), sha256: artifact.sha256.clone() }
    }
}

/// The exported network that a job's student was trained as; `None` if it is one of this program's.
pub async fn network_of(state: &AppState, job: &Job) -> Result<Option<StoredInput>, ApiError> {
    let student = &job.spec["student"];
    let (None, Some(checkpoint)) = (student["architecture"].as_str(), student["checkpoint"].as_str()) else {
        return Ok(None);
    };
    let Some(file) = checkpoints::stored_bytes(&state.pool, checkpoint).await? else {
        return Err(ApiError::Gone(
            format!(
                "the student's graph is in the exported network {checkpoint}, which was deleted: upload the file again, or \
                 take the student as safetensors"
            )
            .into(),
        ));
    };
    Ok(Some(StoredInput { key: file.key, sha256: file.sha256 }))
}

/// An exported student. The file is unlinked, so that nothing of it is left behind.
#[derive(Debug)]
pub struct ExportedStudent {
    pub file: Arc<File>,
    /// In bytes.
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
    /// How the file was checked.
    pub report: Value,
}

/// The exports of this process.
#[derive(Debug)]
pub struct Exports {
    turns: Semaphore,
    /// The latest last.
    recent: Mutex<VecDeque<(ExportRequest, Arc<ExportedStudent>)>>,
}

impl Default for Exports {
    fn default() -> Self {
        Self { turns: Semaphore::new(TURNS), recent: Mutex::default() }
    }
}

impl Exports {
    /// Waits for a place among the processes that may run simultaneously, for one that needs as much memory as an
    /// export.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        self.turns.acquire().await.expect("nobody closes it")
    }

    fn known(&self, request: &ExportRequest) -> Option<Arc<ExportedStudent>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|(known, _)| known == request).map(|(_, exported)| exported.clone())
    }

    fn keep(&self, request: ExportRequest, exported: &Arc<ExportedStudent>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((request, exported.clone()));
        while recent.len() > KEPT {
            recent.pop_front();
        }
    }
}

/// The exported student: one that was written before, or a new one.
///
/// # Errors
/// The student has no such form or its logits differ too much, its files are gone, or too much else is being written.
pub async fn export(state: &AppState, request: ExportRequest) -> Result<Arc<ExportedStudent>, ApiError> {
    if let Some(known) = state.exports.known(&request) {
        return Ok(known);
    }
    let turn = tokio::time::timeout(TURN_PATIENCE, state.exports.turns.acquire()).await;
    let _turn = turn
        .map_err(|_| ApiError::Unavailable("too many students are being exported: try again".into()))?
        .expect("nobody closes it");
    // Another request may have written it in the meantime.
    if let Some(known) = state.exports.known(&request) {
        return Ok(known);
    }
    let exported = Arc::new(write(state, &request).await?);
    state.exports.keep(request, &exported);
    Ok(exported)
}

async fn write(state: &AppState, request: &ExportRequest) -> Result<ExportedStudent, ApiError> {
    let workspace = Workspace::make(&state.settings.spool_dir).await?;
    let directory = workspace.files();
    let output = directory.join("exported");
    let mut command = process::command("KILL", &state.settings.program);
    command.arg("export").arg("--format").arg(request.format.name()).arg("--output").arg(&output);
    command.arg("--title").arg(&request.title).arg("--onnxruntime").arg(&state.settings.onnxruntime);
    command.args(request.teacher.iter().map(|name| format!("--teacher-name={name}")));
    command.args(request.network_name.iter().map(|name| format!("--network-name={name}")));
    let memory = state.settings.export_memory_mib;
    command.arg("--memory-mib").arg(memory.to_string());
    command.args(request.is_last.then_some("--last"));
    command.args(request.preprocess.then_some("--preprocess"));
    command.args(request.with.iter().flat_map(|format| ["--with", format.name()]));
    let inputs = [
        ("--student", "student.safetensors", Some(&request.student)),
        ("--network", "network.pt2", request.network.as_ref()),
        ("--manifest", "manifest.json", request.manifest.as_ref()),
        ("--samples", "samples.safetensors", request.samples.as_ref()),
    ];
    for (flag, name, input) in inputs {
        let Some(input) = input else { continue };
        let path = directory.join(name);
        fetch(state, input, &path).await?;
        command.arg(flag).arg(path);
    }
    let report = run(command, &directory, memory).await?;
    let file = Arc::new(tokio::fs::File::open(&output).await?.into_std().await);
    let text = |key: &str| report[key].as_str().map(str::to_owned);
    let (Some(size), Some(sha256)) = (report["size_bytes"].as_u64(), text("sha256")) else {
        return Err(ApiError::Internal(anyhow::anyhow!("distillery export reports no size and hash: {report}")));
    };
    Ok(ExportedStudent { file, size, sha256, report })
}

pub(super) async fn fetch(state: &AppState, input: &StoredInput, path: &Path) -> Result<(), ApiError> {
    match state.artifacts.fetch_verified(&input.key, path, &input.sha256).await {
        Ok(()) => Ok(()),
        Err(error @ (artifacts::Error::NotFound(_) | artifacts::Error::Damaged { .. })) => {
            tracing::error!(%error, "a file that an export needs is gone or damaged");
            Err(ApiError::Gone(
                "a file of the student is gone from storage or damaged there: something other than this program removed or \
                 changed it. Ask the operator to put it back from a backup"
                    .into(),
            ))
        }
        Err(error) => Err(error.into()),
    }
}

/// How a command ended, and what it said on standard output and standard error.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) said: String,
    pub(super) complaint: String,
}

/// Runs a command with pipes to its end; `None` if that takes longer than [`PATIENCE`]. Its temporary files are in
/// `scratch`, since it may be killed before it removes them.
pub(super) async fn finish(mut command: std::process::Command, scratch: &Path) -> std::io::Result<Option<Ended>> {
    // The process does not see the server's secrets.
    let kept = ["PATH", "LD_LIBRARY_PATH"].map(|name| (name, std::env::var_os(name)));
    command.env_clear().envs(kept.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))));
    command.env("TMPDIR", scratch);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running(process::spawn(command)?);
    let stdout = running.0.stdout.take().map(ChildStdout::from_std).transpose()?;
    let stderr = running.0.stderr.take().map(ChildStderr::from_std).transpose()?;
    let answered = async { tokio::join!(text(stdout), text(stderr), running.0.wait()) };
    let ended = tokio::time::timeout(PATIENCE, answered).await.ok();
    Ok(ended.map(|(said, complaint, status)| Ended {
        status,
        said,
        complaint: complaint.trim().trim_start_matches("distillery: ").to_owned(),
    }))
}

/// Ends a process that nobody waits for any more.
struct Running(process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.exit_status().is_none() {
            self.0.signal(Signal::KILL);
        }
    }
}

/// What the process and ONNX Runtime say when they run out of memory.
pub(super) const OUT_OF_MEMORY: [&str; 4] =
    ["memory allocation of", "bad_alloc", "Failed to allocate memory", "Cannot allocate memory"];

/// Runs the command, and returns the report that it prints. `memory`: its limit in MiB.
async fn run(command: std::process::Command, scratch: &Path, memory: u64) -> Result<Value, ApiError> {
    let Some(Ended { status, said, complaint }) = finish(command, scratch).await? else {
        return Err(ApiError::Unavailable("exporting the student took too long: try again".into()));
    };
    if status.success() {
        return Ok(serde_json::from_str(&said).map_err(anyhow::Error::from)?);
    }
    if status.code() == Some(EXIT_REFUSED.into()) {
        return Err(ApiError::invalid(format!("the student cannot be exported: {complaint}")));
    }
    if OUT_OF_MEMORY.iter().any(|words| complaint.contains(words)) {
        tracing::warn!(%status, complaint, "an export needs more memory than it may have");
        return Err(ApiError::invalid(format!(
            "the student cannot be exported: that takes more than the {memory} MiB of memory that this server gives it \
             (--export-memory-mib). Take the student as safetensors, and export it with `distillery export`"
        )));
    }
    Err(ApiError::Internal(anyhow::anyhow!("distillery export: {status}: {complaint}")))
}

async fn text(source: Option<impl AsyncRead + Unpin>) -> String {
    let mut text = Vec::new();
    if let Some(source) = source {
        // A failure here shows in the exit status, or as JSON that ends early.
        let _ = source.take(LONGEST_ANSWER).read_to_end(&mut text).await;
    }
    String::from_utf8_lossy(&text).into_owned()
}
