//! Child processes that end when this one does, however it ends.
//!
//! The kernel sends a child its death signal when the *thread* that started it goes away, so each child has a thread of
//! its own here, which does nothing but wait for it. `setpriv` of util-linux asks the kernel for that signal.

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

/// A running child.
#[derive(Debug)]
pub struct Child {
    /// Its process id, for people to read: signals go by a handle that is never reused.
    pub id: u32,
    /// Its standard input, if piped.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, if piped.
    pub stdout: Option<ChildStdout>,
    /// Its standard error, if piped.
    pub stderr: Option<ChildStderr>,
    handle: Arc<OwnedFd>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

/// A command that runs `program` with a death signal and in a process group of its own, so that Ctrl-C on the terminal
/// reaches only the process that the user started, which then stops its children in order.
#[must_use]
pub fn command(death_signal: &str, program: &Path) -> Command {
    privileged_command(["--pdeathsig", death_signal], program)
}

/// Like [`command`], with every option of setpriv up to the caller.
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
/// When it cannot be started; a missing setpriv is named.
pub fn spawn(mut command: Command) -> io::Result<Child> {
    let (tell_start, start) = std::sync::mpsc::sync_channel(1);
    let (tell_exit, exit) = watch::channel(None);
    let parent = move || {
        let (mut child, handle) = match start_child(&mut command) {
            Ok(started) => started,
            Err(error) => return drop(tell_start.send(Err(error))),
        };
        // The command holds the parent's copies of files that the child may have been given.
        drop(command);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let _ = tell_start.send(Ok((child.id(), handle, pipes)));
        match wait(&mut child) {
            Ok(status) => drop(tell_exit.send(Some(status))),
            Err(error) => tracing::error!(%error, "could not wait for a child process"),
        }
    };
    std::thread::Builder::new().name("child".into()).spawn(parent)?;
    let (id, handle, (stdin, stdout, stderr)) =
        start.recv().map_err(|_| io::Error::other("the thread of a child process ended early"))??;
    Ok(Child { id, stdin, stdout, stderr, handle: Arc::new(handle), exit })
}

fn start_child(command: &mut Command) -> io::Result<(std::process::Child, OwnedFd)> {
    let child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::new(error.kind(), "the program setpriv is missing: install the package util-linux")
        }
        _ => error,
    })?;
    // Nobody has waited for it yet, so the id is still its own.
    let pid = Pid::from_child(&child);
    Ok((child, pidfd_open(pid, PidfdFlags::empty())?))
}

/// Waits for the end of a child and of what it started in turn, which could hold its pipes open.
fn wait(child: &mut std::process::Child) -> io::Result<ExitStatus> {
    let pid = Pid::from_child(child);
    // Until the child is waited for in earnest, nobody else can get its id, or a process group of that id.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), ended))?;
    let _ = kill_process_group(pid, Signal::KILL);
    child.wait()
}

impl Child {
    /// Waits for the end; can be called again and abandoned at any time.
    pub async fn wait(&mut self) -> ExitStatus {
        use std::os::unix::process::ExitStatusExt;
        match self.exit.wait_for(Option::is_some).await {
            Ok(status) => status.expect("waited for one"),
            // The thread could not wait: whatever happened, the child is not ours any more.
            Err(_) => ExitStatus::from_raw(Signal::KILL.as_raw()),
        }
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Sends a signal; one that has ended already does not mind.
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&*self.handle, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid = self.id, ?signal, %error, "could not signal a child process");
        }
    }

    /// Asks with each signal in turn, and gives each so long, until it has ended; the last one should be `KILL`.
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

/// A signal or a status, in words.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// How many processes the kernel has killed for want of memory: in this control group, or else on this machine.
#[must_use]
pub fn out_of_memory_kills() -> u64 {
    let count = |path: &str| -> Option<u64> {
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    };
    let group = std::fs::read_to_string("/proc/self/cgroup").ok();
    let group = group.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::")));
    let of_group = group.and_then(|group| count(&format!("/sys/fs/cgroup{group}/memory.events")));
    of_group.or_else(|| count("/proc/vmstat")).unwrap_or(0)
}
