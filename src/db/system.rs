//! The state of the whole system: what waits, what was done within a day, what is stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::ToSchema;

use super::jobs::waiting;

/// Jobs by what they wait for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    /// Queued jobs that a running worker could take, now or as soon as it is free.
    pub ready: i64,
    /// Queued jobs whose time has come and that no running worker could take, for want of devices, of the data set or
    /// of a version that knows their specification.
    pub without_worker: i64,
    /// Queued jobs whose teacher's job has not succeeded yet.
    pub waiting_for_teacher: i64,
    /// Queued jobs that will be tried again after a pause.
    pub backing_off: i64,
    /// Jobs that workers hold.
    pub held: i64,
    /// Paused jobs.
    pub paused: i64,
    /// Seconds that the longest-waiting job of `ready` and `without_worker` has waited; null if there is none.
    pub longest_wait_seconds: Option<f64>,
    /// Training images per second of all jobs that run.
    pub images_per_second: f64,
}

/// The attempts of the last day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LastDay {
    /// Number that began.
    pub begun: i64,
    /// Number that ended, by outcome: `succeeded`, `stopped`, or the class of the failure.
    pub ended: BTreeMap<String, i64>,
    /// Median of the seconds that they waited for a worker before they began; null if none began.
    pub median_wait_seconds: Option<f64>,
    /// 95th percentile of these seconds.
    pub p95_wait_seconds: Option<f64>,
    /// The longest of these waits, in seconds.
    pub longest_wait_seconds: Option<f64>,
}

/// What is stored, according to the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Stored)]
pub struct StorageUsage {
    /// Number of files that finished jobs published.
    pub artifacts: i64,
    /// Their size in bytes.
    pub artifacts_bytes: i64,
    /// Number of uploaded checkpoints.
    pub checkpoints: i64,
    /// Their size in bytes.
    pub checkpoints_bytes: i64,
    /// Number of versions of uploaded data sets.
    pub datasets: i64,
    /// Their size in bytes.
    pub datasets_bytes: i64,
    /// Number of states from which jobs that have not succeeded can resume.
    pub states: i64,
    /// Their size in bytes, without states that an earlier version stored.
    pub states_bytes: i64,
    /// Size of the database in bytes.
    pub database_bytes: i64,
}

/// Counts jobs by what they wait for.
pub async fn queue(pool: &PgPool) -> sqlx::Result<Queue> {
    let without_worker = waiting::without_worker(pool).await?;
    let row = sqlx::query!(
        r#"
        with current as (
            select job.status, job.lease_expires_at, job.progress,
                calendar_time(greatest(job.run_after, teacher.finished_at)) as runnable_at,
                job.teacher_job is null or teacher.status = 'succeeded' as is_taught
            from jobs as job left join jobs as teacher on teacher.id = job.teacher_job
            where job.status in ('queued', 'running', 'pausing', 'paused', 'cancelling'))
        select
            count(*) filter (where status = 'queued' and is_taught and runnable_at <= now()) as "due!",
            count(*) filter (where status = 'queued' and not is_taught) as "waiting_for_teacher!",
            count(*) filter (where status = 'queued' and is_taught and runnable_at > now()) as "backing_off!",
            count(*) filter (where lease_expires_at is not null) as "held!",
            count(*) filter (where status = 'paused') as "paused!",
            max(extract(epoch from now() - runnable_at)) filter (
                where status = 'queued' and is_taught and runnable_at <= now())::float8 as longest_wait_seconds,
            coalesce(sum(finite_number(progress -> 'images_per_second')) filter (where status = 'running'), 0)
                as "images_per_second!"
        from current
        "#
    )
    .fetch_one(pool)
    .await?;
    Ok(Queue {
        // Two queries: a job that was claimed between them counts in neither.
        ready: (row.due - without_worker).max(0),
        without_worker,
        waiting_for_teacher: row.waiting_for_teacher,
        backing_off: row.backing_off,
        held: row.held,
        paused: row.paused,
        longest_wait_seconds: row.longest_wait_seconds,
        images_per_second: row.images_per_second,
    })
}

/// Counts the attempts of the last day.
pub async fn last_day(pool: &PgPool) -> sqlx::Result<LastDay> {
    let begun = sqlx::query!(
        r#"
        with waits as (
            select greatest(extract(epoch from started_at - runnable_at), 0)::float8 as wait from attempts
            where started_at > now() - interval '1 day')
        select count(*) as "begun!", max(wait) as longest, percentile_cont(0.5) within group (order by wait) as median,
            percentile_cont(0.95) within group (order by wait) as p95
        from waits
        "#
    )
    .fetch_one(pool)
    .await?;
    let ended = sqlx::query!(
        r#"select outcome as "outcome!", count(*) as "attempts!" from attempts
           where ended_at > now() - interval '1 day' group by outcome"#
    )
    .fetch_all(pool)
    .await?;
    Ok(LastDay {
        begun: begun.begun,
        ended: ended.into_iter().map(|row| (row.outcome, row.attempts)).collect(),
        median_wait_seconds: begun.median,
        p95_wait_seconds: begun.p95,
        longest_wait_seconds: begun.longest,
    })
}

/// Measures what is stored.
pub async fn stored(pool: &PgPool) -> sqlx::Result<StorageUsage> {
    sqlx::query_as!(
        StorageUsage,
        r#"
        select (select count(*) from artifacts) as "artifacts!",
            (select coalesce(sum(size_bytes), 0)::bigint from artifacts) as "artifacts_bytes!",
            (select count(*) from checkpoints) as "checkpoints!",
            (select coalesce(sum(size_bytes), 0)::bigint from checkpoints) as "checkpoints_bytes!",
            (select count(*) from datasets) as "datasets!",
            (select coalesce(sum(size_bytes), 0)::bigint from datasets) as "datasets_bytes!",
            (select count(*) from jobs where checkpoint is not null) as "states!",
            (select least(coalesce(sum(whole_number(checkpoint -> 'size_bytes')), 0), 1e18)::bigint from jobs
                where checkpoint is not null) as "states_bytes!",
            pg_database_size(current_database()) as "database_bytes!"
        "#
    )
    .fetch_one(pool)
    .await
}
