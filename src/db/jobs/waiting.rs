//! Why queued jobs do not run yet, and when they probably will.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::ToSchema;

use super::schedule::{Fleet, Lengths};
use super::status::Status;
use crate::db::interval;
use crate::db::workers::ALIVE_FOR;

/// Jobs of the queue that an estimate looks at. Jobs further back have a position and no estimate.
const LOOKED_AT: i64 = 2000;

/// What a queued job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// The job of its teacher has not succeeded yet.
    Teacher,
    /// It is tried again after a pause.
    Backoff,
    /// No worker is running.
    NoWorker,
    /// No running worker has as many devices as it asks for.
    Devices,
    /// Other jobs come first, or every worker is busy.
    Turn,
    /// A worker is free and is about to take it.
    Start,
}

/// Why a queued job does not run yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Waiting {
    /// What it waits for.
    pub reason: WaitReason,
    /// The same as a sentence.
    pub detail: String,
    /// Its place among the jobs that a running worker could take, from 1; null while it is not among them.
    pub position: Option<i64>,
    /// Estimated seconds until it starts, from the time left of running jobs and the lengths of past ones; null
    /// without an estimate.
    pub starts_in_seconds: Option<f64>,
}

/// A queued job.
struct QueuedJob {
    id: String,
    devices: i32,
    run_after: DateTime<Utc>,
    is_due: bool,
    until_due: f64,
    error: Option<String>,
    teacher: Option<WaitedFor>,
}

/// The job of a teacher that has not succeeded yet.
struct WaitedFor {
    name: String,
    status: Status,
    seconds_left: Option<f64>,
}

/// What these jobs wait for; only of those that are queued.
pub async fn waiting(pool: &PgPool, ids: &[String]) -> sqlx::Result<HashMap<String, Waiting>> {
    let queued = queued(pool, ids).await?;
    if queued.is_empty() {
        return Ok(HashMap::new());
    }
    let fleet = Fleet::read(pool).await?;
    let order = order(pool, &fleet).await?;
    let waiting = queued.into_iter().map(|job| (job.id.clone(), of(&job, &fleet, &order)));
    Ok(waiting.collect())
}

async fn queued(pool: &PgPool, ids: &[String]) -> sqlx::Result<Vec<QueuedJob>> {
    let rows = sqlx::query!(
        r#"
        select job.id, job.devices, job.run_after, job.run_after <= now() as "is_due!",
            extract(epoch from job.run_after - now())::float8 as "until_due!", job.error ->> 'class' as error,
            teacher.name as "teacher_name?", teacher.status as "teacher_status?: Status",
            case teacher.status when 'running' then (teacher.progress ->> 'eta_seconds')::float8 end as seconds_left
        from jobs as job left join jobs as teacher on teacher.id = job.teacher_job and teacher.status <> 'succeeded'
        where job.id = any($1) and job.status = 'queued'
        "#,
        ids,
    )
    .fetch_all(pool)
    .await?;
    let jobs = rows.into_iter().map(|row| QueuedJob {
        id: row.id,
        devices: row.devices,
        run_after: row.run_after,
        is_due: row.is_due,
        until_due: row.until_due,
        error: row.error,
        teacher: row.teacher_name.zip(row.teacher_status).map(|(name, status)| WaitedFor {
            name,
            status,
            seconds_left: row.seconds_left,
        }),
    });
    Ok(jobs.collect())
}

/// The jobs that a running worker could take, in the order of the queue: the place and the estimated start of each.
async fn order(pool: &PgPool, fleet: &Fleet) -> sqlx::Result<HashMap<String, (i64, Option<f64>)>> {
    let Some(most) = fleet.most_devices() else { return Ok(HashMap::new()) };
    let rows = sqlx::query!(
        r#"
        select job.id, job.devices, job.recipe, job.method
        from jobs as job left join jobs as teacher on teacher.id = job.teacher_job
        where job.status = 'queued' and job.run_after <= now()
            and (job.teacher_job is null or teacher.status = 'succeeded') and job.devices <= $1
        order by job.priority desc, job.id limit $2
        "#,
        most,
        LOOKED_AT,
    )
    .fetch_all(pool)
    .await?;
    let lengths = Lengths::read(pool).await?;
    let mut schedule = fleet.schedule(&lengths);
    let order = rows.into_iter().zip(1..).map(|(row, place)| {
        let start = schedule.start(row.devices, lengths.of(row.recipe.as_deref(), row.method.as_deref()));
        (row.id, (place, Some(start).filter(|start| start.is_finite())))
    });
    Ok(order.collect())
}

fn of(job: &QueuedJob, fleet: &Fleet, order: &HashMap<String, (i64, Option<f64>)>) -> Waiting {
    let plain =
        |reason, detail: String, starts_in_seconds| Waiting { reason, detail, position: None, starts_in_seconds };
    if let Some(WaitedFor { name, status, seconds_left }) = &job.teacher {
        let detail = format!("it waits for the job of its teacher, {name}, which is {}", status.name());
        return plain(WaitReason::Teacher, detail, *seconds_left);
    }
    if !job.is_due {
        let class = job.error.as_deref().map(|class| format!(" ({class})")).unwrap_or_default();
        let time = job.run_after.format("%Y-%m-%d %H:%M:%S UTC");
        let detail = format!("its last attempt failed{class}, and it is tried again at {time}");
        return plain(WaitReason::Backoff, detail, Some(job.until_due.max(0.0)));
    }
    match fleet.most_devices() {
        None => return plain(WaitReason::NoWorker, "no worker is running".into(), None),
        Some(most) if most < job.devices => {
            let detail = format!("it asks for {} devices, and the largest running worker has {most}", job.devices);
            return plain(WaitReason::Devices, detail, None);
        }
        Some(_) => {}
    }
    let Some(&(place, start)) = order.get(&job.id) else {
        return plain(WaitReason::Turn, format!("more than {LOOKED_AT} jobs are ahead of it"), None);
    };
    let (reason, detail) = match place {
        _ if start == Some(0.0) => (WaitReason::Start, "a worker is free and is about to take it".to_owned()),
        1 => (WaitReason::Turn, "it is next, and every worker that could take it is busy".to_owned()),
        2 => (WaitReason::Turn, "one job is ahead of it".to_owned()),
        _ => (WaitReason::Turn, format!("{} jobs are ahead of it", place - 1)),
    };
    Waiting { reason, detail, position: Some(place), starts_in_seconds: start }
}

/// Number of queued jobs whose time has come and that no running worker could take.
pub async fn without_worker(pool: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"
        select count(*) as "jobs!"
        from jobs as job left join jobs as teacher on teacher.id = job.teacher_job
        where job.status = 'queued' and job.run_after <= now()
            and (job.teacher_job is null or teacher.status = 'succeeded')
            and not exists (
                select from workers where devices >= job.devices and heartbeat_at > now() - $1::interval)
        "#,
        interval(ALIVE_FOR),
    )
    .fetch_one(pool)
    .await
}
