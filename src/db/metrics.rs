//! A job's series, for their readers.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::ToSchema;

use super::thin::Thinned;

/// One point, with the place where a reader goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Point {
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
    /// When.
    pub time: DateTime<Utc>,
    /// Percent for `top1` and `top5`.
    pub value: f64,
    /// The attempt that it comes from. One that resumes repeats the steps after its checkpoint: its points replace
    /// those of earlier attempts from its first step on.
    pub attempt: i32,
}

/// The points after a place, in the order in which they came.
///
/// # Errors
/// Those of the database.
pub async fn list(pool: &PgPool, job: &str, after: i64, limit: i64) -> sqlx::Result<Vec<Point>> {
    sqlx::query_as!(
        Point,
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

/// The place of the newest point; 0 where there is none.
///
/// # Errors
/// Those of the database.
pub async fn newest(pool: &PgPool, job: &str) -> sqlx::Result<i64> {
    let query = sqlx::query_scalar!(r#"select coalesce(max(id), 0) as "id!" from metrics where job_id = $1"#, job);
    query.fetch_one(pool).await
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
    /// When.
    pub time: DateTime<Utc>,
    /// Percent for `top1` and `top5`.
    pub value: f64,
}

/// The series up to a place, in the order of their names, each thinned to about `most` points: of every stretch of steps the
/// lowest and the highest stay, and of every series the first and the last, so that no peak is lost.
///
/// The points pass through once and unsorted: with a million of them that took PostgreSQL an eighth of the time of
/// numbering and ranking them there.
///
/// # Errors
/// Those of the database.
pub async fn series(pool: &PgPool, job: &str, names: &[String], most: usize, until: i64) -> sqlx::Result<Vec<Series>> {
    let mut all = Thinning { most, series: BTreeMap::new() };
    if names.is_empty() {
        every_point(pool, job, until, &mut all).await?;
    } else {
        points_of(pool, job, names, until, &mut all).await?;
    }
    Ok(all.series.into_iter().map(|(name, thinned)| Series { name, points: thinned.finish() }).collect())
}

/// Series on their way.
struct Thinning {
    most: usize,
    series: BTreeMap<String, Thinned<SeriesPoint>>,
}

impl Thinning {
    fn of(&mut self, name: String) -> &mut Thinned<SeriesPoint> {
        self.series.entry(name).or_insert_with(|| Thinned::new(self.most))
    }
}

/// Points that are read in one go.
const BLOCK: i64 = 50_000;

/// All of a job's points, in the order in which they lie in the table. They come as arrays, since a row for each costs
/// more than the point in it.
async fn every_point(pool: &PgPool, job: &str, until: i64, all: &mut Thinning) -> sqlx::Result<()> {
    let mut parts = sqlx::query!(
        r#"
        select part.name, steps as "steps!", epochs as "epochs!", times as "times!: Vec<DateTime<Utc>>", points as "points!"
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

/// The points of these series, by their index.
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
