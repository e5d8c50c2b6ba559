//! What a list says about a job from its attempts, and from the jobs that it teaches.

use std::collections::HashMap;

use sqlx::PgPool;

use super::Status;

/// What other tables and rows say about a job.
#[derive(Debug, Default)]
pub(super) struct Around {
    pub(super) ran_seconds: Option<f64>,
    pub(super) students: i64,
    pub(super) student_names: Vec<String>,
    pub(super) unfinished_students: i64,
}

/// How long these jobs ran, and how many jobs they teach.
pub(super) async fn around(pool: &PgPool, ids: &[String]) -> sqlx::Result<HashMap<String, Around>> {
    let rows = sqlx::query!(
        r#"
        select wanted.id as "id!", ran.seconds as ran_seconds, taught.students as "students!",
            taught.unfinished as "unfinished!", taught.names as "names!"
        from unnest($1::text[]) as wanted (id),
            lateral (
                select sum(extract(epoch from coalesce(ended_at, now()) - started_at))::float8 as seconds
                from attempts where job_id = wanted.id) as ran,
            lateral (
                select count(*) as students, count(*) filter (where status <> all($2)) as unfinished,
                    coalesce((array_agg(name order by id desc))[:5], '{}') as names
                from jobs where teacher_job = wanted.id) as taught
        "#,
        ids,
        &Status::FINAL as &[Status],
    )
    .fetch_all(pool)
    .await?;
    let around = rows.into_iter().map(|row| {
        let around = Around {
            ran_seconds: row.ran_seconds,
            students: row.students,
            student_names: row.names,
            unfinished_students: row.unfinished,
        };
        (row.id, around)
    });
    Ok(around.collect())
}
