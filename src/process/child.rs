//! Child processes that end when this process does, even if it is killed.
//!
//! The kernel sends a child its parent-death signal when the *thread* that started it exits. So each child gets a
//! thread of its own, which only waits for it. `setpriv` from util-linux requests the signal (`PR_SET_PDEATHSIG`).

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::Arc;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::sync::watch;

#[derive(Debug)]
pub struct Child {
    /// Process id, for logs. Signals are sent through a pidfd, which cannot be reused.
    pub id: u32,
    pub stdin: Option<ChildStdin>,
    pub stdout: Option<ChildStdout>,
    pub stderr: Option<ChildStderr>,
    pidfd: Arc<OwnedFd>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

/// A command that runs `program` with a parent-death signal and in its own process group, so that Ctrl-C in the
/// terminal reaches only the process that the user started, which then stops its children in order.
#[must_use]
pub fn command(death_signal: &str, program: &Path) -> Command {
    privileged_command(["--pdeathsig", death_signal], program)
}

/// Like [`command`], with all options of setpriv chosen by the caller.
#[must_use]
pub fn privileged_command<O: AsRef<OsStr>>(options: impl IntoIterator<Item = O>, program: &Path) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("setpriv");
    command.args(options).arg("--").arg(program).process_group(0);
    command
}

/// Starts a [`command`].
///
/// # Errors
/// The command cannot be started. The error names setpriv if that is missing.
pub fn spawn(mut command: Command) -> io::Result<Child> {
    let (tell_start, start) = std::sync::mpsc::sync_channel(1);
    let (tell_exit, exit) = watch::channel(None);
    let parent = move || {
        let (mut child, pidfd) = match start_child(&mut command) {
            Ok(started) => started,
            Err(error) => return drop(tell_start.send(Err(error))),
        };
        // The command owns the parent's copies of file descriptors passed to the child.
        drop(command);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let _ = tell_start.send(Ok((child.id(), pidfd, pipes)));
        match wait(&mut child) {
            Ok(status) => drop(tell_exit.send(Some(status))),
            Err(error) => tracing::error!(%error, "cannot wait for a child process"),
        }
    };
    std::thread::Builder::new().name("child".into()).spawn(parent)?;
    let (id, pidfd, (stdin, stdout, stderr)) =
        start.recv().map_err(|_| io::Error::other("the thread of a child process ended early"))??;
    Ok(Child { id, stdin, stdout, stderr, pidfd: Arc::new(pidfd), exit })
}

fn start_child(command: &mut Command) -> io::Result<(std::process::Child, OwnedFd)> {
    let child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::new(error.kind(), "the program setpriv is missing: install the package util-linux")
        }
        _ => error,
    })?;
    // Nobody has waited for the child yet, so its id cannot have been reused.
    let pid = Pid::from_child(&child);
    Ok((child, pidfd_open(pid, PidfdFlags::empty())?))
}

/// Waits for a child, and kills the processes it started, which could hold its pipes open.
fn wait(child: &mut std::process::Child) -> io::Result<ExitStatus> {
    let pid = Pid::from_child(child);
    // NOWAIT keeps the child's id, and its process group's, from being reused until `child.wait()` below.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), ended))?;
    let _ = kill_process_group(pid, Signal::KILL);
    child.wait()
}

impl Child {
    /// Waits until the process has ended. Cancel safe, and can be called again.
    pub async fn wait(&mut self) -> ExitStatus {
        use std::os::unix::process::ExitStatusExt;
        match self.exit.wait_for(Option::is_some).await {
            Ok(status) => status.expect("waited for one"),
            // The thread could not wait, so nothing is known about the child.
            Err(_) => ExitStatus::from_raw(Signal::KILL.as_raw()),
        }
    }

    /// `None` while the process runs.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Sends a signal. Does nothing if the process has ended.
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&*self.pidfd, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid = self.id, ?signal, %error, "cannot signal a child process");
        }
    }

    /// Sends each signal in turn, and waits for the given time after each, until the process has ended. The last signal
    /// should be `KILL`.
    pub async fn stop(&mut self, signals: &[(Signal, std::time::Duration)]) -> ExitStatus {
        for &(signal, patience) in signals {
            self.signal(signal);
            if let Ok(status) = tokio::time::timeout(patience, self.wait()).await {
                return status;
            }
        }
        self.wait().await
    }
}
