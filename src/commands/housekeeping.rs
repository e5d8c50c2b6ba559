//! What a server does by itself once an hour, so that it can be left alone: old jobs take less room, and those go that
//! its rules no longer keep.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::prune::prune;
use crate::artifacts::Store;
use crate::cli::Rules;
use crate::jobs::compaction;

/// From the end of one round to the beginning of the next.
const PAUSE: Duration = Duration::from_secs(3600);

/// What is done in each round.
#[derive(Debug, Clone)]
pub struct Chores {
    /// Days after its end when a job is compacted; 0 for never.
    pub compact_after_days: u32,
    /// What is removed.
    pub rules: Rules,
}

/// Does the chores until it is told to stop, the first time at once. What fails is logged and tried again in the next
/// round. Several servers may do so at once.
pub async fn run(pool: PgPool, artifacts: Store, chores: Chores, stop: CancellationToken) {
    loop {
        let round = async {
            if let Err(error) = compact(&pool, chores.compact_after_days).await {
                tracing::warn!(%error, "cannot compact old jobs; trying again in an hour");
            }
            // Without a rule nothing goes by itself, not even a file that nothing names: it may be another server's, whose
            // storage this one was given by mistake.
            if chores.rules.older_than_days.is_some() || chores.rules.max_bytes.is_some() {
                let log = |line: String| {
                    tracing::info!("{line}");
                    Ok(())
                };
                if let Err(error) = prune(&pool, &artifacts, &chores.rules, false, log).await {
                    tracing::warn!(error = format!("{error:#}"), "cannot prune; trying again in an hour");
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
            "compacted a job that ended {after_days} days ago or more"
        );
    }
    Ok(())
}
