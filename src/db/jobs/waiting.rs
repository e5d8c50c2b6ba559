//! Why queued jobs do not run yet, and when they probably will; whether a new one would find a worker.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

use super::lacks::Workers;
use super::schedule::{Fleet, Lengths};
use super::speeds::DeviceKind;
use super::status::Status;
use crate::db::interval;
use crate::db::workers::ALIVE_FOR;
use crate::text::counted;

pub use super::lacks::{Lack, Needs, WaitReason};

/// Jobs of the queue that an estimate looks at. Jobs further back have a position and no estimate.
const LOOKED_AT: i64 = 2000;

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
    spec_version: i32,
    run_after: DateTime<Utc>,
    is_due: bool,
    until_due: f64,
    error: Option<String>,
    teacher: Option<WaitedFor>,
    /// Most jobs of its sweep that run at the same time, if that many do.
    full_sweep: Option<i32>,
    dataset: Option<String>,
    /// Bytes of its uploaded data set.
    dataset_bytes: Option<i64>,
    workers: Workers,
}

/// The job of a teacher that has not succeeded yet.
struct WaitedFor {
    name: String,
    status: Status,
    seconds_left: Option<f64>,
}

/// What these jobs wait for; only of those that are queued.
pub async fn waiting(pool: &PgPool, ids: &[String]) -> sqlx::Result<HashMap<String, Waiting>> {
    let mut connection = pool.acquire().await?;
    let queued = queued(&mut connection, ids, "").await?;
    drop(connection);
    if queued.is_empty() {
        return Ok(HashMap::new());
    }
    let fleet = Fleet::read(pool).await?;
    let order = order(pool, &fleet).await?;
    let waiting = queued.into_iter().map(|job| (job.id.clone(), of(&job, &order)));
    Ok(waiting.collect())
}

/// Why no worker can take these jobs; only of those that are queued. A worker that takes no jobs for the reason
/// `tolerated` counts as one that does.
pub(in crate::db) async fn lacks(
    connection: &mut PgConnection,
    ids: &[String],
    tolerated: &str,
) -> sqlx::Result<Vec<(String, Lack)>> {
    let queued = queued(connection, ids, tolerated).await?;
    let lacks = queued.into_iter().filter_map(|job| {
        let lack = job.lack()?;
        Some((job.id, lack))
    });
    Ok(lacks.collect())
}

async fn queued(connection: &mut PgConnection, ids: &[String], tolerated: &str) -> sqlx::Result<Vec<QueuedJob>> {
    let rows = sqlx::query!(
        r#"
        select job.id as "id!", job.devices as "devices!", calendar_time(job.run_after) as "run_after!",
            job.run_after <= now() as "is_due!",
            extract(epoch from calendar_time(job.run_after) - now())::float8 as "until_due!",
            job.error ->> 'class' as error, teacher.name as "teacher_name?",
            teacher.status as "teacher_status?: Status",
            case teacher.status when 'running' then finite_number(teacher.progress -> 'eta_seconds') end
                as seconds_left,
            job.dataset, job.dataset_bytes, job.spec_version as "spec_version!", fleet.running as "running!",
            fleet.working as "working!", fleet.stopped_because as "stopped_because?", fleet.knowing as "knowing!",
            fleet.most_devices as "most_devices!", fleet.with_devices as "with_devices!",
            fleet.with_name as "with_name!", fleet.with_dataset as "with_dataset!", fleet.willing as "willing!",
            fleet.stopped_able_because as "stopped_able_because?",
            (select max_parallel from sweeps where sweeps.id = job.sweep_id and is_full(sweeps)) as full_sweep
        from jobs as job left join jobs as teacher on teacher.id = job.teacher_job and teacher.status <> 'succeeded',
            lateral workers_for(
                job.id, job.devices, job.spec_version, job.dataset, job.dataset_fingerprint, job.dataset_bytes,
                $2::interval, $3::text)
                as fleet
        where job.id = any($1) and job.status = 'queued'
        "#,
        ids,
        interval(ALIVE_FOR),
        tolerated,
    )
    .fetch_all(connection)
    .await?;
    let jobs = rows.into_iter().map(|row| QueuedJob {
        id: row.id,
        devices: row.devices,
        spec_version: row.spec_version,
        run_after: row.run_after,
        is_due: row.is_due,
        until_due: row.until_due,
        error: row.error,
        teacher: row.teacher_name.zip(row.teacher_status).map(|(name, status)| WaitedFor {
            name,
            status,
            seconds_left: row.seconds_left,
        }),
        full_sweep: row.full_sweep,
        dataset: row.dataset,
        dataset_bytes: row.dataset_bytes,
        workers: Workers {
            running: row.running,
            working: row.working,
            stopped_because: row.stopped_because,
            knowing: row.knowing,
            most_devices: row.most_devices,
            with_devices: row.with_devices,
            with_name: row.with_name,
            with_dataset: row.with_dataset,
            willing: row.willing,
            stopped_able_because: row.stopped_able_because,
        },
    });
    Ok(jobs.collect())
}

/// The jobs that a running worker could take, in the order of the queue: the place and the estimated start of each.
async fn order(pool: &PgPool, fleet: &Fleet) -> sqlx::Result<HashMap<String, (i64, Option<f64>)>> {
    let rows = sqlx::query!(
        r#"
        select job.id as "id!", job.devices as "devices!", job.recipe, job.method, able.workers as "workers!"
        from jobs as job left join jobs as teacher on teacher.id = job.teacher_job,
            lateral (
                select array_agg(workers.id) as workers from workers
                where heartbeat_at > now() - $1::interval and stopped_because is null and can_run(workers, job)
                    and not exists (
                        select from declined
                        where declined.job_id = job.id and declined.worker = workers.id and for_good)) as able
        where job.status = 'queued' and job.run_after <= now()
            and (job.teacher_job is null or teacher.status = 'succeeded')
            and able.workers is not null
            and not exists (select from sweeps where sweeps.id = job.sweep_id and is_full(sweeps))
        order by job.priority desc, job.id limit $2
        "#,
        interval(ALIVE_FOR),
        LOOKED_AT,
    )
    .fetch_all(pool)
    .await?;
    let lengths = Lengths::read(pool).await?;
    let mut schedule = fleet.schedule(&lengths);
    let order = rows.into_iter().zip(1..).map(|(row, place)| {
        let length = lengths.of(row.recipe.as_deref(), row.method.as_deref());
        let start = schedule.start(&row.workers, row.devices, length);
        (row.id, (place, Some(start).filter(|start| start.is_finite())))
    });
    Ok(order.collect())
}

fn of(job: &QueuedJob, order: &HashMap<String, (i64, Option<f64>)>) -> Waiting {
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
    if let Some(Lack { reason, detail }) = job.lack() {
        return plain(reason, detail, None);
    }
    if let Some(most) = job.full_sweep {
        let jobs = counted(most.unsigned_abs(), "job", "jobs");
        return plain(
            WaitReason::Sweep,
            format!("its sweep runs at most {jobs} at the same time (max_parallel)"),
            None,
        );
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

impl QueuedJob {
    fn lack(&self) -> Option<Lack> {
        self.workers.lack(Needs {
            spec_version: self.spec_version,
            devices: self.devices,
            dataset: self.dataset.as_deref().unwrap_or_default(),
            dataset_bytes: self.dataset_bytes,
            fingerprint: None,
        })
    }
}

/// The running workers, as a job that is posted now would find them.
#[derive(Debug)]
pub struct Prospects {
    /// Devices of the largest that takes such jobs; 0 if none does.
    pub most_devices: i32,
    /// The kinds of device of those that could take the job; a GPU first.
    pub kinds: Vec<DeviceKind>,
    /// Why none of them could take the job. None if one could.
    pub lack: Option<Lack>,
}

/// Looks for workers for a job that is posted now.
pub async fn prospects(pool: &PgPool, needs: Needs<'_>) -> sqlx::Result<Prospects> {
    let row = sqlx::query!(
        r#"
        select running as "running!", working as "working!", stopped_because as "stopped_because?",
            knowing as "knowing!", most_devices as "most_devices!", with_devices as "with_devices!",
            with_name as "with_name!", with_dataset as "with_dataset!", willing as "willing!",
            stopped_able_because as "stopped_able_because?", able_devices as "able_devices!"
        from workers_for('', $2::integer, $3::integer, $4::text, $5::text, $6::bigint, $1::interval, '')
        "#,
        interval(ALIVE_FOR),
        needs.devices,
        needs.spec_version,
        needs.dataset,
        needs.fingerprint,
        needs.dataset_bytes,
    )
    .fetch_one(pool)
    .await?;
    let workers = Workers {
        running: row.running,
        working: row.working,
        stopped_because: row.stopped_because,
        knowing: row.knowing,
        most_devices: row.most_devices,
        with_devices: row.with_devices,
        with_name: row.with_name,
        with_dataset: row.with_dataset,
        willing: row.willing,
        stopped_able_because: row.stopped_able_because,
    };
    let lack = workers.lack(needs);
    let able: Vec<DeviceKind> = row.able_devices.iter().map(|device| DeviceKind::of(device)).collect();
    let kinds = [DeviceKind::Cuda, DeviceKind::Cpu].into_iter().filter(|kind| able.contains(kind)).collect();
    Ok(Prospects { most_devices: workers.most_devices, kinds, lack })
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
                select from workers
                where heartbeat_at > now() - $1::interval and stopped_because is null and can_run(workers, job)
                    and not exists (
                        select from declined
                        where declined.job_id = job.id and declined.worker = workers.id and for_good))
        "#,
        interval(ALIVE_FOR),
    )
    .fetch_one(pool)
    .await
}
