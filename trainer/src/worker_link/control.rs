//! What the outside wants of a run: to go on, to stop, or to stop with a checkpoint.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};

use crate::device::exit_now;
use distillery::protocol::Command;

/// What is wanted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Train.
    GoOn,
    /// Write a checkpoint at the next step, then stop.
    Pause,
    /// Stop at the next step.
    Stop,
}

/// Read by the run between two steps, set by whoever hears of it.
#[derive(Debug, Clone, Default)]
pub struct Control(Arc<AtomicU8>);

impl Control {
    /// What is wanted now.
    #[must_use]
    pub fn wish(&self) -> Wish {
        match self.0.load(Ordering::Relaxed) {
            0 => Wish::GoOn,
            1 => Wish::Pause,
            _ => Wish::Stop,
        }
    }

    /// Obeys a command; one that is stronger than an earlier one replaces it.
    pub fn obey(&self, command: Command) {
        let wish = match command {
            Command::Pause => 1,
            Command::Stop => 2,
        };
        self.0.fetch_max(wish, Ordering::Relaxed);
    }

    /// Takes commands from standard input and ends this process when it ends, or when the parent does: the worker is
    /// gone then, and another one goes on from the last checkpoint.
    pub fn supervised(&self) {
        if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
            tracing::warn!(%error, "no death signal: only the end of standard input ends this process");
        }
        let control = self.clone();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { break };
                match serde_json::from_str(&line) {
                    Ok(command) => control.obey(command),
                    Err(error) => tracing::warn!(%error, line, "not a command"),
                }
            }
            exit_now(1);
        });
    }

    /// Pauses on SIGINT and SIGTERM; a second one ends the process at once.
    ///
    /// # Errors
    /// The system refuses signal handlers.
    pub fn pause_on_signals(&self) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate) = {
            let _entered = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let control = self.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                for attempt in 0.. {
                    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                    if attempt > 0 {
                        exit_now(130);
                    }
                    control.obey(Command::Pause);
                }
            });
        });
        Ok(())
    }
}
