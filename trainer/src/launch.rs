//! Starts the processes of a run's other ranks, watches them, and ends them with the run.
//!
//! Each is this program. The first line of its standard input is its [`RankConfig`], and stop requests follow. It ends
//! when its standard input or its parent ends. When a rank ends too early, the run ends too: if rank 0 is stuck in an
//! exchange with it, a thread that watches the process ends rank 0.

use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::data::Shard;
use crate::device::{self, exit_now};
use crate::error::{Error, Result};
use crate::ranks::Ranks;
use crate::run;
use crate::settings::{Ending, Settings};
use crate::worker_link::control::Control;
use crate::worker_link::report::{OtherRank, Report, warning};
use distillery_core::device_fault;
use distillery_core::exit_status::{self, out_of_memory_kills};
use distillery_core::protocol::{EXIT_STOPPED, ErrorClass, Event, Failure, StopRequest, files};
use distillery_core::removed_if_empty::RemovedIfEmpty;
use distillery_core::spec::TrainingPlan;

/// How long rank 0 may go on after another rank has ended. Usually their next exchange fails before that.
const GRACE: Duration = Duration::from_secs(10);
/// How long to wait for a rank's failure when an exchange on rank 0 has failed.
const INQUIRY: Duration = Duration::from_secs(3);
/// How long ranks may take to end once they are done.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a rank's process needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub struct RankConfig {
    /// A directory where the ranks find each other and share files.
    pub rendezvous: PathBuf,
    pub spec: TrainingPlan,
    /// With the rank's shard and device.
    pub settings: Settings,
}

#[derive(Debug, Clone, Default)]
struct OtherRanks(Arc<(Mutex<Processes>, Condvar)>);

#[derive(Debug, Default)]
struct Processes {
    ranks: Vec<RankProcess>,
    /// Why ranks ended too early.
    failures: Vec<Failure>,
    /// Whether the run is over, so that ranks may end.
    is_over: bool,
}

#[derive(Debug)]
struct RankProcess {
    stdin: ChildStdin,
    handle: OwnedFd,
    has_ended: bool,
}

/// Trains by a specification on as many devices as it asks for. If another rank is gone while this one waits for it,
/// `lost` is called with the reason and the process ends.
///
/// # Errors
/// Training failed; the error's class says whether another attempt can succeed.
pub fn train(
    spec: &TrainingPlan,
    settings: &Settings,
    control: &Control,
    report: &mut dyn Report,
    lost: impl Fn(Failure) + Clone + Send + 'static,
) -> Result<Ending> {
    let _claimed = claim(&settings.output, report)?;
    let world_size = spec.training.devices;
    let devices = device::several(&settings.device, world_size)?;
    if world_size == 1 {
        return run::train(spec, settings, |_, _| Ok(Ranks::single()), control, report);
    }
    let rendezvous = new_rendezvous(&settings.output).map_err(Error::storage(&settings.output))?;
    let of_rank = |rank: u32| Settings {
        device: devices[rank as usize].clone(),
        all_devices: Some(devices.join(",")),
        shard: Shard { rank, world_size },
        ..settings.clone()
    };
    let others = OtherRanks::default();
    for rank in 1..world_size {
        let config =
            RankConfig { rendezvous: rendezvous.path().to_owned(), spec: spec.clone(), settings: of_rank(rank) };
        let started = others.start(&config, lost.clone());
        started.map_err(|error| Error::internal(format!("cannot start rank {rank}: {error}")))?;
    }
    let settings = of_rank(0);
    let join = |device, report: &mut dyn Report| {
        let warn = |message| report.event(&warning(message));
        let others = others.clone();
        let ranks = Ranks::join(settings.shard, rendezvous.path(), device, warn)?;
        Ok(ranks.interrupting_others_by(move || others.interrupt()))
    };
    let result = catch_unwind(AssertUnwindSafe(|| run::train(spec, &settings, join, control, report)));
    others.settle(result)
}

/// An output directory that no other run writes to.
struct Claimed {
    /// Dropped while the directory is locked.
    _unused: RemovedIfEmpty,
    _directory: File,
}

/// Locks the output directory until the run ends, so that two runs do not write over each other. A run that fails
/// before it has written anything leaves no directory behind.
fn claim(output: &Path, report: &mut dyn Report) -> Result<Claimed> {
    let state = output.join(files::CHECKPOINT);
    let unused = RemovedIfEmpty::new(state.parent().expect("the checkpoint is in a directory"));
    std::fs::create_dir_all(output).map_err(Error::storage(output))?;
    let directory = File::open(output).map_err(Error::storage(output))?;
    match directory.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            unused.keep();
            return Err(Error::user(format!(
                "{}: another run writes to it: wait for its end, or choose another output directory",
                output.display()
            )));
        }
        Err(TryLockError::Error(error)) => report.event(&warning(format!(
            "{} cannot be locked ({error}): start no other run with this output directory",
            output.display()
        ))),
    }
    Ok(Claimed { _unused: unused, _directory: directory })
}

/// Trains as another rank. Its configuration is the first line of standard input.
///
/// # Errors
/// Training failed; the error's class says whether another attempt can succeed.
pub fn follow() -> Result<Ending> {
    // A terminal or service sends signals to all its processes. Rank 0 decides what they mean.
    ignore_signals();
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(|error| Error::internal(format!("standard input: {error}")))?;
    let config: RankConfig = serde_json::from_str(&line).map_err(|error| {
        Error::user(format!("standard input is not the configuration of a rank, which `train` starts: {error}"))
    })?;
    let RankConfig { rendezvous, spec, settings } = config;
    let control = Control::default();
    control.follow_standard_input();
    settings.prepare(settings.shard.world_size);
    let join = |device, report: &mut dyn Report| {
        Ranks::join(settings.shard, &rendezvous, device, |message| report.event(&warning(message)))
    };
    run::train(&spec, &settings, join, &control, &mut OtherRank(settings.shard.rank))
}

#[allow(unsafe_code, reason = "the C library's signals")]
fn ignore_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Creates a directory below the output. Removes those of runs that were killed.
fn new_rendezvous(output: &Path) -> io::Result<TempDir> {
    const PREFIX: &str = ".ranks-";
    std::fs::create_dir_all(output)?;
    for entry in std::fs::read_dir(output)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    tempfile::Builder::new().prefix(PREFIX).tempdir_in(output)
}

impl OtherRanks {
    /// Starts a rank's process and a thread that watches it.
    fn start(&self, config: &RankConfig, lost: impl Fn(Failure) + Send + 'static) -> io::Result<()> {
        let kills_before = out_of_memory_kills();
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("rank").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let (mut stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let rank = config.settings.shard.rank;
        let index = {
            let mut processes = self.processes();
            let config = serde_json::to_string(config).expect("a configuration is JSON");
            // If the process has already ended, the thread below notices.
            let _ = writeln!(stdin, "{config}");
            processes.ranks.push(RankProcess { stdin, handle, has_ended: false });
            processes.ranks.len() - 1
        };
        let (others, rendezvous) = (self.clone(), config.rendezvous.clone());
        std::thread::Builder::new().name(format!("rank {rank}")).spawn(move || {
            let reported = last_failure(BufReader::new(stdout));
            let status = child.wait();
            let failure = unexpected_end(rank, reported, status, out_of_memory_kills() > kills_before);
            others.note_end(index, failure);
            if let Some(cause) = others.cause_after(GRACE) {
                let _ = std::fs::remove_dir_all(rendezvous);
                lost(cause);
                exit_now(1);
            }
        })?;
        Ok(())
    }

    /// Asks all ranks to stop.
    fn interrupt(&self) {
        let line = serde_json::to_string(&StopRequest::Cancel).expect("a request is JSON");
        for rank in &mut self.processes().ranks {
            // If the process has ended, its thread notices.
            let _ = writeln!(rank.stdin, "{line}");
        }
    }

    fn note_end(&self, index: usize, failure: Option<Failure>) {
        let mut processes = self.processes();
        processes.ranks[index].has_ended = true;
        processes.failures.extend(failure);
        self.0.1.notify_all();
    }

    /// Why a rank ended too early, if one did and the run is not over after `grace`.
    fn cause_after(&self, grace: Duration) -> Option<Failure> {
        let processes = self.processes();
        if processes.failures.is_empty() {
            return None;
        }
        let processes = self.wait_while(processes, grace, |processes| !processes.is_over);
        if processes.is_over { None } else { cause(&processes.failures) }
    }

    /// Ends the other ranks and returns the run's result. If this rank failed because another one ended, that one's
    /// failure is the result.
    fn settle(&self, result: std::thread::Result<Result<Ending>>) -> Result<Ending> {
        let class = match &result {
            Ok(Ok(_)) => {
                self.end_all(FAREWELL);
                None
            }
            Ok(Err(error)) => Some(error.class),
            Err(panic) => Some(Error::from_panic(&**panic).class),
        };
        let mut found = None;
        if class == Some(ErrorClass::Internal) {
            drop(self.wait_while(self.processes(), INQUIRY, |processes| processes.failures.is_empty()));
            // The first failure may itself be the consequence of one that is reported a moment later.
            std::thread::sleep(Duration::from_millis(200));
            found = cause(&self.processes().failures);
        }
        self.end_all(Duration::ZERO);
        match (found, result) {
            (Some(Failure { class, message }), _) => Err(Error { class, message }),
            (None, Ok(result)) => result,
            (None, Err(panic)) => resume_unwind(panic),
        }
    }

    /// Waits until all have ended, and kills those that take longer than `patience`.
    fn end_all(&self, patience: Duration) {
        let is_running = |processes: &mut Processes| processes.ranks.iter().any(|rank| !rank.has_ended);
        let mut processes = self.processes();
        processes.is_over = true;
        self.0.1.notify_all();
        let processes = self.wait_while(processes, patience, is_running);
        for rank in processes.ranks.iter().filter(|rank| !rank.has_ended) {
            let _ = pidfd_send_signal(&rank.handle, Signal::KILL);
        }
        drop(self.wait_while(processes, FAREWELL, is_running));
    }

    fn wait_while<'a>(
        &'a self,
        processes: MutexGuard<'a, Processes>,
        timeout: Duration,
        condition: impl FnMut(&mut Processes) -> bool,
    ) -> MutexGuard<'a, Processes> {
        self.0.1.wait_timeout_while(processes, timeout, condition).unwrap_or_else(PoisonError::into_inner).0
    }

    fn processes(&self) -> MutexGuard<'_, Processes> {
        // The value is consistent between any two statements, so a panic elsewhere does not spoil it.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last failure that a rank reports before its output ends.
fn last_failure(output: impl BufRead) -> Option<Failure> {
    let events = output.lines().map_while(io::Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
    events.filter_map(|event| if let Event::Failed(failure) = event { Some(failure) } else { None }).last()
}

/// Why a rank ended; `None` if it finished or stopped on request. `ran_out_of_memory` says that the kernel has killed a
/// process for want of memory.
fn unexpected_end(
    rank: u32,
    reported: Option<Failure>,
    status: io::Result<ExitStatus>,
    ran_out_of_memory: bool,
) -> Option<Failure> {
    let ended = match status {
        Ok(status) if status.success() || status.code() == Some(i32::from(EXIT_STOPPED)) => return None,
        Ok(status) => {
            let advice = "lower training.batch_size or training.devices, or add memory";
            exit_status::unexpected_end("its process", status, ran_out_of_memory, advice)
        }
        Err(error) => {
            Failure { class: ErrorClass::Internal, message: format!("its process cannot be waited for: {error}") }
        }
    };
    let Failure { class, message } = reported.unwrap_or(ended);
    Some(Failure { class, message: device_fault::of_rank(rank, &message) })
}

/// The failure that caused the others: a rank that loses another one fails with class internal.
fn cause(failures: &[Failure]) -> Option<Failure> {
    let is_consequence = |failure: &&Failure| failure.class == ErrorClass::Internal;
    failures.iter().find(|failure| !is_consequence(failure)).or(failures.first()).cloned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn failure(class: ErrorClass) -> Failure {
        Failure { class, message: class.name().to_owned() }
    }

    #[test]
    fn the_rank_that_was_killed_is_the_cause_and_not_the_one_that_lost_it() {
        let failures = [failure(ErrorClass::Internal), failure(ErrorClass::WorkerLost)];
        assert_eq!(cause(&failures), Some(failure(ErrorClass::WorkerLost)));
        assert_eq!(cause(&failures[..1]), Some(failure(ErrorClass::Internal)));
        assert_eq!(cause(&[]), None);
    }

    #[test]
    fn a_rank_that_ends_in_order_is_no_failure_and_one_that_ran_out_of_memory_is_not_tried_again() {
        let ended = |raw| Ok(ExitStatus::from_raw(raw));
        assert_eq!(unexpected_end(1, None, ended(0), false), None);
        assert_eq!(unexpected_end(1, None, ended(i32::from(EXIT_STOPPED) << 8), false), None);
        assert_eq!(unexpected_end(1, None, ended(9), true).map(|failure| failure.class), Some(ErrorClass::Oom));
        let killed = unexpected_end(3, None, ended(9), false).unwrap();
        assert_eq!(killed.class, ErrorClass::WorkerLost);
        assert_eq!(killed.message, "rank 3: its process was killed by signal 9");
        let said = unexpected_end(2, Some(failure(ErrorClass::User)), ended(1 << 8), false).unwrap();
        assert_eq!((said.class, said.message.as_str()), (ErrorClass::User, "rank 2: user"));
    }
}
