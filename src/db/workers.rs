//! The table `workers`: the workers that run, as they describe themselves with each heartbeat.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

use super::{declined, interval, storable};
use crate::spec::JobSpec;

/// A worker is alive, and is shown as online, if its last heartbeat is no older than this. Other workers delete it
/// then.
pub(super) const ALIVE_FOR: Duration = Duration::from_secs(60);

/// Why a worker takes no jobs until its first check of its machine is over. That is no fault.
pub const BEING_CHECKED: &str = "its machine is being checked";

/// What a worker says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct NewWorker {
    /// `wrk_` and a ULID.
    pub id: String,
    /// For people.
    pub name: String,
    /// `cpu` or `cuda:0`, or several with commas between them.
    pub device: String,
    pub devices: i32,
    /// Memory of the first device in bytes.
    pub memory_bytes: Option<i64>,
    pub usage: Usage,
    /// What it can run; `None` if it does not say, and takes any job.
    pub abilities: Option<Abilities>,
}

/// What a worker says about the jobs that it can run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Abilities {
    /// The name and the [fingerprint](crate::dataset::fingerprint) of each data set.
    pub datasets: BTreeMap<String, String>,
    /// Why it takes no jobs; `None` if it does.
    pub stopped_because: Option<String>,
    /// Size of its cache of uploaded data sets in bytes; `None` if it fetches none.
    pub dataset_cache_bytes: Option<i64>,
}

/// The load of a worker's machine and its GPU, by all of their processes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Share of the machine's processors that was busy since the last heartbeat, from 0 to 1; null if it is not known.
    pub cpu_share: Option<f64>,
    /// Bytes of the machine's memory that are in use and cannot be reclaimed at once.
    pub memory_used_bytes: Option<u64>,
    /// The machine's memory in bytes.
    pub memory_total_bytes: Option<u64>,
    /// The worker's GPU; null if it has none, or the driver does not tell.
    pub gpu: Option<GpuUsage>,
}

impl Usage {
    /// Memory in bytes of a device, `cpu` or `cuda:0`, if it is known.
    #[must_use]
    pub fn memory_of(&self, device: &str) -> Option<i64> {
        let bytes = match &self.gpu {
            None if device == "cpu" => self.memory_total_bytes,
            gpu => gpu.as_ref().map(|gpu| gpu.memory_total_bytes),
        };
        bytes.and_then(|bytes| i64::try_from(bytes).ok())
    }
}

/// The load of a GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GpuUsage {
    /// Its model.
    #[schema(example = "NVIDIA H100 80GB HBM3")]
    pub name: String,
    /// Share of the last second (or less) during which it computed anything, from 0 to 1.
    pub busy_share: Option<f64>,
    /// Bytes of its memory that are in use.
    pub memory_used_bytes: u64,
    /// Its memory in bytes.
    pub memory_total_bytes: u64,
}

/// A worker process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// `wrk_` and a ULID, new at every start.
    pub id: String,
    /// The host's name and the devices, unless the worker was given a name.
    pub name: String,
    /// `cpu` or `cuda:0`, or several with commas between them.
    pub device: String,
    /// Memory of the first device in bytes, if it is known.
    pub memory_bytes: Option<i64>,
    /// The program's version.
    pub version: String,
    /// How many devices it has.
    pub devices: i32,
    /// Id of the oldest job that it holds.
    pub job: Option<String>,
    /// Ids of all jobs that it holds: a worker with several devices may hold several.
    pub jobs: Vec<String>,
    /// Id of the job that it reserves free devices for, until there are enough of them.
    pub waits_for: Option<String>,
    /// The data sets that it has, each with a fingerprint of the names and sizes of its files; null if it does not say.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    pub datasets: Option<Value>,
    /// Size of the largest uploaded data set, in bytes, that it fetches; null if it fetches none.
    pub dataset_cache_bytes: Option<i64>,
    /// Why it takes no jobs: what is wrong with its machine. Null if it takes jobs.
    #[schema(example = "cannot write to its data directory: No space left on device (os error 28)")]
    pub stopped_because: Option<String>,
    /// The load of its machine at its last heartbeat; null if it did not say.
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Value>,
    /// Share of the last hour, or of its life if that is shorter, during which jobs used its devices.
    pub busy_share: f64,
    /// Whether its last heartbeat is no older than a minute.
    pub online: bool,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When its last heartbeat came.
    pub heartbeat_at: DateTime<Utc>,
}

/// The workers, newest first: those that are alive, and those that vanished within a day and that no other worker has
/// deleted yet.
pub async fn list(pool: &PgPool) -> sqlx::Result<Vec<Worker>> {
    sqlx::query_as!(
        Worker,
        r#"
        select id, name, device, devices, memory_bytes, version, readable(usage) as usage,
            readable(datasets) as datasets, dataset_cache_bytes, stopped_because, started_at, heartbeat_at, waits_for,
            heartbeat_at > now() - $1::interval as "online!",
            held.jobs[1] as job, held.jobs as "jobs!",
            least(1, coalesce((
                select sum(coalesce(jobs.devices, 1) * extract(epoch from
                    coalesce(ended_at, now()) - greatest(attempts.started_at, now() - interval '1 hour')))
                from attempts left join jobs on jobs.id = attempts.job_id
                where attempts.worker = workers.id and (ended_at is null or ended_at > now() - interval '1 hour')), 0)
            / greatest(devices * extract(epoch from least(now() - workers.started_at, interval '1 hour')), 1))::float8
                as "busy_share!"
        from workers, lateral (
            select coalesce(array_agg(jobs.id order by jobs.id), '{}') as jobs
            from jobs where lease_expires_at is not null and worker = workers.id) as held
        where heartbeat_at > now() - interval '1 day' order by id desc
        "#,
        interval(ALIVE_FOR),
    )
    .fetch_all(pool)
    .await
}

/// Adds a worker, or notes its heartbeat.
pub async fn register(pool: &PgPool, worker: &NewWorker) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into workers (id, name, device, devices, memory_bytes, version, usage, datasets, stopped_because,
            spec_version, dataset_cache_bytes)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         on conflict (id) do update set heartbeat_at = now(), usage = excluded.usage, datasets = excluded.datasets,
            stopped_because = excluded.stopped_because, dataset_cache_bytes = excluded.dataset_cache_bytes",
        worker.id,
        worker.name,
        worker.device,
        worker.devices,
        worker.memory_bytes,
        env!("CARGO_PKG_VERSION"),
        json!(worker.usage),
        worker.abilities.as_ref().map(|abilities| json!(abilities.datasets)),
        worker.abilities.as_ref().and_then(|abilities| abilities.stopped_because.as_deref()).map(storable),
        JobSpec::VERSION,
        worker.abilities.as_ref().and_then(|abilities| abilities.dataset_cache_bytes),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Notes what a worker can run now, before its next heartbeat.
pub async fn describe(pool: &PgPool, id: &str, abilities: &Abilities) -> sqlx::Result<()> {
    sqlx::query!(
        "update workers set datasets = $2, stopped_because = $3, dataset_cache_bytes = $4 where id = $1",
        id,
        json!(abilities.datasets),
        abilities.stopped_because.as_deref().map(storable),
        abilities.dataset_cache_bytes,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Deletes a worker that shuts down, and what is noted of jobs that it must not get.
pub async fn forget(pool: &PgPool, id: &str) -> sqlx::Result<()> {
    let mut transaction = pool.begin().await?;
    sqlx::query!("delete from workers where id = $1", id).execute(&mut *transaction).await?;
    declined::forget_worker(&mut transaction, id).await?;
    transaction.commit().await
}

/// Deletes the workers that are no longer alive. Waits for none of their rows: one that wakes up may hold its own and
/// wait for a sweep or a job that this transaction holds.
pub(super) async fn forget_dead(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from workers where id in (
            select id from workers where heartbeat_at < now() - $1::interval for update skip locked)",
        interval(ALIVE_FOR),
    )
    .execute(&mut *connection)
    .await?;
    declined::forget_gone_workers(connection).await
}
