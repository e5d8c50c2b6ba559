//! What a server does once an hour so that it can run unattended: it compacts old jobs, forgets old messages, and
//! removes the jobs and files that its rules no longer keep.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::prune::prune;
use crate::artifacts::Store;
use crate::cli::PruneRules;
use crate::db::{compaction, webhooks};

/// Time from the end of one round to the start of the next.
const PAUSE: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone)]
pub struct Chores {
    /// Days after its end when a job is compacted; 0 means never.
    pub compact_after_days: u32,
    pub rules: PruneRules,
}

/// Does the chores until `stop`, for the first time at once. Failures are logged and tried again in the next round.
/// Several servers may do this at the same time.
pub async fn run(pool: PgPool, artifacts: Store, chores: Chores, stop: CancellationToken) {
    loop {
        let round = async {
            if let Err(error) = compact(&pool, chores.compact_after_days).await {
                tracing::warn!(%error, "cannot compact old jobs; next attempt in an hour");
            }
            match webhooks::tidy(&pool).await {
                Ok(0) => {}
                Ok(given_up) => tracing::warn!(given_up, "messages for webhooks that no server knows were given up"),
                Err(error) => tracing::warn!(%error, "cannot tidy messages for webhooks; next attempt in an hour"),
            }
            // Without a rule nothing is removed, not even unreferenced files: they may belong to another server whose
            // storage was configured here by mistake.
            if chores.rules.removes_something() {
                let log = |line: String| tracing::info!("{line}");
                if let Err(error) = prune(&pool, &artifacts, &chores.rules, false, log).await {
                    tracing::warn!(error = format!("{error:#}"), "cannot prune; next attempt in an hour");
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = round => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn compact(pool: &PgPool, after_days: u32) -> sqlx::Result<()> {
    if after_days == 0 {
        return Ok(());
    }
    while let Some(compacted) = compaction::compact_one(pool, after_days).await? {
        tracing::info!(
            job = compacted.job,
            points = compacted.points,
            events = compacted.events,
            "compacted a job that ended at least {after_days} days ago"
        );
    }
    Ok(())
}
