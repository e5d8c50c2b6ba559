//! Says in the history of a job why no worker can run it.

use std::time::Duration;

use sqlx::PgPool;

use crate::db::events;
use crate::db::interval;
use crate::db::jobs::waiting;
use crate::db::workers::{ALIVE_FOR, BEING_CHECKED};

/// How long a job must have waited, and a worker have run: the workers of a cluster start one after the other.
const GRACE: Duration = Duration::from_secs(10);
/// Most jobs that one call warns of.
const MOST_JOBS: i64 = 100;

/// Appends a warning to the history of each job that could start now and that no worker can run. A worker that is still
/// checking its machine counts as one that can.
pub async fn explain_waits(pool: &PgPool) -> sqlx::Result<()> {
    let mut transaction = pool.begin().await?;
    let stuck = sqlx::query_scalar!(
        r#"
        select job.id as "id!"
        from jobs as job left join jobs as teacher on teacher.id = job.teacher_job
        where job.status = 'queued' and job.run_after < now() - $2::interval
            and (job.teacher_job is null or teacher.status = 'succeeded')
            and exists (
                select from workers
                where workers.heartbeat_at > now() - $1::interval and workers.started_at < now() - $2::interval)
            and not exists (
                select from workers
                where workers.heartbeat_at > now() - $1::interval and coalesce(stopped_because, $4) = $4
                    and can_run(workers, job))
        order by job.id limit $3
        "#,
        interval(ALIVE_FOR),
        interval(GRACE),
        MOST_JOBS,
        BEING_CHECKED,
    )
    .fetch_all(&mut *transaction)
    .await?;
    for (job, lack) in waiting::lacks(&mut transaction, &stuck, BEING_CHECKED).await? {
        events::warn_once(&mut transaction, &job, &lack.warning()).await?;
    }
    transaction.commit().await
}
