//! What users change about a sweep: pause, resume, cancel.

use sqlx::{PgConnection, PgPool};

use super::settle::{settle_free, settle_sweep};
use super::{SweepRefusal, SweepStatus};
use crate::db::declined;
use crate::db::events::{self, NewEvent};
use crate::db::jobs::{Change, Status, set_status};
use crate::db::queue::fail_dependents;

/// What a user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepChange {
    Pause,
    Resume,
    Cancel,
}

impl SweepChange {
    /// The status after the change; `None` if a sweep of this status does not allow it.
    fn after(self, status: SweepStatus) -> Option<SweepStatus> {
        match (self, status) {
            (Self::Pause, SweepStatus::Running | SweepStatus::Paused) => Some(SweepStatus::Paused),
            (Self::Resume, SweepStatus::Running | SweepStatus::Paused) => Some(SweepStatus::Running),
            (Self::Cancel, SweepStatus::Finished | SweepStatus::Unknown) => None,
            (Self::Cancel, _) => Some(SweepStatus::Cancelled),
            _ => None,
        }
    }

    fn of_job(self) -> Change {
        match self {
            Self::Pause => Change::Pause,
            Self::Resume => Change::Resume,
            Self::Cancel => Change::Cancel,
        }
    }
}

/// Changes a sweep and all of its jobs, or nothing.
pub async fn change(pool: &PgPool, id: &str, change: SweepChange) -> sqlx::Result<Result<(), SweepRefusal>> {
    let mut transaction = pool.begin().await?;
    let changed = change_in(&mut transaction, id, change).await?;
    match changed {
        Ok(()) => transaction.commit().await?,
        // At once: a claim skips locked jobs.
        Err(_) => transaction.rollback().await?,
    }
    Ok(changed)
}

/// A job of a sweep, whose row is locked until the transaction ends.
pub(super) struct LockedJob {
    pub(super) id: String,
    pub(super) status: Status,
    /// Whether it has saved the checkpoint with which it is compared.
    has_reached: bool,
}

/// Locks the jobs of a sweep and then the sweep. `None` if there is no such sweep.
pub(super) async fn lock_all(
    connection: &mut PgConnection,
    id: &str,
) -> sqlx::Result<Option<(SweepStatus, Vec<LockedJob>)>> {
    let jobs = sqlx::query_as!(
        LockedJob,
        r#"select id, status as "status: Status", has_reached_rung(jobs) as "has_reached!"
           from jobs where sweep_id = $1 order by id for no key update"#,
        id,
    )
    .fetch_all(&mut *connection)
    .await?;
    let sweep = sqlx::query_scalar!(
        r#"select status as "status: SweepStatus" from sweeps where id = $1 for no key update"#,
        id
    );
    Ok(sweep.fetch_optional(connection).await?.map(|status| (status, jobs)))
}

async fn change_in(
    connection: &mut PgConnection,
    id: &str,
    change: SweepChange,
) -> sqlx::Result<Result<(), SweepRefusal>> {
    let Some((before, jobs)) = lock_all(connection, id).await? else { return Ok(Err(SweepRefusal::Missing)) };
    let Some(after) = change.after(before) else { return Ok(Err(SweepRefusal::NotWhile(before))) };
    if change == SweepChange::Resume
        && let Some(job) = jobs.iter().find(|job| job.status == Status::Pausing)
    {
        return Ok(Err(SweepRefusal::Because(format!("job {} is still pausing: try again once it is paused", job.id))));
    }
    for job in &jobs {
        // Only the comparison ends the wait at a rung, and nothing pauses it further.
        let is_at_rung = job.status == Status::Paused && job.has_reached;
        if !(is_at_rung && change != SweepChange::Cancel) {
            change_job(connection, job, change.of_job()).await?;
        }
    }
    // After its jobs, because a message to its webhooks counts them.
    sqlx::query!(
        "update sweeps set status = $2, finished_at = case when $3 then coalesce(finished_at, now()) end where id = $1",
        id,
        after as SweepStatus,
        after == SweepStatus::Cancelled,
    )
    .execute(&mut *connection)
    .await?;
    let mut failed = settle_sweep(connection, id).await?;
    if change == SweepChange::Cancel {
        failed += fail_dependents(connection).await?;
    }
    if failed > 0 {
        settle_free(connection).await?;
    }
    Ok(Ok(()))
}

/// Changes a job if its status allows it.
async fn change_job(connection: &mut PgConnection, job: &LockedJob, change: Change) -> sqlx::Result<()> {
    let Some(after) = job.status.after(change).filter(|after| *after != job.status) else { return Ok(()) };
    set_status(connection, &job.id, after, false).await?;
    if after == Status::Queued {
        declined::forget_job(connection, &job.id).await?;
    }
    let event = NewEvent::status(after, format!("{} on request, with its sweep", after.name()));
    events::append(connection, &job.id, &[event]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_that_has_ended_does_not_change_any_more() {
        for change in [SweepChange::Pause, SweepChange::Resume, SweepChange::Cancel] {
            assert_eq!(change.after(SweepStatus::Finished), None, "{change:?}");
            assert_eq!(change.after(SweepStatus::Unknown), None, "{change:?}");
            let cancelled = (change == SweepChange::Cancel).then_some(SweepStatus::Cancelled);
            assert_eq!(change.after(SweepStatus::Cancelled), cancelled, "{change:?}");
        }
    }
}
