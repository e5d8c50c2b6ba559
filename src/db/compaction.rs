//! Ended jobs in less room: long series thinned as charts show them, and runs of log lines and checkpoints in one entry.

use std::collections::HashMap;

use futures::TryStreamExt;
use sqlx::PgPool;

use super::thin::Thinned;

/// So many points stay of a longer series; one point per epoch stays whole.
const POINTS: usize = 1000;

/// What became of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compacted {
    /// Its id.
    pub job: String,
    /// Points of series that went.
    pub points: u64,
    /// Entries of its history that others stand for now.
    pub events: u64,
}

/// Compacts one job that ended so many days ago and has not been compacted since; none where there is no such job.
///
/// Servers that do so at once each take another job.
///
/// # Errors
/// Those of the database.
pub async fn compact_one(pool: &PgPool, after_days: u32) -> sqlx::Result<Option<Compacted>> {
    let mut transaction = pool.begin().await?;
    let job = sqlx::query_scalar!(
        "select id from jobs
         where finished_at <= now() - make_interval(days => $1) and (compacted_at is null or compacted_at < finished_at)
         order by finished_at limit 1 for update skip locked",
        i32::try_from(after_days).unwrap_or(i32::MAX),
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(job) = job else { return Ok(None) };

    let mut series: HashMap<String, Thinned<i64>> = HashMap::new();
    {
        let query = sqlx::query!("select id, name, step, value from metrics where job_id = $1", job);
        let mut rows = query.fetch(&mut *transaction);
        while let Some(row) = rows.try_next().await? {
            series.entry(row.name).or_insert_with(|| Thinned::new(POINTS)).push(row.step, row.value, row.id);
        }
    }
    let stay: Vec<i64> = series.into_values().flat_map(Thinned::finish).collect();
    let points = sqlx::query!("delete from metrics where job_id = $1 and id <> all($2)", job, &stay)
        .execute(&mut *transaction)
        .await?
        .rows_affected();

    // An entry stays that says something of its own. `last` is the number of the last entry that one stands for.
    let events = sqlx::query_scalar!(
        r#"
        with small as (
            select seq, case kind when 'compacted' then (data ->> 'to')::bigint else seq end as last
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
    .fetch_one(&mut *transaction)
    .await?;

    sqlx::query!("update jobs set compacted_at = now() where id = $1", job).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Some(Compacted { job, points, events: events.unsigned_abs() }))
}
