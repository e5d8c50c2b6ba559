//! The table `metrics`: the points of a job's series. A step has at most one point of a name.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

use super::storable;
use super::thin::Thinned;
use crate::protocol::{self, series};

/// One point. A reader goes on after its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Point)]
pub struct StoredPoint {
    /// Ascends within the job.
    #[serde(skip)]
    pub id: i64,
    /// Name of the series.
    #[schema(example = "eval/top1")]
    pub name: String,
    /// Optimisation steps done.
    pub step: i64,
    /// Epochs done, with the part of the current one.
    pub epoch: f64,
    /// When it was measured.
    pub time: DateTime<Utc>,
    /// Percent for `top1` and `top5`.
    pub value: f64,
    /// The attempt that it comes from. An attempt that resumes repeats the steps after its checkpoint, and its points
    /// replace those of earlier attempts from its first step on.
    pub attempt: i32,
}

/// The points after an id, in the order in which they were written.
pub async fn list(pool: &PgPool, job: &str, after: i64, limit: i64) -> sqlx::Result<Vec<StoredPoint>> {
    sqlx::query_as!(
        StoredPoint,
        r#"
        select id, name, step, epoch, time, value, attempt from metrics
        where job_id = $1 and id > $2 order by id limit $3
        "#,
        job,
        after,
        limit,
    )
    .fetch_all(pool)
    .await
}

/// The id of the newest point; 0 if there is none.
pub async fn newest(pool: &PgPool, job: &str) -> sqlx::Result<i64> {
    let query = sqlx::query_scalar!(r#"select coalesce(max(id), 0) as "id!" from metrics where job_id = $1"#, job);
    query.fetch_one(pool).await
}

/// The last step that has a point; 0 if none has.
pub async fn newest_step(pool: &PgPool, job: &str) -> sqlx::Result<u64> {
    let query = sqlx::query_scalar!(r#"select coalesce(max(step), 0) as "step!" from metrics where job_id = $1"#, job);
    Ok(query.fetch_one(pool).await?.unsigned_abs())
}

/// Writes an attempt's points, apart from those of steps that have one: a batch that is written again, since its commit
/// was not heard of, counts once.
pub(super) async fn insert(
    connection: &mut PgConnection,
    job: &str,
    attempt: i32,
    points: &[protocol::Point],
) -> sqlx::Result<()> {
    if points.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = points.iter().map(|point| storable(&point.name)).collect();
    let steps: Vec<i64> = points.iter().map(|point| i64::try_from(point.step).unwrap_or(i64::MAX)).collect();
    let epochs: Vec<f64> = points.iter().map(|point| point.epoch).collect();
    let times: Vec<DateTime<Utc>> = points.iter().map(|point| point.time).collect();
    let values: Vec<f64> = points.iter().map(|point| point.value).collect();
    sqlx::query!(
        "insert into metrics (job_id, attempt, name, step, epoch, time, value)
         select $1, $2, name, step, epoch, time, value
         from unnest($3::text[], $4::bigint[], $5::float8[], $6::timestamptz[], $7::float8[])
            with ordinality as point (name, step, epoch, time, value, place)
         where not exists (
            select from metrics as known
            where known.job_id = $1 and known.name = point.name and known.step = point.step)
         order by place",
        job,
        attempt,
        &names,
        &steps,
        &epochs,
        &times,
        &values,
    )
    .execute(&mut *connection)
    .await?;
    if points.iter().any(|point| point.name == series::EVAL_TOP1) {
        note_best(connection, job).await?;
    }
    Ok(())
}

/// Removes the points after a step, which an attempt that resumed from that step will make again.
pub(super) async fn delete_after(connection: &mut PgConnection, job: &str, step: u64) -> sqlx::Result<()> {
    let step = i64::try_from(step).unwrap_or(i64::MAX);
    sqlx::query!("delete from metrics where job_id = $1 and step > $2", job, step).execute(&mut *connection).await?;
    note_best(connection, job).await
}

/// Updates the best accuracy in the job's row. The name is [`series::EVAL_TOP1`], spelled out for the index on it.
async fn note_best(connection: &mut PgConnection, job: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update jobs set best_top1 = (select max(value) from metrics where job_id = $1 and name = 'eval/top1')
         where id = $1",
        job,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// One series, thinned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Series {
    /// Its name.
    #[schema(example = "eval/top1")]
    pub name: String,
    /// Its points, by step.
    pub points: Vec<SeriesPoint>,
}

/// One point of a series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeriesPoint {
    /// Optimisation steps done.
    pub step: i64,
    /// Epochs done, with the part of the current one.
    pub epoch: f64,
    /// When it was measured.
    pub time: DateTime<Utc>,
    /// Percent for `top1` and `top5`.
    pub value: f64,
}

/// The series up to the point of an id, by name, each thinned to about `most` points: of each stretch of steps the
/// lowest and the highest point stay, and of each series the first and the last, so that no peak is lost.
///
/// The points pass through once and unsorted. For a million of them this takes PostgreSQL an eighth of the time that
/// numbering and ranking them there takes.
pub async fn series(pool: &PgPool, job: &str, names: &[String], most: usize, until: i64) -> sqlx::Result<Vec<Series>> {
    let mut all = Thinning { most, series: BTreeMap::new() };
    if names.is_empty() {
        every_point(pool, job, until, &mut all).await?;
    } else {
        points_of(pool, job, names, until, &mut all).await?;
    }
    Ok(all.series.into_iter().map(|(name, thinned)| Series { name, points: thinned.finish() }).collect())
}

/// The series while their points pass through.
struct Thinning {
    most: usize,
    series: BTreeMap<String, Thinned<SeriesPoint>>,
}

impl Thinning {
    fn of(&mut self, name: String) -> &mut Thinned<SeriesPoint> {
        self.series.entry(name).or_insert_with(|| Thinned::new(self.most))
    }
}

/// Ids of one block of points.
const BLOCK: i64 = 50_000;

/// Reads all of a job's points, in the order in which they lie in the table. They come as arrays, since a row for each
/// costs more than the point in it.
async fn every_point(pool: &PgPool, job: &str, until: i64, all: &mut Thinning) -> sqlx::Result<()> {
    let mut parts = sqlx::query!(
        r#"
        select part.name, steps as "steps!", epochs as "epochs!", times as "times!: Vec<DateTime<Utc>>",
            points as "points!"
        from generate_series((select min(id) from metrics where job_id = $1), $2, $3) as first,
            lateral (
                select name, array_agg(step) as steps, array_agg(epoch) as epochs, array_agg(time) as times,
                    array_agg(value) as points
                from metrics where job_id = $1 and id >= first and id < first + $3 and id <= $2
                group by name) as part
        "#,
        job,
        until,
        BLOCK,
    )
    .fetch(pool);
    while let Some(part) = parts.try_next().await? {
        let thinned = all.of(part.name);
        let steps_and_values = part.steps.into_iter().zip(part.points);
        for ((step, value), (epoch, time)) in steps_and_values.zip(part.epochs.into_iter().zip(part.times)) {
            thinned.push(step, value, SeriesPoint { step, epoch, time, value });
        }
    }
    Ok(())
}

/// Reads the points of these series by their index.
async fn points_of(pool: &PgPool, job: &str, names: &[String], until: i64, all: &mut Thinning) -> sqlx::Result<()> {
    let mut rows = sqlx::query!(
        "select name, step, epoch, time, value from metrics where job_id = $1 and id <= $2 and name = any($3)",
        job,
        until,
        names,
    )
    .fetch(pool);
    while let Some(row) = rows.try_next().await? {
        let point = SeriesPoint { step: row.step, epoch: row.epoch, time: row.time, value: row.value };
        all.of(row.name).push(point.step, point.value, point);
    }
    Ok(())
}
