//! Keeps an attempt's lease, and learns what is wanted of it: to go on, to pause, to stop.

use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::Context;
use crate::db::attempts;
use crate::db::jobs::Status;
use crate::db::queue::{self, FencingToken};

/// What the database wants of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Go on.
    Run,
    /// Stop at a checkpoint.
    Pause,
    /// Stop.
    Cancel,
    /// Stop and change nothing: the job is somebody else's by now.
    Lost,
}

/// A lease that is renewed until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    /// The latest of what is wanted.
    pub(super) wanted: watch::Receiver<Wanted>,
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
        let (tell, wanted) = watch::channel(Wanted::Run);
        let task = tokio::spawn(renew(context.clone(), token.clone(), statuses, tell));
        Self { wanted, task }
    }
}

async fn renew(
    context: Context,
    token: FencingToken,
    mut statuses: broadcast::Receiver<String>,
    tell: watch::Sender<Wanted>,
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
        let wanted = match answer {
            Ok(Ok(Some(status))) => {
                held_until = asked + usable;
                pause = context.settings.heartbeat();
                of_status(status)
            }
            Ok(Ok(None)) => {
                tell.send_replace(Wanted::Lost);
                // Whoever hears of it ends this task.
                tokio::spawn(async move { count_refused(&context, &token).await });
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(job = token.job, %error, "heartbeat failed");
                pause = Duration::from_millis(250);
                if Instant::now() < held_until { *tell.borrow() } else { Wanted::Lost }
            }
            // By its own clock the lease is about to end: another worker may start soon.
            Err(_) => Wanted::Lost,
        };
        tell.send_if_modified(|last| std::mem::replace(last, wanted) != wanted);
        if wanted == Wanted::Lost {
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

fn of_status(status: Status) -> Wanted {
    match status {
        Status::Running => Wanted::Run,
        Status::Pausing => Wanted::Pause,
        Status::Cancelling => Wanted::Cancel,
        Status::Queued | Status::Paused | Status::Succeeded | Status::Failed | Status::Cancelled => Wanted::Lost,
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
