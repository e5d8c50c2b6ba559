//! The trainer process of an attempt: started, listened to, told what to do.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use futures::StreamExt;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::codec::{FramedRead, LinesCodec};

use crate::process::{self, Child};
use crate::protocol::{Command, Event};

/// Longest line that a trainer may write. A batch of points takes a few kilobytes.
const LONGEST_LINE: usize = 1 << 20;
/// Events that may wait for the database before the trainer does. It writes a few per second.
const BACKLOG: usize = 4096;
/// Lines of standard error that are kept for an error message.
const KEPT_LINES: usize = 20;

/// What a trainer may see of this process's environment: where to find programs, libraries and GPUs, and how many
/// threads to use. Neither the database nor credentials.
const ENVIRONMENT: [&str; 12] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LD_LIBRARY_PATH",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "OMP_",
    "MKL_",
    "RUST_BACKTRACE",
    "DISTILLERY_THREADS",
];

/// The trainer's program: the one given, or `distillery-trainer` beside this one.
///
/// # Errors
/// When it is not there.
pub fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(program) => program.to_owned(),
        None => {
            std::env::current_exe().context("cannot find this program's own file")?.with_file_name("distillery-trainer")
        }
    };
    anyhow::ensure!(
        program.is_file(),
        "there is no trainer at {}: this distillery was built without it. Build with the feature `trainer` (the \
         default), or name another with --trainer",
        program.display()
    );
    Ok(program)
}

/// A running trainer.
#[derive(Debug)]
pub(super) struct Trainer {
    /// The process.
    pub(super) child: Child,
    /// What it reports; ends when its standard output does.
    pub(super) events: mpsc::Receiver<Event>,
    commands: ChildStdin,
    errors: JoinHandle<String>,
}

impl Trainer {
    /// Starts it on `directory/spec.json`, to write into `directory/output`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub(super) fn start(program: &Path, directory: &Path, device: &str) -> anyhow::Result<Self> {
        let mut command = process::command("KILL", program);
        command.arg("train").arg(directory.join("spec.json")).arg("--output").arg(directory.join("output"));
        command.args(["--events", "--supervised", "--device", device]);
        command.env_clear().envs(std::env::vars_os().filter(|(name, _)| {
            name.to_str().is_some_and(|name| ENVIRONMENT.iter().any(|allowed| name.starts_with(allowed)))
        }));
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

    /// Tells it something. One that has just ended does not hear it, which is no error.
    pub(super) async fn tell(&mut self, command: Command) {
        let mut line = serde_json::to_string(&command).expect("a command is JSON");
        line.push('\n');
        if let Err(error) = self.commands.write_all(line.as_bytes()).await {
            tracing::debug!(%error, "the trainer does not listen any more");
        }
    }

    /// The last lines of its standard error, once it has ended.
    pub(super) async fn last_words(self) -> String {
        self.errors.await.unwrap_or_default()
    }
}

async fn read_events(output: ChildStdout, report: mpsc::Sender<Event>) {
    let mut lines = FramedRead::new(output, LinesCodec::new_with_max_length(LONGEST_LINE));
    while let Some(line) = lines.next().await {
        let event = match line {
            Ok(line) => serde_json::from_str::<Event>(&line),
            Err(error) => {
                tracing::warn!(%error, "the trainer wrote a line that cannot be read");
                continue;
            }
        };
        match event {
            Ok(event) => {
                if report.send(event).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "the trainer wrote a line that is not an event"),
        }
    }
}

async fn last_lines(errors: ChildStderr) -> String {
    let mut kept = VecDeque::with_capacity(KEPT_LINES);
    let mut lines = BufReader::new(errors).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line).chars().take(1000).collect::<String>();
        tracing::debug!(target: "distillery::trainer", "{line}");
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    Vec::from(kept).join("\n").trim().to_owned()
}
