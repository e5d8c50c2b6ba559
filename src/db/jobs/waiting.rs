//! Why queued jobs do not run yet, and when they probably will; whether a new one would find a worker.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::ToSchema;

use super::schedule::{Fleet, Lengths};
use super::speeds::DeviceKind;
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
    /// No worker is running, or none that is takes jobs.
    NoWorker,
    /// No worker knows the version of its specification.
    Version,
    /// No worker has as many devices as it asks for.
    Devices,
    /// No worker has its data set.
    Dataset,
    /// The workers that know it, with its devices and its data set, cannot run it; its history says why.
    Declined,
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
    spec_version: i32,
    run_after: DateTime<Utc>,
    is_due: bool,
    until_due: f64,
    error: Option<String>,
    teacher: Option<WaitedFor>,
    dataset: Option<String>,
    workers: Workers,
}

/// Numbers of running workers, each condition on top of those before it.
struct Workers {
    running: i64,
    /// Those that take jobs.
    working: i64,
    /// Why one of the others does not.
    stopped_because: Option<String>,
    /// Those that know the version of the specification.
    knowing: i64,
    most_devices: i32,
    with_devices: i64,
    with_dataset: i64,
    willing: i64,
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
    let waiting = queued.into_iter().map(|job| (job.id.clone(), of(&job, &order)));
    Ok(waiting.collect())
}

async fn queued(pool: &PgPool, ids: &[String]) -> sqlx::Result<Vec<QueuedJob>> {
    let rows = sqlx::query!(
        r#"
        select job.id as "id!", job.devices as "devices!", job.run_after as "run_after!", job.run_after <= now() as "is_due!",
            extract(epoch from job.run_after - now())::float8 as "until_due!", job.error ->> 'class' as error,
            teacher.name as "teacher_name?", teacher.status as "teacher_status?: Status",
            case teacher.status when 'running' then (teacher.progress ->> 'eta_seconds')::float8 end as seconds_left,
            job.dataset, job.spec_version as "spec_version!", fleet.running as "running!", fleet.working as "working!",
            fleet.stopped_because, fleet.knowing as "knowing!", fleet.most_devices as "most_devices!",
            fleet.with_devices as "with_devices!", fleet.with_dataset as "with_dataset!", fleet.willing as "willing!"
        from jobs as job left join jobs as teacher on teacher.id = job.teacher_job and teacher.status <> 'succeeded',
            lateral (
                select count(*) as running, count(*) filter (where works) as working,
                    min(stopped_because) as stopped_because,
                    count(*) filter (where works and knows) as knowing,
                    coalesce(max(devices) filter (where works and knows), 0) as most_devices,
                    count(*) filter (where works and knows and is_large) as with_devices,
                    count(*) filter (where works and knows and is_large and has_data) as with_dataset,
                    count(*) filter (where works and knows and is_large and has_data and is_willing) as willing
                from (
                    select workers.devices, stopped_because, stopped_because is null as works,
                        workers.spec_version >= job.spec_version as knows,
                        workers.devices >= job.devices as is_large,
                        has_dataset(datasets, job.dataset, job.dataset_fingerprint) as has_data,
                        not exists (
                            select from declined
                            where declined.job_id = job.id and declined.worker = workers.id and for_good) as is_willing
                    from workers where heartbeat_at > now() - $2::interval) as one) as fleet
        where job.id = any($1) and job.status = 'queued'
        "#,
        ids,
        interval(ALIVE_FOR),
    )
    .fetch_all(pool)
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
        dataset: row.dataset,
        workers: Workers {
            running: row.running,
            working: row.working,
            stopped_because: row.stopped_because,
            knowing: row.knowing,
            most_devices: row.most_devices,
            with_devices: row.with_devices,
            with_dataset: row.with_dataset,
            willing: row.willing,
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
                where devices >= job.devices and heartbeat_at > now() - $1::interval and stopped_because is null
                    and workers.spec_version >= job.spec_version
                    and has_dataset(datasets, job.dataset, job.dataset_fingerprint) and not exists (
                        select from declined
                        where declined.job_id = job.id and declined.worker = workers.id and for_good)) as able
        where job.status = 'queued' and job.run_after <= now()
            and (job.teacher_job is null or teacher.status = 'succeeded')
            and able.workers is not null
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
    let dataset = job.dataset.as_deref().unwrap_or_default();
    if let Some((reason, detail)) = job.workers.lack(job.devices, job.spec_version, dataset) {
        return plain(reason, detail, None);
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

impl Workers {
    /// Why none of them could take a job, if none could.
    fn lack(&self, devices: i32, spec_version: i32, dataset: &str) -> Option<(WaitReason, String)> {
        if self.running == 0 {
            return Some((WaitReason::NoWorker, "no worker is running".into()));
        }
        if self.working == 0 {
            let because = self.stopped_because.as_deref().unwrap_or("see the workers");
            return Some((WaitReason::NoWorker, format!("no running worker takes jobs: {because}")));
        }
        if self.knowing == 0 {
            let detail =
                format!("no running worker knows version {spec_version} of specifications: update the workers");
            return Some((WaitReason::Version, detail));
        }
        if self.with_devices == 0 {
            let most = self.most_devices;
            let detail = format!("it asks for {devices} devices, and the largest running worker has {most}");
            return Some((WaitReason::Devices, detail));
        }
        if self.with_dataset == 0 {
            let detail = format!("no running worker has the data set {dataset} as it was when the job was posted");
            return Some((WaitReason::Dataset, detail));
        }
        let detail = "the running workers cannot run it: its events say why";
        (self.willing == 0).then(|| (WaitReason::Declined, detail.to_owned()))
    }
}

/// What a job that is posted now asks of a worker.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// Version of the format of its specification.
    pub spec_version: i32,
    /// Devices.
    pub devices: i32,
    /// Name of the data set.
    pub dataset: &'a str,
    /// The [outline](crate::dataset::outline) that its copy must have; `None` if any will do.
    pub outline: Option<&'a str>,
}

/// The running workers, as a job that is posted now would find them.
#[derive(Debug)]
pub struct Prospects {
    /// Number of running workers.
    pub running: i64,
    /// Devices of the largest that takes such jobs; 0 if none does.
    pub most_devices: i32,
    /// What devices those have that could take the job; a GPU first.
    pub kinds: Vec<DeviceKind>,
    /// Why none of them could take the job, if none could.
    pub lack: Option<(WaitReason, String)>,
}

/// Looks for workers for a job that is posted now.
pub async fn prospects(pool: &PgPool, needs: Needs<'_>) -> sqlx::Result<Prospects> {
    let row = sqlx::query!(
        r#"
        select count(*) as "running!", count(*) filter (where works) as "working!",
            min(stopped_because) as stopped_because, count(*) filter (where works and knows) as "knowing!",
            coalesce(max(devices) filter (where works and knows), 0) as "most_devices!",
            count(*) filter (where works and knows and devices >= $2) as "with_devices!",
            count(*) filter (where works and knows and devices >= $2 and has_data) as "with_dataset!",
            coalesce(array_agg(distinct device) filter (where works and knows and devices >= $2 and has_data), '{}')
                as "able_devices!"
        from (
            select device, devices, stopped_because, stopped_because is null as works, spec_version >= $3 as knows,
                has_dataset(datasets, $4, $5) as has_data
            from workers where heartbeat_at > now() - $1::interval) as one
        "#,
        interval(ALIVE_FOR),
        needs.devices,
        needs.spec_version,
        needs.dataset,
        needs.outline,
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
        with_dataset: row.with_dataset,
        // None has been asked yet.
        willing: row.with_dataset,
    };
    let lack = workers.lack(needs.devices, needs.spec_version, needs.dataset);
    let able: Vec<DeviceKind> = row.able_devices.iter().map(|device| DeviceKind::of(device)).collect();
    let kinds = [DeviceKind::Cuda, DeviceKind::Cpu].into_iter().filter(|kind| able.contains(kind)).collect();
    Ok(Prospects { running: workers.running, most_devices: workers.most_devices, kinds, lack })
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
                where devices >= job.devices and heartbeat_at > now() - $1::interval and stopped_because is null
                    and workers.spec_version >= job.spec_version
                    and has_dataset(datasets, job.dataset, job.dataset_fingerprint) and not exists (
                        select from declined
                        where declined.job_id = job.id and declined.worker = workers.id and for_good))
        "#,
        interval(ALIVE_FOR),
    )
    .fetch_one(pool)
    .await
}
