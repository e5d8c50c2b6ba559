//! Whether this worker's machine can run jobs.
//!
//! The machine is checked before the first claim and after each failure that could be its fault: its disk can be
//! written, and the trainer starts and opens every device that no job uses, or after a failure those of the attempt. A
//! worker whose machine fails the check takes no jobs and says why, until a later check succeeds. So does one whose
//! attempts fail in a row because of the machine, which no check explains; after a pause it tries a single job.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::{WorkerSettings, trainer};
use crate::db::workers::BEING_CHECKED;

/// Attempts in a row that may fail because of the machine before the worker stops taking jobs.
const MOST_FAULTS: u32 = 3;
/// Longest pause before a worker that stopped tries again.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Bytes that must fit into the directory of the attempts.
const ROOM: usize = 1 << 20;

/// What an attempt says about the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MachineVerdict {
    /// Its trainer started and did not fail because of the machine.
    Fine,
    /// It ended before its trainer started, for a reason that says nothing.
    Unknown,
    /// It failed because of the machine.
    Fault(String),
    /// It failed, and a check of the machine failed then.
    Broken(String),
    /// A GPU reported an error of its hardware, after which it is not used again, whatever a check says.
    BrokenGpu { device: String, because: String },
}

/// Whether the worker takes jobs.
#[derive(Debug)]
pub(super) struct WorkerHealth {
    first_pause: Duration,
    pause: Duration,
    /// Attempts in a row that failed because of the machine.
    faults: u32,
    stopped: Option<Stopped>,
}

#[derive(Debug)]
struct Stopped {
    because: String,
    /// `None` until the worker is started again.
    until: Option<Instant>,
}

impl WorkerHealth {
    /// Of a machine that has not been checked yet, which is to be done at once.
    pub(super) fn unknown(first_pause: Duration) -> Self {
        let stopped = Stopped { because: BEING_CHECKED.to_owned(), until: Some(Instant::now()) };
        Self { first_pause, pause: first_pause, faults: 0, stopped: Some(stopped) }
    }

    /// Why the worker takes no jobs now; `None` if it does.
    pub(super) fn stopped_because(&self) -> Option<&str> {
        self.stopped.as_ref().map(|stopped| stopped.because.as_str())
    }

    /// When the machine is to be checked again; `None` while the worker takes jobs, and if it takes none for good.
    pub(super) fn check_at(&self) -> Option<Instant> {
        self.stopped.as_ref().and_then(|stopped| stopped.until)
    }

    /// Whether the next job has to show that the machine works again, so that there should be only one.
    pub(super) fn is_on_trial(&self) -> bool {
        self.faults >= MOST_FAULTS
    }

    /// Takes the result of a check into account.
    pub(super) fn checked(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => self.stopped = None,
            Err(because) => self.stop(because),
        }
    }

    /// Takes the end of an attempt into account.
    pub(super) fn ended(&mut self, verdict: MachineVerdict) {
        match verdict {
            // The GPU's fault says nothing about the others.
            MachineVerdict::Unknown | MachineVerdict::BrokenGpu { .. } => {}
            MachineVerdict::Fine => {
                self.faults = 0;
                self.pause = self.first_pause;
            }
            MachineVerdict::Broken(because) => {
                self.faults += 1;
                self.stop(because);
            }
            MachineVerdict::Fault(reason) => {
                self.faults += 1;
                if self.faults >= MOST_FAULTS {
                    let faults = self.faults;
                    self.stop(format!("{faults} attempts in a row failed because of this machine, the last: {reason}"));
                }
            }
        }
    }

    /// Takes no jobs until the worker is started again.
    pub(super) fn stop_for_good(&mut self, because: String) {
        tracing::error!(because, "this worker takes no jobs until it is started again");
        self.stopped = Some(Stopped { because, until: None });
    }

    fn stop(&mut self, because: String) {
        tracing::error!(because, pause = ?self.pause, "this worker stops taking jobs for a while");
        self.stopped = Some(Stopped { because, until: Some(Instant::now() + self.pause) });
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// Checks the machine, and of its devices those that no job uses: a GPU may be full, or belong to one process alone.
///
/// # Errors
/// What is wrong with it.
pub(super) async fn check(settings: &WorkerSettings, unused: &[String]) -> Result<(), String> {
    let directory = &settings.work_dir;
    write_and_remove(directory).await.map_err(|error| {
        // Only the machine's operator is told where that is, since everybody reads why a worker takes no jobs.
        tracing::error!(directory = %directory.display(), %error, "cannot write to the directory of the attempts");
        format!("cannot write to its data directory: {error}")
    })?;
    let devices = unused.join(",");
    let probed = trainer::probe(&settings.trainer, &devices).await;
    probed.map_err(|reason| format!("the trainer cannot run on {devices}: {reason}"))
}

async fn write_and_remove(directory: &Path) -> std::io::Result<()> {
    tokio::fs::create_dir_all(directory).await?;
    // Not the name of a job.
    let path = directory.join(format!("probe-{}", ulid::Ulid::generate().to_string().to_ascii_lowercase()));
    let written = tokio::fs::write(&path, vec![0; ROOM]).await;
    let removed = tokio::fs::remove_file(&path).await;
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> WorkerHealth {
        let mut health = WorkerHealth::unknown(Duration::from_secs(60));
        assert_eq!(minutes(&health), 0);
        health.checked(Ok(()));
        health
    }

    /// The pause until the next check, to the minute.
    fn minutes(health: &WorkerHealth) -> u64 {
        let pause = health.check_at().expect("it has stopped").duration_since(Instant::now());
        (pause.as_secs() + 30) / 60
    }

    #[test]
    fn faults_in_a_row_stop_a_worker_for_longer_each_time_until_a_trainer_starts() {
        let mut health = health();
        let fault = || MachineVerdict::Fault("no space".to_owned());
        for verdict in [fault(), fault(), MachineVerdict::Fine, fault(), MachineVerdict::Unknown, fault()] {
            health.ended(verdict);
            assert_eq!(health.stopped_because(), None);
        }
        health.ended(fault());
        assert!(health.stopped_because().unwrap().contains("3 attempts in a row"), "{health:?}");
        assert_eq!(minutes(&health), 1);
        health.checked(Ok(()));
        assert_eq!(health.stopped_because(), None);
        assert!(health.is_on_trial(), "one job at a time");
        health.ended(fault());
        assert_eq!(minutes(&health), 2);
        health.checked(Ok(()));
        health.ended(MachineVerdict::Fine);
        assert!(!health.is_on_trial());
    }

    #[test]
    fn a_failed_check_stops_a_worker_at_once_and_a_later_one_lets_it_go_on() {
        let mut health = health();
        health.ended(MachineVerdict::Broken("the GPU is gone".to_owned()));
        assert_eq!(health.stopped_because(), Some("the GPU is gone"));
        health.checked(Err("the GPU is still gone".to_owned()));
        assert_eq!(health.stopped_because(), Some("the GPU is still gone"));
        health.checked(Ok(()));
        assert_eq!(health.stopped_because(), None);
        for _ in 0..20 {
            health.checked(Err(String::new()));
        }
        assert_eq!(minutes(&health), 5);
    }
}
