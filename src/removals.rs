//! Removes what is left of what was deleted: stored files, and the events and points of jobs.
//!
//! Storage may take seconds for a file, fail, or answer after its caller has gone, so no transaction waits for it. What
//! is deleted disappears from the database first, together with a row that names its files
//! ([`crate::db::file_deletions`]). That row goes after the files, and a server that finds it, after a crash or a
//! failure, goes on.
//!
//! The events and points of a job may be too many for one transaction, so they follow in small ones, after the job's
//! row has left one in their stead ([`crate::db::deleted_jobs`]).

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::artifacts::Store;
use crate::db::deleted_jobs;
use crate::db::file_deletions::{self, FileDeletion};

/// How long a request that deletes waits for the rest. Most of it is gone by then; the remainder follows.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two looks for deletions that others left.
const PAUSE: Duration = Duration::from_secs(10);
/// How often a server renews the space of a file that it stores. It may fail a few times.
pub const RENEWAL: Duration = Duration::from_secs(15);

/// Keeps the space that an announced file has reserved, for as long as this is polled.
pub async fn keep_space(pool: &PgPool, key: &str, renewal: Duration) {
    loop {
        tokio::time::sleep(renewal).await;
        if let Err(error) = file_deletions::reserve_again(pool, key).await {
            tracing::warn!(%error, key, "cannot renew the space of a file that is being stored; trying again");
        }
    }
}

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

/// The same for several files, one after the other: there may be as many as a split has shards.
pub async fn start_all(pool: &PgPool, artifacts: &Store, deletions: Vec<FileDeletion>) {
    let (pool, artifacts) = (pool.clone(), artifacts.clone());
    let removal = tokio::spawn(async move {
        for deletion in deletions {
            try_to(&pool, &artifacts, &deletion).await;
        }
    });
    let _ = tokio::time::timeout(PATIENCE, removal).await;
}

/// The same for a deleted job, with its events and points.
pub async fn start_of_job(pool: &PgPool, artifacts: &Store, job: String, files: FileDeletion) {
    let (pool, artifacts) = (pool.clone(), artifacts.clone());
    let removal = tokio::spawn(async move {
        // Neither waits for the other: storage may be slow, and points many.
        tokio::join!(try_to(&pool, &artifacts, &files), try_to_finish(&pool, &job))
    });
    let _ = tokio::time::timeout(PATIENCE, removal).await;
}

/// The same for several deleted jobs, one after the other: each may have many points.
pub async fn start_of_jobs(pool: &PgPool, artifacts: &Store, jobs: Vec<(String, FileDeletion)>) {
    let (pool, artifacts) = (pool.clone(), artifacts.clone());
    let removal = tokio::spawn(async move {
        for (job, files) in jobs {
            tokio::join!(try_to(&pool, &artifacts, &files), try_to_finish(&pool, &job));
        }
    });
    let _ = tokio::time::timeout(PATIENCE, removal).await;
}

async fn try_to_finish(pool: &PgPool, job: &str) -> bool {
    let outcome = deleted_jobs::finish(pool, job).await;
    if let Err(error) = &outcome {
        tracing::warn!(job, %error, "cannot delete the events and points of a deleted job; trying again in a minute");
    }
    outcome.is_ok()
}

async fn try_to(pool: &PgPool, artifacts: &Store, deletion: &FileDeletion) -> bool {
    let outcome = carry_out(pool, artifacts, deletion).await;
    if let Err(error) = &outcome {
        tracing::warn!(key = deletion.key, %error, "cannot remove files of what was deleted; trying again in a minute");
    }
    outcome.is_ok()
}

/// Goes on with every deletion that nobody carries out now. Tries each once, so that it ends where storage takes longer
/// to fail than a deletion waits for the next try. Returns how many succeeded and how many failed.
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

/// Goes on with every deleted job with which nobody is busy now. Returns how many are gone altogether, and how many are
/// not because the database failed.
///
/// # Errors
/// The database fails.
pub async fn catch_up_with_jobs(pool: &PgPool) -> sqlx::Result<(usize, usize)> {
    let (mut done, mut failed) = (0, 0);
    loop {
        let due = deleted_jobs::take_due(pool).await?;
        if due.is_empty() {
            return Ok((done, failed));
        }
        for job in due {
            match try_to_finish(pool, &job).await {
                true => done += 1,
                false => failed += 1,
            }
        }
        // The database may take so long to fail that the first is due again.
        if failed > 0 {
            return Ok((done, failed));
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
            if let Err(error) = catch_up_with_jobs(&pool).await {
                tracing::warn!(%error, "cannot find out what deleted jobs have left; trying again");
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    stop.run_until_cancelled(rounds).await;
}
