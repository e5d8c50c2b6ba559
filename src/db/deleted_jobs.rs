//! The table `deleted_jobs`: jobs whose events and points are left to delete. A trigger adds a job when its row is
//! deleted, and [`crate::removals`] carries out the rest.

use std::time::Duration;

use sqlx::PgPool;

use super::interval;

/// How long a server may take for a job before another one begins with it too, which does no harm.
const TURN: Duration = Duration::from_secs(60);
/// Most jobs that a server takes on at once.
const JOBS: i64 = 16;
/// Most rows that one statement, and so one transaction, deletes.
const ROWS: i64 = 5000;

/// Takes on jobs with which nobody is busy now.
pub async fn take_due(pool: &PgPool) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        "update deleted_jobs set due_at = now() + $1
         where id in (select id from deleted_jobs where due_at <= now() order by due_at limit $2 for update skip locked)
         returning id",
        interval(TURN),
        JOBS,
    )
    .fetch_all(pool)
    .await
}

/// Deletes the events and points of a job whose row is deleted, and forgets the job. A call after a
/// crash or a failure deletes what is left.
pub async fn finish(pool: &PgPool, job: &str) -> sqlx::Result<()> {
    delete_points(pool, job).await?;
    delete_events(pool, job).await?;
    sqlx::query!("delete from deleted_jobs where id = $1", job).execute(pool).await?;
    Ok(())
}

/// Each batch begins where the last one ended: what is deleted stays in the index for a while.
async fn delete_points(pool: &PgPool, job: &str) -> sqlx::Result<()> {
    let mut after = 0_i64;
    loop {
        let query = sqlx::query_scalar!(
            "with batch as (select id from metrics where job_id = $1 and id > $2 order by id limit $3),
                gone as (delete from metrics where job_id = $1 and id > $2 and id <= (select max(id) from batch))
             select max(id) as last from batch",
            job,
            after,
            ROWS,
        );
        let Some(last) = query.fetch_one(pool).await? else { return Ok(()) };
        after = last;
    }
}

async fn delete_events(pool: &PgPool, job: &str) -> sqlx::Result<()> {
    let mut after = 0_i64;
    loop {
        let query = sqlx::query_scalar!(
            "with batch as (select seq from events where job_id = $1 and seq > $2 order by seq limit $3),
                gone as (delete from events where job_id = $1 and seq > $2 and seq <= (select max(seq) from batch))
             select max(seq) as last from batch",
            job,
            after,
            ROWS,
        );
        let Some(last) = query.fetch_one(pool).await? else { return Ok(()) };
        after = last;
    }
}
