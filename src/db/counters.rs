//! Sums over the ledger of attempts, for whoever watches a cluster. They come from the database, so that every server
//! tells the same, and count only what has ended, so that no counter ever falls.

use sqlx::PgPool;

/// Upper bounds, in seconds, of the classes in which waits are counted.
pub const WAIT_BOUNDS: [f64; 9] = [0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0];

/// What has become of all attempts.
#[derive(Debug, Clone, PartialEq)]
pub struct Ledger {
    /// Attempts that ended, by outcome: `succeeded`, `stopped`, or the class of the failure.
    pub ended: Vec<(String, i64)>,
    /// Writes that were refused because their attempt had lost its job.
    pub refused_writes: i64,
    /// Seconds for which attempts held a device, and whose work was kept.
    pub seconds_used: f64,
    /// Seconds for which attempts held a device after their last checkpoint, and then failed.
    pub seconds_lost: f64,
    /// How long jobs that could start waited for a worker.
    pub waits: Waits,
    /// How long the job that has waited longest of those that could start now has waited, in seconds.
    pub longest_wait: f64,
    /// Age, in seconds, of the oldest last heartbeat of the jobs that are held.
    pub lease_age: f64,
    /// Training images per second of all jobs that run.
    pub images_per_second: f64,
}

/// A histogram of seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Waits {
    /// How many waits were shorter than each of [`WAIT_BOUNDS`]; those of a class include the classes before.
    pub below: Vec<i64>,
    /// How many there were.
    pub count: i64,
    /// Their sum.
    pub sum: f64,
}

/// Sums up.
///
/// # Errors
/// Those of the database.
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
    let classes = sqlx::query!(
        r#"
        with waits as (select greatest(extract(epoch from started_at - runnable_at), 0)::float8 as wait from attempts)
        select width_bucket(wait, $1) as "class!", count(*) as "waits!", sum(wait) as "sum!" from waits group by 1
        "#,
        &WAIT_BOUNDS,
    )
    .fetch_all(pool)
    .await?;
    let now = sqlx::query!(
        r#"
        select
            (select coalesce(max(extract(epoch from now() - greatest(job.run_after, teacher.finished_at))), 0)::float8
                from jobs as job left join jobs as teacher on teacher.id = job.teacher_job
                where job.status = 'queued' and job.run_after <= now()
                    and (job.teacher_job is null or teacher.status = 'succeeded')) as "longest_wait!",
            coalesce(max(extract(epoch from now() - lease_renewed_at)), 0)::float8 as "lease_age!",
            coalesce(sum((progress ->> 'images_per_second')::float8), 0) as "images_per_second!"
        from jobs where lease_expires_at is not null
        "#
    )
    .fetch_one(pool)
    .await?;
    let below = |place: i32| classes.iter().filter(|row| row.class <= place).map(|row| row.waits).sum();
    Ok(Ledger {
        ended: ended.into_iter().map(|row| (row.outcome, row.attempts)).collect(),
        refused_writes: spent.refused,
        seconds_used: spent.used,
        seconds_lost: spent.lost,
        waits: Waits {
            below: (0..).take(WAIT_BOUNDS.len()).map(below).collect(),
            count: classes.iter().map(|row| row.waits).sum(),
            sum: classes.iter().map(|row| row.sum).sum(),
        },
        longest_wait: now.longest_wait,
        lease_age: now.lease_age,
        images_per_second: now.images_per_second,
    })
}
