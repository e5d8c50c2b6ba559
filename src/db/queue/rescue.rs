//! Rescues jobs that wait for what will not come: their worker's next heartbeat, or their teacher.

use std::time::Duration;

use sqlx::{Connection, PgPool};

use super::finish::fail_attempt;
use super::release::fail_dependents;
use crate::db::jobs::Status;
use crate::db::sweeps;
use crate::db::workers;
use crate::protocol::{ErrorClass, Failure};

/// Longest pause between two checks of the queue.
const LONGEST_PAUSE: f64 = 3600.0;

/// Ends the attempts whose lease has run out, fails jobs whose teacher will never come, goes on with sweeps that nobody
/// else has gone on with, and deletes workers that are gone. Returns the number of jobs. An error may be of one job,
/// which keeps no other from being rescued.
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
    let mut failed = None;
    for job in &expired {
        let message = format!("{} stopped answering while it held the job", job.worker);
        let failure = Failure { class: ErrorClass::WorkerLost, message };
        let mut savepoint = (*transaction).begin().await?;
        match fail_attempt(&mut savepoint, &job.id, job.status, job.attempt, &failure).await {
            Ok(_) => savepoint.commit().await?,
            // What another program wrote of a job may keep its row from being changed.
            Err(error) => {
                savepoint.rollback().await?;
                tracing::warn!(job = job.id, %error, "cannot rescue a job; trying again");
                failed = Some(error);
            }
        }
    }
    let orphans = fail_dependents(&mut transaction).await?;
    workers::forget_dead(&mut transaction).await?;
    transaction.commit().await?;
    // Afterwards, since what a newer version of the program stored of a sweep must not keep jobs from being rescued.
    if let Err(error) = sweeps::settle_all(pool).await {
        tracing::warn!(%error, "cannot look for sweeps to go on with");
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(expired.len() as u64 + orphans),
    }
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
