//! The cluster: PostgreSQL's files below the data directory.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::USER;
use super::account::Account;
use super::log::Log;
use crate::process;

/// The file in the data directory that the process which runs its server has locked.
pub(super) const LOCK_FILE: &str = "postgres.lock";

/// How long the server of a process that was killed may take to end.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(15);

/// How long a lock that was just released may still seem to be held: a child that another thread has forked has a copy
/// of every descriptor until it executes its program.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Creates a directory that only its owner may enter; leaves one that exists as it is.
///
/// # Errors
/// It cannot be created.
pub fn create_private(path: &Path) -> anyhow::Result<()> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.with_context(|| format!("cannot create the directory {}", path.display()))
}

/// Another process runs the server of a data directory, or starts or stops it.
#[derive(Debug, thiserror::Error)]
#[error(
    "another distillery uses the data directory {}: stop it first, or give this one another --data-dir",
    .0.display()
)]
pub struct InUse(PathBuf);

/// Locks the directory, so that one process at a time uses it. The kernel releases the lock when the process ends,
/// however it ends.
pub(super) fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join(LOCK_FILE);
    let open = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = open.with_context(|| format!("cannot open {}", path.display()))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::WouldBlock) => return Err(InUse(data_dir.to_owned()).into()),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

/// Waits for the server that a killed process left behind, and removes its pid file. This process holds the lock on the
/// data directory, so a server that still runs has lost its parent and is about to end.
pub(super) async fn clear_leftovers(cluster: &Path) -> anyhow::Result<()> {
    let pid_file = cluster.join("postmaster.pid");
    let deadline = Instant::now() + LEFTOVER_PATIENCE;
    while pid_file.exists() {
        let processes = processes_in(cluster);
        if processes.is_empty() {
            // PostgreSQL would refuse to start if the number in it now belonged to some other process of the user.
            match fs::remove_file(&pid_file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => break,
            }
        }
        if Instant::now() > deadline {
            bail!(
                "a PostgreSQL server (process {}) already runs on {}: stop it first",
                processes[0],
                cluster.display()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The processes whose working directory is `dir`, as that of every PostgreSQL process is its cluster.
fn processes_in(dir: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir)).collect()
}

/// Runs initdb in a directory beside the cluster's and renames the result: the cluster is complete or absent.
pub(super) async fn create(cluster: &Path, bin_dir: &Path, account: &Account, log: &Log) -> anyhow::Result<()> {
    let closed = cluster.with_file_name("postgres.new");
    if closed.exists() {
        fs::remove_dir_all(&closed)?;
    }
    // Nobody but this user gets to what is in it, whoever owns that.
    create_private(&closed)?;
    let unfinished = closed.join("cluster");
    create_private(&unfinished)?;
    let initializer = account.initializer(&unfinished, bin_dir);
    initializer.hand_over(&unfinished)?;
    let mut command = initializer.command("KILL", &bin_dir.join("initdb"));
    command.arg("-D").arg(&unfinished).args(["--username", USER, "--encoding", "UTF8", "--no-locale"]);
    command.args(["--auth-local", "trust", "--auth-host", "reject", "--no-instructions"]);
    log.receive(&mut command)?;
    let status = process::spawn(command).context("cannot start initdb")?.wait().await;
    if !status.success() {
        bail!("initdb {}{}", process::describe(status), log.told());
    }
    account.take(&unfinished)?;
    // Directories of an earlier start that failed half-way are empty.
    let _ = fs::remove_dir(cluster);
    fs::rename(&unfinished, cluster).with_context(|| format!("cannot create {}", cluster.display()))?;
    let _ = fs::remove_dir(&closed);
    Ok(())
}
