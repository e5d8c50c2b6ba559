//! The processes of a run's other ranks: started by rank 0, watched by it, and ended with it.
//!
//! Each is this program, which reads its [`RankConfig`] as the first line of its standard input and commands after that. It
//! ends when its standard input does, or its parent; and the run ends when one of them does: whatever rank 0 waits for
//! then, a thread that watches the process ends it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command as Program, ExitStatus, Stdio};
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
use crate::worker_link::report::{Report, Silent, warning};
use distillery::process::{describe, out_of_memory_kills};
use distillery::protocol::{EXIT_STOPPED, ErrorClass, Event, Failure, StopRequest};
use distillery::spec::JobSpec;

/// How long rank 0 may go on after another rank has ended: most often it fails by itself, within its exchange with it.
const GRACE: Duration = Duration::from_secs(10);
/// How long to look for a rank that ended, when rank 0 failed in an exchange.
const INQUIRY: Duration = Duration::from_secs(3);
/// How long ranks that are done may take to end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Which rank a process is, and of what.
#[derive(Debug, Serialize, Deserialize)]
pub struct RankConfig {
    /// Where the ranks meet.
    pub place: PathBuf,
    /// What to train.
    pub spec: JobSpec,
    /// How, with the rank's number and device.
    pub settings: Settings,
}

/// The other ranks' processes.
#[derive(Debug, Clone, Default)]
pub struct Others(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    ranks: Vec<Rank>,
    /// Why ranks ended that should not have.
    failures: Vec<Failure>,
    /// The run is over: ranks may end.
    over: bool,
}

/// A process that was started.
#[derive(Debug)]
struct Rank {
    commands: ChildStdin,
    handle: OwnedFd,
    ended: bool,
}

/// Trains by a specification on as many devices as it asks for. `lost` is told why, before the process ends, where a rank
/// is gone and this one waits for it.
///
/// # Errors
/// In the classes of [`Error`].
pub fn train(
    spec: &JobSpec,
    settings: &Settings,
    control: &Control,
    report: &mut dyn Report,
    lost: impl Fn(Failure) + Clone + Send + 'static,
) -> Result<Ending> {
    let count = spec.training.devices;
    let devices = device::several(&settings.device, count)?;
    if count == 1 {
        return run::train(spec, settings, |_, _| Ok(Ranks::alone()), control, report);
    }
    let place = meeting_place(&settings.output).map_err(Error::storage(&settings.output))?;
    let of_rank = |number: u32| Settings {
        device: devices[number as usize].clone(),
        all_devices: Some(devices.join(",")),
        shard: Shard { rank: number, world_size: count },
        ..settings.clone()
    };
    let others = Others::default();
    for number in 1..count {
        let config = RankConfig { place: place.path().to_owned(), spec: spec.clone(), settings: of_rank(number) };
        let started = others.start(&config, lost.clone());
        started.map_err(|error| Error::internal(format!("cannot start rank {number}: {error}")))?;
    }
    let settings = of_rank(0);
    let meet = |device, report: &mut dyn Report| {
        let warn = |message| report.event(&warning(message));
        let others = others.clone();
        Ok(Ranks::meet(settings.shard, place.path(), device, warn)?.interrupting_others_by(move || others.interrupt()))
    };
    let result = catch_unwind(AssertUnwindSafe(|| run::train(spec, &settings, meet, control, report)));
    others.settle(result)
}

/// Trains as another rank: its part is the first line of standard input.
///
/// # Errors
/// In the classes of [`Error`].
pub fn follow() -> Result<Ending> {
    // Rank 0 decides what becomes of a signal to all processes of a terminal or a service.
    ignore_signals();
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(|error| Error::internal(format!("standard input: {error}")))?;
    let config: RankConfig = serde_json::from_str(&line)
        .map_err(|error| Error::user(format!("standard input does not say what part to take: {error}")))?;
    let RankConfig { place, spec, settings } = config;
    let control = Control::default();
    control.follow_standard_input();
    settings.prepare(settings.shard.world_size);
    let meet = |device, _: &mut dyn Report| Ranks::meet(settings.shard, &place, device, |_| ());
    run::train(&spec, &settings, meet, &control, &mut Silent)
}

#[allow(unsafe_code, reason = "the C library's signals")]
fn ignore_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// A new directory below the output, without those that runs left which were killed.
fn meeting_place(output: &Path) -> io::Result<TempDir> {
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

impl Others {
    fn start(&self, config: &RankConfig, lost: impl Fn(Failure) + Send + 'static) -> io::Result<()> {
        let kills_before = out_of_memory_kills();
        let mut program = Program::new(std::env::current_exe()?);
        program.arg("rank").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = program.spawn()?;
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let (mut commands, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let number = config.settings.shard.rank;
        let index = {
            let mut state = self.state();
            let config = serde_json::to_string(config).expect("a configuration is JSON");
            // Where it ended at once, that is noticed below.
            let _ = writeln!(commands, "{config}");
            state.ranks.push(Rank { commands, handle, ended: false });
            state.ranks.len() - 1
        };
        let (others, place) = (self.clone(), config.place.clone());
        std::thread::Builder::new().name(format!("rank {number}")).spawn(move || {
            let said = last_failure(BufReader::new(output));
            let status = child.wait();
            let failure = unexpected(number, said, status, out_of_memory_kills() > kills_before);
            others.ended(index, failure);
            if let Some(cause) = others.cause_after(GRACE) {
                let _ = std::fs::remove_dir_all(place);
                lost(cause);
                exit_now(1);
            }
        })?;
        Ok(())
    }

    /// Tells all ranks to stop.
    fn interrupt(&self) {
        let line = serde_json::to_string(&StopRequest::Cancel).expect("a request is JSON");
        for rank in &mut self.state().ranks {
            // One that has ended is noticed elsewhere.
            let _ = writeln!(rank.commands, "{line}");
        }
    }

    fn ended(&self, index: usize, failure: Option<Failure>) {
        let mut state = self.state();
        state.ranks[index].ended = true;
        state.failures.extend(failure);
        self.0.1.notify_all();
    }

    /// Why a rank ended, if so, and the run is not over in that time.
    fn cause_after(&self, grace: Duration) -> Option<Failure> {
        let state = self.state();
        if state.failures.is_empty() {
            return None;
        }
        let waited = self.0.1.wait_timeout_while(state, grace, |state| !state.over);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.over { None } else { cause(&state.failures) }
    }

    /// Ends the others and gives the run's result: where this rank failed since another one ended, that one's failure.
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
            let waited = self.0.1.wait_timeout_while(self.state(), INQUIRY, |state| state.failures.is_empty());
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            // Others that fail in their exchange with it may have been sooner.
            std::thread::sleep(Duration::from_millis(200));
            found = cause(&self.state().failures);
        }
        self.end_all(Duration::ZERO);
        match (found, result) {
            (Some(Failure { class, message }), _) => Err(Error { class, message }),
            (None, Ok(result)) => result,
            (None, Err(panic)) => resume_unwind(panic),
        }
    }

    /// Waits for the end of all, but kills those that take longer.
    fn end_all(&self, patience: Duration) {
        let is_running = |state: &mut State| state.ranks.iter().any(|rank| !rank.ended);
        let mut state = self.state();
        state.over = true;
        self.0.1.notify_all();
        let waited = self.0.1.wait_timeout_while(state, patience, is_running);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        for rank in state.ranks.iter().filter(|rank| !rank.ended) {
            let _ = pidfd_send_signal(&rank.handle, Signal::KILL);
        }
        let waited = self.0.1.wait_timeout_while(state, FAREWELL, is_running);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What it guards is whole between any two statements.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a rank says of its failure, until it says no more.
fn last_failure(output: impl BufRead) -> Option<Failure> {
    let events = output.lines().map_while(io::Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
    events.filter_map(|event| if let Event::Failed(failure) = event { Some(failure) } else { None }).last()
}

/// Why a rank ended that did not end in order.
fn unexpected(number: u32, said: Option<Failure>, status: io::Result<ExitStatus>, starved: bool) -> Option<Failure> {
    let ended = match &status {
        Ok(status) if status.success() || status.code() == Some(i32::from(EXIT_STOPPED)) => return None,
        Ok(status) => describe(*status),
        Err(error) => format!("cannot be waited for: {error}"),
    };
    let of_rank = |message: &str| format!("rank {number}: {message}");
    if let Some(Failure { class, message }) = said {
        return Some(Failure { class, message: of_rank(&message) });
    }
    let (class, message) = match status.ok().and_then(|status| status.signal()) {
        Some(9) if starved => {
            let advice = "memory ran out: lower training.batch_size or training.devices, or add memory";
            (ErrorClass::Oom, format!("the kernel killed it because {advice}"))
        }
        Some(_) => (ErrorClass::WorkerLost, format!("its process {ended}")),
        None => (ErrorClass::Internal, format!("its process {ended}")),
    };
    Some(Failure { class, message: of_rank(&message) })
}

/// The failure that others follow from: a rank that loses another fails with class internal.
fn cause(failures: &[Failure]) -> Option<Failure> {
    let consequence = |failure: &&Failure| failure.class == ErrorClass::Internal;
    failures.iter().find(|failure| !consequence(failure)).or(failures.first()).cloned()
}

#[cfg(test)]
mod tests {
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
    fn a_rank_that_ends_in_order_is_no_failure_and_one_that_is_starved_is_not_tried_again() {
        let ended = |raw| Ok(ExitStatus::from_raw(raw));
        assert_eq!(unexpected(1, None, ended(0), false), None);
        assert_eq!(unexpected(1, None, ended(i32::from(EXIT_STOPPED) << 8), false), None);
        assert_eq!(unexpected(1, None, ended(9), true).map(|failure| failure.class), Some(ErrorClass::Oom));
        let killed = unexpected(3, None, ended(9), false).unwrap();
        assert_eq!(killed.class, ErrorClass::WorkerLost);
        assert_eq!(killed.message, "rank 3: its process was killed by signal 9");
        let said = unexpected(2, Some(failure(ErrorClass::User)), ended(1 << 8), false).unwrap();
        assert_eq!((said.class, said.message.as_str()), (ErrorClass::User, "rank 2: user"));
    }
}
