//! Rescues jobs that wait for what will not come: their worker's next heartbeat, or their teacher.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use super::finish::{Release, fail_attempt, next, release};
use crate::db::jobs::{Change, Status};
use crate::db::sweeps;
use crate::db::workers;
use crate::protocol::{ErrorClass, Failure};

/// Longest pause between two looks at the queue.
const LONGEST_PAUSE: f64 = 3600.0;

/// Ends the attempts whose lease has run out, fails jobs whose teacher will never come, goes on with sweeps that nobody
/// else has gone on with, and deletes workers that are gone. Returns the number of jobs.
pub async fn rescue_expired(pool: &PgPool) -> sqlx::Result<u64> {
    let mut transaction = pool.begin().await?;
    let expired = sqlx::query!(
        r#"select job.id, job.status as "status: Status", job.attempt,
            coalesce(workers.name, job.worker, 'its worker') as "worker!"
           from jobs as job left join workers on workers.id = job.worker
           where job.lease_expires_at < now() and job.status = any($1) for no key update of job skip locked"#,
        // A newer version of the program may know others.
        &Status::ALL as &[Status],
    )
    .fetch_all(&mut *transaction)
    .await?;
    for job in &expired {
        let message = format!("{} stopped answering while it held the job", job.worker);
        let failure = Failure { class: ErrorClass::WorkerLost, message };
        fail_attempt(&mut transaction, &job.id, job.status, job.attempt, &failure).await?;
    }
    let orphans = fail_dependents(&mut transaction).await?;
    workers::forget_dead(&mut transaction).await?;
    transaction.commit().await?;
    // Afterwards, since what a newer version of the program stored of a sweep must not keep jobs from being rescued.
    if let Err(error) = sweeps::settle_all(pool).await {
        tracing::warn!(%error, "cannot look for sweeps to go on with");
    }
    Ok(expired.len() as u64 + orphans)
}

/// The time until the first lease runs out, unless it is renewed; none if no job is held.
pub async fn until_next_expiry(pool: &PgPool) -> sqlx::Result<Option<Duration>> {
    let seconds = sqlx::query_scalar!(
        "select extract(epoch from min(lease_expires_at) - now())::float8 from jobs where lease_expires_at is not null",
    )
    .fetch_one(pool)
    .await?;
    Ok(seconds.map(pause))
}

pub(super) fn pause(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, LONGEST_PAUSE))
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
