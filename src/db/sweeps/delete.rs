//! Deletes sweeps that have ended, with their jobs.

use sqlx::{PgConnection, PgPool};

use super::change::{LockedJob, lock_all};
use super::settle::finish;
use super::{SweepRefusal, SweepStatus};
use crate::artifacts::keys;
use crate::db::errors::past_deadlock;
use crate::db::file_deletions::{self, FileDeletion};
use crate::db::jobs::{Refusal, Status, delete_in};
use crate::text::counted;

/// A job that is gone, and its files, which are left to remove.
#[derive(Debug)]
pub struct DeletedJob {
    pub id: String,
    pub files: FileDeletion,
}

/// Deletes a sweep and its jobs, all or none. Returns what is left to do.
pub async fn delete(pool: &PgPool, id: &str) -> sqlx::Result<Result<Vec<DeletedJob>, SweepRefusal>> {
    past_deadlock(move || try_delete(pool, id)).await
}

async fn try_delete(pool: &PgPool, id: &str) -> sqlx::Result<Result<Vec<DeletedJob>, SweepRefusal>> {
    let mut transaction = pool.begin().await?;
    let deleted = delete_all(&mut transaction, id).await?;
    match deleted {
        Ok(_) => transaction.commit().await?,
        Err(_) => transaction.rollback().await?,
    }
    Ok(deleted)
}

async fn delete_all(connection: &mut PgConnection, id: &str) -> sqlx::Result<Result<Vec<DeletedJob>, SweepRefusal>> {
    // Of all its jobs before any of these, as for the deletion of a single teacher.
    sqlx::query!(
        "select id from jobs where teacher_job in (select id from jobs where sweep_id = $1) and status = any($2)
         order by id for no key update",
        id,
        &Status::FINAL as &[Status],
    )
    .fetch_all(&mut *connection)
    .await?;
    let Some((status, jobs)) = lock_all(connection, id).await? else { return Ok(Err(SweepRefusal::Missing)) };
    if status == SweepStatus::Unknown {
        return Ok(Err(SweepRefusal::NotWhile(status)));
    }
    if let Some(reason) = unfinished(status, &jobs) {
        return Ok(Err(SweepRefusal::Because(reason)));
    }
    // A program that knows no sweeps may have ended its last job, and nobody has ended the sweep since. Its webhooks
    // are told while its jobs are there.
    if status == SweepStatus::Running {
        finish(connection, id).await?;
    }
    // Whoever is about to refer to one of them is waited for before anything is deleted.
    sqlx::query!("select id from jobs where sweep_id = $1 order by id for update", id)
        .fetch_all(&mut *connection)
        .await?;
    let mut deleted = Vec::new();
    for job in jobs {
        match delete_in(connection, &job.id).await? {
            Ok(()) => {}
            Err(Refusal::Because(reason)) => {
                return Ok(Err(SweepRefusal::Because(format!("job {}: {reason}", job.id))));
            }
            Err(other) => unreachable!("a finished job that is locked: {other:?}"),
        }
        let files = FileDeletion { key: keys::job(&job.id), is_directory: true };
        file_deletions::decide(connection, &files).await?;
        deleted.push(DeletedJob { id: job.id, files });
    }
    sqlx::query!("delete from sweeps where id = $1", id).execute(connection).await?;
    Ok(Ok(deleted))
}

/// Which jobs keep a sweep from being deleted, and what to do about it. `None` if all have ended.
fn unfinished(sweep: SweepStatus, jobs: &[LockedJob]) -> Option<String> {
    let left: Vec<_> = jobs.iter().filter(|job| !job.status.is_final()).collect();
    // One that is being cancelled needs nothing but time.
    let first = left.iter().find(|job| job.status != Status::Cancelling).or(left.first())?;
    let advice = match (first.status, sweep) {
        (Status::Cancelling, _) => "wait until all have ended",
        (_, SweepStatus::Running | SweepStatus::Paused) => "cancel the sweep first",
        _ => "cancel what is left of them first",
    };
    let unfinished = counted(left.len() as u64, "of its jobs is not finished", "of its jobs are not finished");
    let example = if left.len() == 1 { "" } else { ", for example," };
    Some(format!("{unfinished}: {}{example} is {}; {advice}", first.id, first.status.name()))
}
