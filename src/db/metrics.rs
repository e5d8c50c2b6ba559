//! The table `metrics`: the points of a job's series. A step has at most one point of a name.

use std::collections::{BTreeSet, VecDeque};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

use super::downsample::{Buckets, bucket_length, bucket_of};
use super::storable;
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
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

/// Points of a part.
const PAGE: usize = 2000;
/// Most points that are read at once.
const BLOCK: i64 = 50_000;

/// Reads a job's series up to the point of an id, one after the other by name, each thinned to about `most` points: of
/// each bucket of steps the lowest and the highest point stay, and of each series the first and the last, so that no
/// peak is lost.
///
/// They come in parts, and between two of them nothing is held but the position: whoever takes their time with a part
/// costs no memory and no connection.
#[derive(Debug)]
pub struct SeriesReader {
    pool: PgPool,
    job: String,
    until: i64,
    most: usize,
    /// The series that have not begun.
    names: VecDeque<String>,
    current: Option<Position>,
}

#[derive(Debug)]
struct Position {
    name: String,
    /// Where the next part begins.
    next: i64,
    /// The first and the last step of the series.
    ends: (i64, i64),
    /// The [length](bucket_length) of its buckets; `None` if all points stay.
    buckets: Option<u32>,
}

impl SeriesReader {
    /// A reader of the series of these names, or of all series if there are none.
    pub async fn new(pool: &PgPool, job: &str, names: &[String], most: usize, until: i64) -> sqlx::Result<Self> {
        let names = if names.is_empty() { all_names(pool, job).await? } else { names.to_vec() };
        let names = names.into_iter().collect::<BTreeSet<String>>().into_iter().collect();
        Ok(Self { pool: pool.clone(), job: job.to_owned(), until, most, names, current: None })
    }

    /// The next part: points of one series. `None` at the end.
    pub async fn next(&mut self) -> sqlx::Result<Option<Series>> {
        loop {
            let Some(position) = self.current.take() else {
                let Some(name) = self.names.pop_front() else { return Ok(None) };
                self.current = self.begin(name).await?;
                continue;
            };
            let (points, next) = match position.buckets {
                None => self.all_points(&position).await?,
                Some(length) => self.downsampled_points(&position, length).await?,
            };
            let name = position.name.clone();
            self.current = next.map(|next| Position { next, ..position });
            if !points.is_empty() {
                return Ok(Some(Series { name, points }));
            }
        }
    }

    /// The start of a series; `None` if it has no points.
    async fn begin(&self, name: String) -> sqlx::Result<Option<Position>> {
        let facts = sqlx::query!(
            r#"
            select
                (select min(step) from metrics where job_id = $1 and name = $2 and id <= $3) as first,
                (select max(step) from metrics where job_id = $1 and name = $2 and id <= $3) as last,
                (select count(*) from (
                    select from metrics where job_id = $1 and name = $2 and id <= $3 order by step limit $4) as head)
                    as "points!"
            "#,
            self.job,
            name,
            self.until,
            i64::try_from(self.most).unwrap_or(i64::MAX).saturating_add(1),
        )
        .fetch_one(&self.pool)
        .await?;
        let is_downsampled = usize::try_from(facts.points).unwrap_or(usize::MAX) > self.most;
        Ok(facts.first.zip(facts.last).map(|(first, last)| {
            let buckets = is_downsampled.then(|| bucket_length(first, last, self.most));
            Position { name, next: first, ends: (first, last), buckets }
        }))
    }

    /// Points from a position on, and where the next ones begin, if there may be any.
    async fn all_points(&self, position: &Position) -> sqlx::Result<(Vec<SeriesPoint>, Option<i64>)> {
        let points = self.read(position, position.next, i64::MAX, PAGE as i64).await?;
        let next = points.last().filter(|_| points.len() == PAGE).and_then(|last| last.step.checked_add(1));
        Ok((points, next))
    }

    /// What stays of the points from a position on, and where the next ones begin, if there are any.
    async fn downsampled_points(
        &self,
        position: &Position,
        length: u32,
    ) -> sqlx::Result<(Vec<SeriesPoint>, Option<i64>)> {
        // Two points of each bucket stay.
        let beyond = (i128::from(bucket_of(position.next, length)) + PAGE as i128 / 2) << length;
        let end = i64::try_from(beyond - 1).unwrap_or(i64::MAX).min(position.ends.1);
        let mut buckets = Buckets::new(position.ends, length);
        let mut kept = Vec::new();
        let mut next = Some(position.next);
        while let Some(start) = next.take() {
            let block = self.read(position, start, end, BLOCK).await?;
            if block.len() as i64 == BLOCK {
                next = block.last().and_then(|last| last.step.checked_add(1)).filter(|next| *next <= end);
            }
            for point in block {
                buckets.push(point.step, point.value, point, &mut kept);
            }
        }
        buckets.finish(&mut kept);
        Ok((kept, end.checked_add(1).filter(|next| *next <= position.ends.1)))
    }

    /// The first points of a series from a step to another. They come as arrays, since a row for each costs more than
    /// the point in it.
    async fn read(&self, position: &Position, start: i64, end: i64, limit: i64) -> sqlx::Result<Vec<SeriesPoint>> {
        let part = sqlx::query!(
            r#"
            select coalesce(array_agg(step), '{}') as "steps!", coalesce(array_agg(epoch), '{}') as "epochs!",
                coalesce(array_agg(time), '{}') as "times!: Vec<DateTime<Utc>>",
                coalesce(array_agg(value), '{}') as "points!"
            from (
                select step, epoch, time, value from metrics
                where job_id = $1 and name = $2 and id <= $3 and step >= $4 and step <= $5
                order by step limit $6) as part
            "#,
            self.job,
            position.name,
            self.until,
            start,
            end,
            limit,
        )
        .fetch_one(&self.pool)
        .await?;
        let steps_and_values = part.steps.into_iter().zip(part.points);
        let points = steps_and_values.zip(part.epochs.into_iter().zip(part.times));
        Ok(points.map(|((step, value), (epoch, time))| SeriesPoint { step, epoch, time, value }).collect())
    }
}

/// The names of a job's series. Reads a row for each of them, not every point.
pub async fn all_names(pool: &PgPool, job: &str) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        with recursive names as (
            (select name from metrics where job_id = $1 order by name limit 1)
            union all
            select (select name from metrics where job_id = $1 and name > names.name order by name limit 1)
            from names where names.name is not null)
        select name as "name!" from names where name is not null
        "#,
        job,
    )
    .fetch_all(pool)
    .await
}
