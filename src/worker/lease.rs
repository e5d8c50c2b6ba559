//! Renews an attempt's lease, and learns from each renewal whether the attempt should stop.

use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::WorkerContext;
use crate::db::attempts;
use crate::db::jobs::Status;
use crate::db::queue::{self, FencingToken};
use crate::protocol::StopRequest;

/// Whether the attempt still holds its job, and what is requested of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseState {
    /// The attempt holds the job. `None` if it should continue.
    Held(Option<StopRequest>),
    /// The attempt no longer holds the job: stop and change nothing.
    Lost,
}

/// A lease, renewed until this value is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) state: watch::Receiver<LeaseState>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lease {
    /// Starts to renew a lease that a claim has just begun.
    pub(super) fn keep(context: &WorkerContext, token: &FencingToken, statuses: broadcast::Receiver<String>) -> Self {
        let (tell, state) = watch::channel(LeaseState::Held(None));
        let task = tokio::spawn(renew(context.clone(), token.clone(), statuses, tell));
        Self { state, task }
    }
}

async fn renew(
    context: WorkerContext,
    token: FencingToken,
    mut statuses: broadcast::Receiver<String>,
    tell: watch::Sender<LeaseState>,
) {
    let lease = context.settings.lease;
    // If the lease cannot be renewed, the trainer stops a little before it ends, so that no other attempt has started.
    let usable = lease - lease / 8;
    let mut held_until = Instant::now() + usable;
    // The first renewal is immediate, since a stop may have been requested between the claim and now.
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = status_changed(&mut statuses, &token.job) => {}
        }
        let asked = Instant::now();
        let answer = tokio::time::timeout_at(held_until, queue::heartbeat(&context.pool, &token, lease)).await;
        let state = match answer {
            Ok(Ok(Some(status))) => {
                held_until = asked + usable;
                pause = context.settings.heartbeat();
                of_status(status)
            }
            Ok(Ok(None)) => {
                tell.send_replace(LeaseState::Lost);
                // In a task of its own, since dropping the lease aborts this one.
                tokio::spawn(async move { count_refused(&context, &token).await });
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(job = token.job, %error, "heartbeat failed");
                pause = Duration::from_millis(250);
                if Instant::now() < held_until { *tell.borrow() } else { LeaseState::Lost }
            }
            // By this worker's clock the lease is about to end, and another worker may start soon.
            Err(_) => LeaseState::Lost,
        };
        tell.send_if_modified(|last| std::mem::replace(last, state) != state);
        if state == LeaseState::Lost {
            return;
        }
    }
}

/// Counts a refused write, for monitoring only: a failure is logged and changes nothing.
pub(super) async fn count_refused(context: &WorkerContext, token: &FencingToken) {
    if let Err(error) = attempts::count_refused(&context.pool, token).await {
        tracing::debug!(job = token.job, %error, "cannot count a refused write");
    }
}

fn of_status(status: Status) -> LeaseState {
    match status {
        Status::Running => LeaseState::Held(None),
        Status::Pausing => LeaseState::Held(Some(StopRequest::Pause)),
        Status::Cancelling => LeaseState::Held(Some(StopRequest::Cancel)),
        Status::Queued | Status::Paused | Status::Succeeded | Status::Failed | Status::Cancelled | Status::Unknown => {
            LeaseState::Lost
        }
    }
}

/// Returns when the job's status may have changed.
async fn status_changed(statuses: &mut broadcast::Receiver<String>, job: &str) {
    loop {
        match statuses.recv().await {
            Ok(changed) if changed.is_empty() || changed == job => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            // The listener has ended; heartbeats continue without it.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
