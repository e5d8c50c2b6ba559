//! Shared code of the benchmarks.
#![allow(dead_code, reason = "each program uses a part")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::PgPool;

/// A child process that ends when this is dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// A server without workers, with its own PostgreSQL with fsync.
pub struct Server {
    /// The API.
    pub process: Process,
    /// Its address, `http://…`.
    pub url: String,
    /// Its database.
    pub pool: PgPool,
}

impl Server {
    /// Starts it in a directory, with the data set of [`write_dataset`].
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_distillery"))
            .args(["serve", "--listen", "127.0.0.1:0", "--workers", "0"])
            .args(["--data-dir".as_ref(), dir.join("data").as_os_str()])
            .args(["--datasets-dir".as_ref(), write_dataset(dir)?.as_os_str()])
            .env_remove("DATABASE_URL")
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
        let process = Process(child);
        let url = line.split_whitespace().last().ok_or_else(|| anyhow::anyhow!("the server did not start"))?.to_owned();
        let pool = distillery::db::connect(&std::fs::read_to_string(dir.join("data/postgres.url"))?).await?;
        Ok(Self { process, url, pool })
    }
}

/// The quantile of an ascending list; NaN if it is empty.
pub fn quantile(ascending: &[f64], share: f64) -> f64 {
    let place = (ascending.len().saturating_sub(1)) as f64 * share;
    ascending.get(place as usize).copied().unwrap_or(f64::NAN)
}

/// Prints quantiles of latencies.
pub fn print_latencies(name: &str, latencies: &[Duration], refused: usize) {
    let mut ms: Vec<f64> = latencies.iter().map(|latency| latency.as_secs_f64() * 1000.0).collect();
    ms.sort_by(f64::total_cmp);
    let [p50, p95, p99, max] = [0.5, 0.95, 0.99, 1.0].map(|share| quantile(&ms, share));
    println!(
        "{name:<36} {:>6} answers, {refused} failed; ms: p50 {p50:.2}, p95 {p95:.2}, p99 {p99:.2}, max {max:.2}",
        ms.len(),
    );
}

/// Writes a trainer that finishes at once, because the queue is measured. It runs the shell command `first` first.
///
/// # Errors
/// When it cannot be written.
pub fn write_trainer(dir: &Path, first: &str) -> std::io::Result<PathBuf> {
    let trainer = dir.join("trainer");
    let script = format!(
        r#"#!/bin/bash
[ "$1" = probe ] && echo "distillery-trainer computes on $3" && exit 0
{first}
out=$4
echo '{{"type":"started","device":"cpu","precision":"float32","threads":1,"train_images":9,"eval_images":9,"classes":4,"steps_per_epoch":10,"epochs":5,"resumed_epochs":0,"resumed_step":0}}'
for name in student.safetensors student-last.safetensors manifest.json metrics.ndjson; do echo "$name" > "$out/$name"; done
echo '{{"type":"finished","best_top1":70.5,"best_epoch":2,"last_top1":70,"student":{{"parameters":1,"size_bytes":20,"sha256":"00"}}}}'
"#
    );
    std::fs::write(&trainer, script)?;
    std::fs::set_permissions(&trainer, std::fs::Permissions::from_mode(0o755))?;
    Ok(trainer)
}

/// Writes images of two classes, so that jobs are accepted. No job is trained, so no image is read.
///
/// # Errors
/// When they cannot be written.
pub fn write_dataset(dir: &Path) -> std::io::Result<PathBuf> {
    let images = dir.join("datasets/ten");
    for split in ["train", "test"] {
        for class in ["one", "two"] {
            std::fs::create_dir_all(images.join(split).join(class))?;
            std::fs::write(images.join(split).join(class).join("1.png"), [])?;
        }
    }
    Ok(dir.join("datasets"))
}
