//! The trainer process of an attempt: starts it, reads its events and sends it stop requests.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::WorkerSettings;
use crate::db::LONGEST_MESSAGE;
use crate::process::{self, Child};
use crate::protocol::{Event, StopRequest, probe_answer};
use crate::text::shortened;

/// Longest event that a trainer may write, in bytes. A batch of points takes a few kilobytes.
const LONGEST_LINE: usize = 1 << 20;
/// Events that may wait for the database before the trainer itself has to wait. It writes a few per second.
const BACKLOG: usize = 4096;
/// Number of last lines of standard error kept for an error message.
const KEPT_LINES: usize = 20;
/// Bytes kept of each of these lines.
const LONGEST_KEPT: usize = 1000;

/// How long a trainer may take to start and open the devices. The first use of a GPU can take many seconds.
const PROBE_PATIENCE: Duration = Duration::from_secs(120);

/// The environment variables passed to the trainer: where to find programs, libraries and GPUs, how many threads to
/// use, how to use a GPU, and whether to keep images. The database's address and credentials are not passed. Whole
/// names, because others start with these: `LANGSMITH_API_KEY`, `HOMEBREW_GITHUB_API_TOKEN`, `NVIDIA_API_KEY`.
const ENVIRONMENT: [&str; 13] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LD_LIBRARY_PATH",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_TF32_OVERRIDE",
    "NVIDIA_VISIBLE_DEVICES",
    "RUST_BACKTRACE",
    "DISTILLERY_THREADS",
    "DISTILLERY_OWN_KERNELS",
    "DISTILLERY_NO_CUDA_GRAPHS",
    "DISTILLERY_NO_SAMPLES",
];

/// Libraries with many settings of their own, by the prefix of their names.
const LIBRARIES: [&str; 9] =
    ["CUBLAS_", "CUDA_", "CUDNN_", "MKL_", "NCCL_", "OMP_", "PYTORCH_", "TORCH_CUDNN_", "TORCH_NCCL_"];

/// What no setting of a library has in its name, and many a secret has.
const SECRET: [&str; 6] = ["KEY", "TOKEN", "SECRET", "PASS", "CREDENTIAL", "AUTH"];

/// Whether an environment variable is passed to the trainer.
fn is_passed(name: &str) -> bool {
    let of_library = LIBRARIES.iter().any(|prefix| name.starts_with(prefix));
    ENVIRONMENT.contains(&name) || (of_library && !SECRET.iter().any(|word| name.contains(word)))
}

/// Path of the trainer's executable: the given one, or `distillery-trainer` in this executable's directory.
///
/// # Errors
/// The file does not exist.
pub fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(program) => program.to_owned(),
        None => std::env::current_exe()
            .context("cannot find the path of this executable")?
            .with_file_name("distillery-trainer"),
    };
    anyhow::ensure!(
        program.is_file(),
        "there is no trainer at {}: build it with `cargo build -p distillery-trainer`, or pass the path of one with \
         --trainer",
        program.display()
    );
    Ok(program)
}

/// What decides how CUDA numbers GPUs. Without it the fastest is `cuda:0`, where the driver, and with it the usage that
/// [`monitor`](super::monitor) reads, counts by their places on the bus.
const DEVICE_ORDER: (&str, &str) = ("CUDA_DEVICE_ORDER", "PCI_BUS_ID");

fn clean_environment(command: &mut std::process::Command) {
    let (name, order) = DEVICE_ORDER;
    // One that is set replaces it.
    command.env_clear().env(name, order);
    command.envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_passed)));
}

/// Starts the trainer to see whether it can open and use these devices, with commas between them.
///
/// # Errors
/// Why it cannot, for people.
pub(super) async fn probe(program: &Path, devices: &str) -> Result<(), String> {
    let mut command = process::command("KILL", program);
    command.args(["probe", "--device", devices]);
    clean_environment(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = process::spawn(command).map_err(|error| format!("it cannot be started: {error}"))?;
    let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let answer = tokio::spawn(last_lines(ChildStdout::from_std(stdout).map_err(|error| error.to_string())?));
    let errors = tokio::spawn(last_lines(ChildStderr::from_std(stderr).map_err(|error| error.to_string())?));
    let Ok(status) = tokio::time::timeout(PROBE_PATIENCE, child.wait()).await else {
        child.signal(rustix::process::Signal::KILL);
        return Err(format!("it does not answer within {} seconds", PROBE_PATIENCE.as_secs()));
    };
    if status.success() {
        let answer = tokio::time::timeout(PROBE_PATIENCE, answer).await.ok().and_then(Result::ok).unwrap_or_default();
        return if answer.lines().any(|line| line == probe_answer(devices)) {
            Ok(())
        } else {
            tracing::error!(program = %program.display(), "this is no distillery-trainer of this version");
            Err("it is no distillery-trainer of this version, since its answer is not the expected one: check --trainer"
                .to_owned())
        };
    }
    let said = errors.await.unwrap_or_default();
    let said = said.lines().last().unwrap_or_default();
    let end = process::describe(status);
    Err(if said.is_empty() { format!("it {end}") } else { format!("it {end}: {said}") })
}

/// What a trainer is told about its run beside the specification.
#[derive(Debug, Clone, Copy)]
pub(super) struct TrainerRun<'a> {
    /// Number of the attempt.
    pub(super) attempt: i32,
    /// Epochs after which it stops as if paused; `None` to train to the end.
    pub(super) pause_after: Option<i32>,
    /// Scales of the other jobs of its sweep, for which it keeps the teacher's logits as well.
    pub(super) cache_scales: &'a [i32],
}

#[derive(Debug)]
pub(super) struct Trainer {
    pub(super) child: Child,
    /// Its events; the channel closes when its standard output does.
    pub(super) events: mpsc::Receiver<Event>,
    commands: ChildStdin,
    errors: JoinHandle<String>,
}

impl Trainer {
    /// Starts a trainer with `directory/spec.json` on these devices. It writes to `directory/output`.
    ///
    /// # Errors
    /// The executable cannot be started.
    pub(super) fn start(
        settings: &WorkerSettings,
        directory: &Path,
        devices: &[String],
        TrainerRun { attempt, pause_after, cache_scales }: TrainerRun<'_>,
    ) -> anyhow::Result<Self> {
        let WorkerSettings { trainer: program, cache_dir, cache_mib, follow_links, .. } = settings;
        let mut command = process::command("KILL", program);
        command.arg("train").arg(directory.join("spec.json")).arg("--output").arg(directory.join("output"));
        command.args(["--events", "--supervised", "--device", &devices.join(","), "--attempt", &attempt.to_string()]);
        if let Some(threads) = threads_of(devices.len(), &settings.devices) {
            command.args(["--threads", &threads.to_string()]);
        }
        if let Some(epochs) = pause_after {
            command.args(["--pause-after", &epochs.to_string()]);
        }
        if *follow_links {
            command.arg("--follow-links");
        }
        if *cache_mib > 0 {
            command.arg("--cache-dir").arg(cache_dir).args(["--cache-mib", &cache_mib.to_string()]);
            if !cache_scales.is_empty() {
                let scales: Vec<String> = cache_scales.iter().map(i32::to_string).collect();
                command.args(["--cache-scales", &scales.join(",")]);
            }
        }
        clean_environment(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            process::spawn(command).with_context(|| format!("cannot start the trainer {}", program.display()))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let commands = ChildStdin::from_std(stdin.expect("piped"))?;
        let output = ChildStdout::from_std(stdout.expect("piped"))?;
        let errors = ChildStderr::from_std(stderr.expect("piped"))?;
        let (report, events) = mpsc::channel(BACKLOG);
        tokio::spawn(read_events(output, report));
        Ok(Self { child, events, commands, errors: tokio::spawn(last_lines(errors)) })
    }

    /// Asks the trainer to stop. It is not an error if it has just ended.
    pub(super) async fn request_stop(&mut self, request: StopRequest) {
        let mut line = serde_json::to_string(&request).expect("a request is JSON");
        line.push('\n');
        if let Err(error) = self.commands.write_all(line.as_bytes()).await {
            tracing::debug!(%error, "the trainer no longer reads requests");
        }
    }

    /// Waits for the end of its standard error, and returns the last lines.
    pub(super) async fn last_words(self) -> String {
        self.errors.await.unwrap_or_default()
    }
}

/// Number of threads for a trainer with `count` of a worker's devices; `None` if the trainer decides itself. Jobs on
/// the same CPU share its cores.
fn threads_of(count: usize, all: &[String]) -> Option<usize> {
    if all.len() < 2 || all.iter().any(|device| device != "cpu") {
        return None;
    }
    let given = std::env::var("DISTILLERY_THREADS").ok().and_then(|text| text.parse().ok());
    let threads = given.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    Some((threads * count / all.len()).max(1))
}

async fn read_events(output: ChildStdout, report: mpsc::Sender<Event>) {
    let (mut reader, mut line) = (BufReader::new(output), Vec::new());
    while let Ok(true) = read_line(&mut reader, &mut line, LONGEST_LINE).await {
        match serde_json::from_slice(&line) {
            Ok(event) => {
                if report.send(bounded(event)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "the trainer wrote a line that is not an event"),
        }
    }
}

/// The event without the end of a long line, of which thousands may wait for the database.
fn bounded(event: Event) -> Event {
    match event {
        Event::Log { level, message } => {
            Event::Log { level, message: shortened(&message, LONGEST_MESSAGE).into_owned() }
        }
        other => other,
    }
}

async fn last_lines(output: impl AsyncRead + Unpin) -> String {
    let mut kept = VecDeque::with_capacity(KEPT_LINES);
    let (mut reader, mut line) = (BufReader::new(output), Vec::new());
    while let Ok(true) = read_line(&mut reader, &mut line, LONGEST_KEPT).await {
        let line = String::from_utf8_lossy(&line).into_owned();
        tracing::debug!(target: "distillery::trainer", "{line}");
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    Vec::from(kept).join("\n").trim().to_owned()
}

/// Reads the next line without its line end, and keeps at most its first `longest` bytes. Returns false at the end of
/// the input.
async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    longest: usize,
) -> std::io::Result<bool> {
    line.clear();
    let mut found = false;
    loop {
        let buffer = reader.fill_buf().await?;
        if buffer.is_empty() {
            return Ok(found);
        }
        found = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        line.extend_from_slice(&part[..part.len().min(longest - line.len())]);
        let read = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(read);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_read_whole_or_cut_but_never_mixed() {
        let text = b"one\n\n\xfftwelve bytes\nlast";
        for capacity in [1, 2, 3, 100] {
            let (mut reader, mut line) = (BufReader::with_capacity(capacity, &text[..]), Vec::new());
            let mut lines = Vec::new();
            while read_line(&mut reader, &mut line, 7).await.unwrap() {
                lines.push(line.clone());
            }
            assert_eq!(lines, [&b"one"[..], b"", b"\xfftwelve", b"last"]);
        }
    }
}
