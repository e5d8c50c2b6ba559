//! Requests to stop a run: from the supervising worker's commands or from signals.

use std::io::BufRead;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};

use crate::device::exit_now;
use distillery_core::protocol::StopRequest;

/// The current request, which the run reads between two steps.
#[derive(Debug, Clone, Default)]
pub struct Control(Arc<Mutex<Option<StopRequest>>>);

impl Control {
    /// `None` while the run shall go on.
    #[must_use]
    pub fn stop_request(&self) -> Option<StopRequest> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests a stop. A stronger request replaces a weaker one.
    pub fn request(&self, request: StopRequest) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (*current).max(Some(request));
    }

    /// Reads requests from standard input. Ends the process when standard input or the parent process ends: the worker
    /// is gone then, and another one resumes from the last checkpoint.
    pub fn follow_standard_input(&self) {
        if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
            tracing::warn!(%error, "no death signal: only the end of standard input will end this process");
        }
        let control = self.clone();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { break };
                match serde_json::from_str(&line) {
                    Ok(request) => control.request(request),
                    Err(error) => tracing::warn!(%error, line, "standard input has a line that is not a command"),
                }
            }
            exit_now(1);
        });
    }

    /// Pauses the run on SIGINT and SIGTERM. A second signal ends the process at once.
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
                for received in 0.. {
                    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                    if received > 0 {
                        exit_now(130);
                    }
                    control.request(StopRequest::Pause);
                }
            });
        });
        Ok(())
    }
}
