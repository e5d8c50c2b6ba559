//! Compacts jobs that succeeded long ago: thins long series as charts show them, and replaces each run of log lines and
//! checkpoints by one event. Every point stays in the file of metrics that the job has published; what is in no such
//! file is left alone.

use std::collections::HashMap;

use futures::TryStreamExt;
use sqlx::{PgConnection, PgPool};

use super::downsample::Downsampled;
use crate::protocol::{files, series};

/// Points that are left of a longer series. A series with one point per epoch is shorter.
const POINTS: usize = 1000;
/// Most points that one statement looks at, so that none takes long.
const ROWS: i64 = 5000;

/// What was removed of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compacted {
    /// The job's id.
    pub job: String,
    /// Points of its series.
    pub points: u64,
    /// Events of its history that others stand for now.
    pub events: u64,
}

/// Compacts one job that ended `after_days` ago and has not been compacted since; none if there is no such job. Several
/// servers may do so at once: each takes another job.
///
/// A job that failed or was cancelled has published no file, so the database has the only copy of its points, and its
/// log may be the only explanation: it stays as it is until it is deleted.
pub async fn compact_one(pool: &PgPool, after_days: u32) -> sqlx::Result<Option<Compacted>> {
    let mut transaction = pool.begin().await?;
    let job = sqlx::query_scalar!(
        "select id from jobs
         where finished_at <= now() - make_interval(days => $1) and (compacted_at is null or compacted_at < finished_at)
            and exists (
                select from artifacts
                where job_id = jobs.id and attempt = jobs.published_attempt and artifacts.name = $2)
         order by finished_at limit 1 for no key update skip locked",
        i32::try_from(after_days).unwrap_or(i32::MAX),
        files::METRICS,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(job) = job else { return Ok(None) };
    let points = thin_series(&mut transaction, &job).await?;
    let events = merge_events(&mut transaction, &job).await?;
    sqlx::query!("update jobs set compacted_at = now() where id = $1", job).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Some(Compacted { job, points, events }))
}

/// Deletes points, and returns how many.
async fn thin_series(connection: &mut PgConnection, job: &str) -> sqlx::Result<u64> {
    let mut series: HashMap<String, Downsampled<i64>> = HashMap::new();
    {
        // The worker adds this series, which is not in the trainer's file.
        let query = sqlx::query!(
            "select id, name, step, value from metrics where job_id = $1 and name <> $2",
            job,
            series::GPU_BYTES,
        );
        let mut rows = query.fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            series.entry(row.name).or_insert_with(|| Downsampled::new(POINTS)).push(row.step, row.value, row.id);
        }
    }
    let stay: Vec<i64> = series.into_values().flat_map(Downsampled::finish).collect();
    let (mut after, mut deleted) = (0, 0);
    loop {
        let batch = sqlx::query!(
            r#"with batch as (select id from metrics where job_id = $1 and id > $2 order by id limit $3),
                gone as (
                    delete from metrics
                    where job_id = $1 and id > $2 and id <= (select max(id) from batch) and id <> all($4) and name <> $5
                    returning id)
             select (select max(id) from batch) as last, (select count(*) from gone) as "deleted!""#,
            job,
            after,
            ROWS,
            &stay,
            series::GPU_BYTES,
        )
        .fetch_one(&mut *connection)
        .await?;
        let Some(last) = batch.last else { return Ok(deleted) };
        (after, deleted) = (last, deleted + batch.deleted.unsigned_abs());
    }
}

/// Replaces runs of events that say little, and returns how many went. `last` is the number of the last event that one
/// stands for, which is its own unless an earlier compaction made it.
async fn merge_events(connection: &mut PgConnection, job: &str) -> sqlx::Result<u64> {
    let events = sqlx::query_scalar!(
        r#"
        with small as (
            select seq, case kind when 'compacted' then coalesce(whole_number(data -> 'to'), seq) else seq end as last
            from events
            where job_id = $1 and (kind in ('checkpoint', 'compacted') or kind = 'log' and data is null)
        ), marked as (
            select seq, last, (seq is distinct from lag(last) over (order by seq) + 1)::integer as begins from small
        ), numbered as (
            select seq, last, sum(begins) over (order by seq) as run from marked
        ), runs as (
            select min(seq) as first, max(last) as last from numbered group by run having count(*) > 1
        ), gone as (
            delete from events using runs
            where job_id = $1 and seq > runs.first and seq <= runs.last
            returning seq
        ), stands as (
            update events set kind = 'compacted', data = jsonb_build_object('from', runs.first, 'to', runs.last),
                message = format('%s lines of the log and checkpoints', runs.last - runs.first + 1)
            from runs where job_id = $1 and seq = runs.first
        )
        select count(*) as "events!" from gone
        "#,
        job,
    )
    .fetch_one(connection)
    .await?;
    Ok(events.unsigned_abs())
}
