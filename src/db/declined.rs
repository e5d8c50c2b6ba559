//! The table `declined`: which workers are not to get a job, for good or as long as another worker could take it.

use sqlx::PgConnection;

/// Keeps a job from a worker: for good, or as long as another worker could take it.
pub(super) async fn add(connection: &mut PgConnection, job: &str, worker: &str, for_good: bool) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into declined (job_id, worker, for_good) select id, $2, $3 from jobs where id = $1
         on conflict (job_id, worker) do update set for_good = declined.for_good or excluded.for_good",
        job,
        worker,
        for_good,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Lets every worker take a job again: whatever kept one from it may have been fixed.
pub(super) async fn forget_job(connection: &mut PgConnection, job: &str) -> sqlx::Result<()> {
    sqlx::query!("delete from declined where job_id = $1", job).execute(connection).await?;
    Ok(())
}

/// Forgets what a worker was kept from. It shuts down, and its successor has another id. Rows that are locked, because
/// their job changes, are left to [`forget_gone_workers`]: they are locked job by job, and waiting for them in another
/// order could deadlock.
pub(super) async fn forget_worker(connection: &mut PgConnection, worker: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from declined where (job_id, worker) in (
            select job_id, worker from declined where worker = $1 for update skip locked)",
        worker,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets what workers that are gone were kept from, except for rows that are locked now.
pub(super) async fn forget_gone_workers(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from declined where (job_id, worker) in (
            select job_id, worker from declined
            where not exists (select from workers where workers.id = declined.worker) for update skip locked)",
    )
    .execute(connection)
    .await?;
    Ok(())
}
