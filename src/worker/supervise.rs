//! The worker processes of `distillery serve`: one for all GPUs or for the CPU, or as many as `--workers` says. A
//! process that dies is started again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::machine;
use crate::cli::{ServeArgs, WorkerCount};
use crate::process;

/// Time for a worker to drain, which includes a checkpoint of each job. It is then killed, and its jobs resume
/// elsewhere from their last checkpoint.
const DRAIN: Duration = Duration::from_secs(60);
/// Longest pause before a worker that keeps dying is restarted.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Keeps the workers running until `stop` is cancelled, then has them release their jobs.
///
/// # Errors
/// The path of this executable cannot be found.
pub async fn run(args: ServeArgs, database_url: String, stop: CancellationToken) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find the path of this executable")?;
    let mut workers = JoinSet::new();
    for worker in planned(args.workers) {
        let (program, args, database_url) = (program.clone(), args.clone(), database_url.clone());
        let command = move || command(&program, &args, &database_url, &worker);
        workers.spawn(keep_running(command, stop.clone()));
    }
    while workers.join_next().await.is_some() {}
    Ok(())
}

/// A worker to start.
#[derive(Debug, Clone)]
struct Planned {
    name: String,
    device: String,
    /// Number of threads, if several workers share the CPU.
    threads: Option<usize>,
}

fn planned(workers: WorkerCount) -> Vec<Planned> {
    let host = machine::host_name();
    let count = match workers {
        WorkerCount::Auto => {
            let devices = machine::all();
            let name = format!("{host}/{}", machine::label(&devices));
            return vec![Planned { name, device: devices.join(","), threads: None }];
        }
        WorkerCount::Exactly(count) => count,
    };
    let gpus = machine::gpus();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (0..count)
        .map(|index| {
            let device = if gpus == 0 { "cpu".to_owned() } else { machine::gpu(index % gpus) };
            let shared = gpus == 0 && count > 1;
            let name = if shared { format!("{host}/{device}-{index}") } else { format!("{host}/{device}") };
            Planned { name, device, threads: shared.then(|| (cores / count).max(1)) }
        })
        .collect()
}

fn command(program: &Path, args: &ServeArgs, database_url: &str, worker: &Planned) -> std::process::Command {
    // The worker gets SIGTERM even if the server is killed, so that it drains.
    let mut command = process::command("TERM", program);
    let storage = args.data.storage();
    let data: [(&str, &PathBuf); 2] =
        [("--data-dir", &args.data.data_dir), ("--datasets-dir", &args.data.datasets_dir)];
    command.args(["worker", "--device", &worker.device, "--name", &worker.name, "--storage", &storage]);
    for (flag, path) in data {
        command.arg(flag).arg(path);
    }
    command.arg("--dataset-cache-mib").arg(args.data.dataset_cache_mib.to_string());
    if args.data.follow_links {
        command.arg("--follow-links");
    }
    // In the environment, because every user of the machine can read command lines.
    command.env_remove("DISTILLERY_ADMIN_TOKEN");
    command.env("DATABASE_URL", database_url).stdin(std::process::Stdio::null());
    if let Some(threads) = worker.threads
        && std::env::var_os("DISTILLERY_THREADS").is_none()
    {
        command.env("DISTILLERY_THREADS", threads.to_string());
    }
    command
}

async fn keep_running(command: impl Fn() -> std::process::Command, stop: CancellationToken) {
    let mut pause = Duration::from_millis(500);
    while !stop.is_cancelled() {
        let started = Instant::now();
        match process::spawn(command()) {
            Ok(mut child) => {
                let ended = tokio::select! {
                    status = child.wait() => status,
                    () = stop.cancelled() => {
                        let patience = [(Signal::TERM, DRAIN), (Signal::KILL, Duration::from_secs(5))];
                        child.stop(&patience).await;
                        return;
                    }
                };
                tracing::error!("a worker {}; restarting it", process::describe(ended));
            }
            Err(error) => tracing::error!(%error, "cannot start a worker"),
        }
        if started.elapsed() > LONGEST_PAUSE {
            pause = Duration::from_millis(500);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
