//! Removes the stored files of what was deleted.
//!
//! Storage may take seconds for a file, fail, or answer after its caller has gone, so no transaction waits for it. What is
//! deleted disappears from the database first, together with a row that names its files
//! ([`crate::db::file_deletions`]). That row goes after the files, and a server that finds it, after a crash or a failure,
//! goes on.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::artifacts::Store;
use crate::db::file_deletions::{self, FileDeletion};

/// How long a request that deletes waits for storage. Most files are gone by then; the others follow.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two looks for deletions that others left.
const PAUSE: Duration = Duration::from_secs(10);

/// Removes files, and forgets the deletion once they are gone.
///
/// # Errors
/// The storage or the database fails. The deletion is repeated later.
pub async fn carry_out(pool: &PgPool, artifacts: &Store, deletion: &FileDeletion) -> anyhow::Result<()> {
    if deletion.is_directory {
        artifacts.delete_directory(&deletion.key).await?;
    } else {
        artifacts.delete(&deletion.key).await?;
    }
    file_deletions::done(pool, deletion).await?;
    Ok(())
}

/// Begins to remove files in a task of its own, and waits for it a little.
pub async fn start(pool: &PgPool, artifacts: &Store, deletion: FileDeletion) {
    let (pool, artifacts) = (pool.clone(), artifacts.clone());
    let removal = tokio::spawn(async move { try_to(&pool, &artifacts, &deletion).await });
    let _ = tokio::time::timeout(PATIENCE, removal).await;
}

async fn try_to(pool: &PgPool, artifacts: &Store, deletion: &FileDeletion) -> bool {
    let outcome = carry_out(pool, artifacts, deletion).await;
    if let Err(error) = &outcome {
        tracing::warn!(key = deletion.key, %error, "cannot remove files of what was deleted; trying again in a minute");
    }
    outcome.is_ok()
}

/// Goes on with every deletion that nobody carries out now. Tries each once, so that it ends where storage takes longer to
/// fail than a deletion waits for the next try. Returns how many succeeded and how many failed.
///
/// # Errors
/// The database fails.
pub async fn catch_up(pool: &PgPool, artifacts: &Store) -> sqlx::Result<(usize, usize)> {
    let (mut done, mut failed) = (0, 0);
    let start = file_deletions::now(pool).await?;
    loop {
        let due = file_deletions::take_due(pool, start).await?;
        if due.is_empty() {
            return Ok((done, failed));
        }
        for deletion in due {
            match try_to(pool, artifacts, &deletion).await {
                true => done += 1,
                false => failed += 1,
            }
        }
    }
}

/// Catches up until `stop`. Every server does so.
pub async fn keep_up(pool: PgPool, artifacts: Store, stop: CancellationToken) {
    let rounds = async {
        loop {
            if let Err(error) = catch_up(&pool, &artifacts).await {
                tracing::warn!(%error, "cannot find out which files to remove; trying again");
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    stop.run_until_cancelled(rounds).await;
}
