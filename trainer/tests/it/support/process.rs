//! The trainer as a supervised process, and this test binary as if on another processor.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use distillery_core::protocol::Event;

use super::text;

/// Time for child processes to end after their parent.
const FAREWELL: Duration = Duration::from_secs(60);

/// The trainer, with a subcommand and nothing else. DISTILLERY_TEST_TRAINER names it where these tests run on another
/// machine than the one that built them.
pub fn program(subcommand: &str) -> Command {
    let built = || OsString::from(env!("CARGO_BIN_EXE_distillery-trainer"));
    let mut command = Command::new(std::env::var_os("DISTILLERY_TEST_TRAINER").unwrap_or_else(built));
    command.arg(subcommand);
    command
}

/// The trainer on a device, with one thread.
pub fn trainer_on(device: &str, subcommand: &str) -> Command {
    let mut command = program(subcommand);
    if !["convert", "inspect"].contains(&subcommand) {
        command.args(["--device", device, "--threads", "1"]);
    }
    command
}

/// The trainer on the CPU, with one thread.
pub fn trainer(subcommand: &str) -> Command {
    trainer_on("cpu", subcommand)
}

/// A supervised run of the trainer.
pub struct Supervised {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    events: Receiver<Event>,
    /// Disconnected once standard error is closed, by the end of the last process of the run: the trainer and its other
    /// ranks.
    all: Receiver<()>,
    /// Events received but not yet looked at.
    early: VecDeque<Event>,
}

impl Supervised {
    pub fn start(mut command: Command) -> Self {
        command.args(["--events", "--supervised"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (lines, mut messages) =
            (BufReader::new(child.stdout.take().unwrap()).lines(), child.stderr.take().unwrap());
        let (events_to, events) = channel();
        let (ended, all) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The receiver may be gone.
                let _ = events_to.send(serde_json::from_str(&line).unwrap());
            }
        });
        std::thread::spawn(move || {
            let mut said = String::new();
            let _ = messages.read_to_string(&mut said);
            eprint!("{said}");
            drop(ended);
        });
        Self { stdin: child.stdin.take(), child, events, all, early: VecDeque::new() }
    }

    /// Waits for an event and skips those before it.
    pub fn until(&mut self, is_wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.early.pop_front().unwrap_or_else(|| self.events.recv().expect("the event comes"));
            if is_wanted(&event) {
                return event;
            }
        }
    }

    /// Waits until the trainer has taken that much processor time, which is the same work however busy the machine is.
    /// One thread cannot get there in less time than is left, so that much is waited before looking again. False if it
    /// ended before.
    pub fn until_it_has_computed(&mut self, wanted: Duration) -> bool {
        loop {
            let left = wanted.saturating_sub(self.computed());
            if left.is_zero() {
                return true;
            }
            match self.events.recv_timeout(left) {
                Ok(event) => self.early.push_back(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Processor time taken so far.
    #[allow(unsafe_code, reason = "the C library's clocks of other processes")]
    pub fn computed(&self) -> Duration {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both functions write only to the variable they are given.
        let failed = unsafe {
            libc::clock_getcpuclockid(pid, &raw mut clock) != 0 || libc::clock_gettime(clock, &raw mut time) != 0
        };
        assert!(!failed, "{}", std::io::Error::last_os_error());
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
    }

    pub fn tell(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{{\"command\": {command:?}}}").unwrap();
    }

    /// Kills the trainer and waits for all processes of the run.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.ended().code(), None);
    }

    /// Waits for all processes of the run; returns the exit status of the trainer.
    pub fn status(mut self) -> Option<i32> {
        self.ended().code()
    }

    fn ended(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        let others = self.all.recv_timeout(FAREWELL);
        assert_eq!(others, Err(RecvTimeoutError::Disconnected), "processes that it started go on");
        status
    }
}

/// Runs tests of this binary, given by their full names, in a new process with these environment variables.
pub fn run_again(tests: &[&str], variables: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let run = command.arg("--exact").args(tests).envs(variables.iter().copied()).output().unwrap();
    let said = text(&run.stdout);
    let all_passed = run.status.success() && said.contains(&format!("{} passed", tests.len()));
    assert!(all_passed, "with {variables:?}:\n{said}{}", text(&run.stderr));
}

/// Environments that hide instruction sets of this processor from libtorch's libraries, as stand-ins for other
/// machines.
pub const LESSER_PROCESSORS: [&[(&str, &str)]; 2] = [
    &[("ATEN_CPU_CAPABILITY", "avx2"), ("ONEDNN_MAX_CPU_ISA", "AVX2")],
    &[("ATEN_CPU_CAPABILITY", "default"), ("ONEDNN_MAX_CPU_ISA", "SSE41"), ("MKL_CBWR", "COMPATIBLE")],
];
