//! Counts for Prometheus. They come from the database, so that every server reports the same; counters count only
//! attempts that have ended, so that none ever falls.

use sqlx::PgPool;

use super::interval;
use super::jobs::Status;
use super::workers::ALIVE_FOR;

/// Upper bounds of the histogram's buckets, in seconds.
pub const WAIT_BOUNDS: [f64; 9] = [0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0];

/// Sums over all attempts, and over the jobs that are held now.
#[derive(Debug, Clone, PartialEq)]
pub struct Ledger {
    /// Attempts that ended, by outcome.
    pub ended: Vec<(String, i64)>,
    /// Writes that were refused because their attempt no longer held the job.
    pub refused_writes: i64,
    /// Seconds during which attempts held devices and made progress that was kept.
    pub seconds_used: f64,
    /// Seconds during which attempts that failed held devices after their last checkpoint.
    pub seconds_lost: f64,
    /// How long jobs that could start waited for a worker.
    pub waits: Waits,
    /// The longest that any job that could start now has waited, in seconds.
    pub longest_wait: f64,
    /// Age, in seconds, of the oldest last heartbeat of the jobs that are held.
    pub lease_age: f64,
    /// Training images per second of all jobs that run.
    pub images_per_second: f64,
}

/// A histogram of waits, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Waits {
    /// Number of waits below each of [`WAIT_BOUNDS`].
    pub below: Vec<i64>,
    pub count: i64,
    pub sum: f64,
}

/// Sums over all attempts.
pub async fn sums(pool: &PgPool) -> sqlx::Result<Ledger> {
    let ended = sqlx::query!(
        r#"select outcome as "outcome!", count(*) as "attempts!" from attempts where ended_at is not null group by 1"#
    )
    .fetch_all(pool)
    .await?;
    let spent = sqlx::query!(
        r#"
        with spans as (
            select refused_writes, extract(epoch from ended_at - started_at)::float8 as held,
                case when outcome in ('succeeded', 'stopped') then 0
                    else extract(epoch from ended_at - coalesce(saved_at, started_at))::float8 end as lost
            from attempts)
        select coalesce(sum(held - lost), 0) as "used!", coalesce(sum(lost), 0) as "lost!",
            coalesce(sum(refused_writes), 0)::bigint as "refused!"
        from spans
        "#
    )
    .fetch_one(pool)
    .await?;
    let now = sqlx::query!(
        r#"
        select
            (select coalesce(max(
                    extract(epoch from now() - calendar_time(greatest(job.run_after, teacher.finished_at)))), 0)::float8
                from jobs as job left join jobs as teacher on teacher.id = job.teacher_job
                where job.status = 'queued' and job.run_after <= now()
                    and (job.teacher_job is null or teacher.status = 'succeeded')) as "longest_wait!",
            coalesce(max(extract(epoch from now() - lease_renewed_at)), 0)::float8 as "lease_age!",
            coalesce(sum(finite_number(progress -> 'images_per_second')), 0) as "images_per_second!"
        from jobs where lease_expires_at is not null
        "#
    )
    .fetch_one(pool)
    .await?;
    Ok(Ledger {
        ended: ended.into_iter().map(|row| (row.outcome, row.attempts)).collect(),
        refused_writes: spent.refused,
        seconds_used: spent.used,
        seconds_lost: spent.lost,
        waits: waits(pool).await?,
        longest_wait: now.longest_wait,
        lease_age: now.lease_age,
        images_per_second: now.images_per_second,
    })
}

async fn waits(pool: &PgPool) -> sqlx::Result<Waits> {
    let buckets = sqlx::query!(
        r#"
        with waits as (select greatest(extract(epoch from started_at - runnable_at), 0)::float8 as wait from attempts)
        select width_bucket(wait, $1) as "bucket!", count(*) as "waits!", sum(wait) as "sum!" from waits group by 1
        "#,
        &WAIT_BOUNDS,
    )
    .fetch_all(pool)
    .await?;
    let below = |bound: i32| buckets.iter().filter(|row| row.bucket <= bound).map(|row| row.waits).sum();
    Ok(Waits {
        below: (0..).take(WAIT_BOUNDS.len()).map(below).collect(),
        count: buckets.iter().map(|row| row.waits).sum(),
        sum: buckets.iter().map(|row| row.sum).sum(),
    })
}

/// Jobs and workers as they are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    pub jobs: Vec<(Status, i64)>,
    /// Queued jobs that a worker could take now.
    pub ready: i64,
    /// Workers that are alive and hold a job.
    pub busy_workers: i64,
    /// Workers that are alive, hold none and take jobs.
    pub idle_workers: i64,
    /// Workers that are alive, hold none and take no jobs because of a fault of their machine.
    pub stopped_workers: i64,
}

/// Counts jobs and workers.
pub async fn totals(pool: &PgPool) -> sqlx::Result<Totals> {
    let counted =
        sqlx::query!(r#"select status, count(*) as "jobs!" from jobs group by status"#).fetch_all(pool).await?;
    let jobs_of = |status: Status| counted.iter().find(|row| row.status == status.name()).map_or(0, |row| row.jobs);
    let known = Status::ALL.map(|status| (status, jobs_of(status)));
    let others = counted.iter().map(|row| row.jobs).sum::<i64>() - known.iter().map(|(_, jobs)| jobs).sum::<i64>();
    let row = sqlx::query!(
        r#"
        select
            (select count(*) from jobs left join jobs as teachers on teachers.id = jobs.teacher_job
                where jobs.status = 'queued' and jobs.run_after <= now()
                    and (jobs.teacher_job is null or teachers.status = 'succeeded')) as "ready!",
            count(*) filter (where is_busy) as "busy!",
            count(*) filter (where not is_busy and stopped_because is null) as "idle!",
            count(*) filter (where not is_busy and stopped_because is not null) as "stopped!"
        from (
            select stopped_because, exists (
                select from jobs where lease_expires_at is not null and worker = workers.id) as is_busy
            from workers where heartbeat_at > now() - $1::interval) as alive
        "#,
        interval(ALIVE_FOR),
    )
    .fetch_one(pool)
    .await?;
    Ok(Totals {
        jobs: known.into_iter().chain([(Status::Unknown, others)]).collect(),
        ready: row.ready,
        busy_workers: row.busy,
        idle_workers: row.idle,
        stopped_workers: row.stopped,
    })
}
