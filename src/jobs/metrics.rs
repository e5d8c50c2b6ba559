//! A job's series, for their readers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::ToSchema;

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

/// The series up to a place, by name and then step, each thinned to about `max_points`: of every stretch of equally many points, the
/// lowest and the highest stay, and of every series the first and the last, so that no peak is lost.
///
/// # Errors
/// Those of the database.
pub async fn series(
    pool: &PgPool,
    job: &str,
    names: &[String],
    max_points: i64,
    until: i64,
) -> sqlx::Result<Vec<Point>> {
    sqlx::query_as!(
        Point,
        r#"
        with numbered as (
            select *,
                row_number() over (partition by name order by step, id) as place,
                count(*) over (partition by name) as total
            from metrics where job_id = $1 and id <= $4 and (cardinality($2::text[]) = 0 or name = any($2))
        ), ranked as (
            select *,
                row_number() over (partition by name, stretch order by value, place) as from_lowest,
                row_number() over (partition by name, stretch order by value desc, place) as from_highest
            from (select *, (place - 1) * greatest($3::bigint / 2 - 1, 1) / total as stretch from numbered) as stretched
        )
        select id as "id!", name as "name!", step as "step!", epoch as "epoch!", time as "time!", value as "value!",
            attempt as "attempt!"
        from ranked
        where total <= $3 or from_lowest = 1 or from_highest = 1 or place = 1 or place = total
        order by name, place
        "#,
        job,
        names,
        max_points,
        until,
    )
    .fetch_all(pool)
    .await
}
