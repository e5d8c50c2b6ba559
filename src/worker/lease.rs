//! Keeps an attempt's lease, and learns whether it shall stop.

use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::Context;
use crate::db::attempts;
use crate::db::jobs::Status;
use crate::db::queue::{self, FencingToken};
use crate::protocol::StopRequest;

/// Whether the attempt still has its job, and what is requested of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseState {
    /// The attempt has the job. `None` while it shall go on.
    Held(Option<StopRequest>),
    /// The job belongs to somebody else: stop and change nothing.
    Lost,
}

/// A lease that is renewed until it is dropped.
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
    /// Starts renewing. The claim set the lease just now.
    pub(super) fn keep(context: &Context, token: &FencingToken, statuses: broadcast::Receiver<String>) -> Self {
        let (tell, state) = watch::channel(LeaseState::Held(None));
        let task = tokio::spawn(renew(context.clone(), token.clone(), statuses, tell));
        Self { state, task }
    }
}

async fn renew(
    context: Context,
    token: FencingToken,
    mut statuses: broadcast::Receiver<String>,
    tell: watch::Sender<LeaseState>,
) {
    let lease = context.settings.lease;
    // Where it cannot be renewed the trainer is stopped a little before the end, when nobody else can have started yet.
    let usable = lease - lease / 8;
    let mut held_until = Instant::now() + usable;
    // What was asked for since the claim was not heard yet.
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = concerned(&mut statuses, &token.job) => {}
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
                // Whoever hears of it ends this task.
                tokio::spawn(async move { count_refused(&context, &token).await });
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(job = token.job, %error, "heartbeat failed");
                pause = Duration::from_millis(250);
                if Instant::now() < held_until { *tell.borrow() } else { LeaseState::Lost }
            }
            // By its own clock the lease is about to end: another worker may start soon.
            Err(_) => LeaseState::Lost,
        };
        tell.send_if_modified(|last| std::mem::replace(last, state) != state);
        if state == LeaseState::Lost {
            return;
        }
    }
}

/// For whoever watches the cluster; the job is another's by now and does not wait for it.
pub(super) async fn count_refused(context: &Context, token: &FencingToken) {
    if let Err(error) = attempts::count_refused(&context.pool, token).await {
        tracing::debug!(job = token.job, %error, "a refused write was not counted");
    }
}

fn of_status(status: Status) -> LeaseState {
    match status {
        Status::Running => LeaseState::Held(None),
        Status::Pausing => LeaseState::Held(Some(StopRequest::Pause)),
        Status::Cancelling => LeaseState::Held(Some(StopRequest::Cancel)),
        Status::Queued | Status::Paused | Status::Succeeded | Status::Failed | Status::Cancelled => LeaseState::Lost,
    }
}

/// Returns when the job's status may have changed.
async fn concerned(statuses: &mut broadcast::Receiver<String>, job: &str) {
    loop {
        match statuses.recv().await {
            Ok(changed) if changed.is_empty() || changed == job => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            // The listener is gone; heartbeats go on without it.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
