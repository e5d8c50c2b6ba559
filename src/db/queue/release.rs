//! How jobs are taken from their workers, or given up because what they wait for will not come.

use std::time::Duration;

use serde_json::json;
use sqlx::PgConnection;

use crate::db::events::{self, NewEvent};
use crate::db::jobs::{Change, Status};
use crate::db::{interval, storable};
use crate::protocol::{ErrorClass, Failure};

/// The status of a held or waiting job after a change that such a job allows.
pub(super) fn next(status: Status, change: Change) -> Status {
    status.after(change).unwrap_or_else(|| unreachable!("a job that is {} met {change:?}", status.name()))
}

/// What becomes of a job that no attempt holds now.
pub(super) struct Release<'a> {
    /// The job's next status.
    pub(super) next: Status,
    /// For its history.
    pub(super) message: String,
    /// Why its last attempt failed.
    pub(super) error: Option<&'a Failure>,
    /// How long it waits before it may start again.
    pub(super) pause: Duration,
}

impl Release<'_> {
    pub(super) fn to(next: Status, message: String) -> Self {
        Self { next, message, error: None, pause: Duration::ZERO }
    }
}

/// Gives the job its next status, takes it from its worker, and adds to its history.
pub(super) async fn release(connection: &mut PgConnection, job: &str, release: Release<'_>) -> sqlx::Result<()> {
    let Release { next, message, error, pause } = release;
    sqlx::query!(
        "update jobs set status = $2, worker = null, lease_expires_at = null, error = $3, run_after = now() + $4,
            finished_at = case when $5 then now() end
         where id = $1",
        job,
        next as Status,
        error.map(|failure| json!({"class": failure.class, "message": storable(&failure.message)})),
        interval(pause),
        next.is_final(),
    )
    .execute(&mut *connection)
    .await?;
    events::append(connection, job, &[NewEvent::status(next, message)]).await
}

/// Fails waiting jobs whose teacher's job ended without a student, and those that wait for these in turn.
pub(in crate::db) async fn fail_dependents(connection: &mut PgConnection) -> sqlx::Result<u64> {
    let mut failed = 0;
    loop {
        let orphans = sqlx::query!(
            r#"select job.id, job.status as "status: Status", teacher.id as teacher,
                teacher.status as "teacher_status: Status"
               from jobs as job join jobs as teacher on teacher.id = job.teacher_job
               where job.status in ('queued', 'paused') and teacher.status in ('failed', 'cancelled')
               for no key update of job skip locked"#,
        )
        .fetch_all(&mut *connection)
        .await?;
        if orphans.is_empty() {
            return Ok(failed);
        }
        failed += orphans.len() as u64;
        for job in orphans {
            let message = format!(
                "the teacher's job {} {}: there is no student of it to learn from",
                job.teacher,
                if job.teacher_status == Status::Failed { "failed" } else { "was cancelled" }
            );
            let failure = Failure { class: ErrorClass::User, message: message.clone() };
            let next = next(job.status, Change::FailForGood);
            let end = Release { next, message, error: Some(&failure), pause: Duration::ZERO };
            release(connection, &job.id, end).await?;
        }
    }
}
