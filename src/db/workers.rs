//! Who works, as they say themselves.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgPool;
use sqlx::types::Json;
use utoipa::ToSchema;

/// A worker that makes itself known.
#[derive(Debug, Clone, PartialEq)]
pub struct NewWorker {
    /// `wrk_` and a ULID.
    pub id: String,
    /// For people.
    pub name: String,
    /// `cpu` or `cuda:0`, or several with commas between them.
    pub device: String,
    /// How many those are.
    pub devices: i32,
    /// The memory of the first.
    pub memory_bytes: Option<i64>,
    /// What its machine has to do now.
    pub usage: Usage,
}

/// What a worker's machine and its GPU have to do: all of it, whoever gave it to them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Share of the machine's processors that was busy since the last heartbeat, from 0 to 1; null where it is not known.
    pub cpu_share: Option<f64>,
    /// Bytes of the machine's memory that are in use and could not be had at once.
    pub memory_used_bytes: Option<u64>,
    /// The machine's memory in bytes.
    pub memory_total_bytes: Option<u64>,
    /// The worker's GPU; null where it has none, or the driver does not tell.
    pub gpu: Option<GpuUsage>,
}

impl Usage {
    /// Memory in bytes of the device of that name, `cpu` or `cuda:0`, where it is known.
    #[must_use]
    pub fn memory_of(&self, device: &str) -> Option<i64> {
        let bytes = match &self.gpu {
            None if device == "cpu" => self.memory_total_bytes,
            gpu => gpu.as_ref().map(|gpu| gpu.memory_total_bytes),
        };
        bytes.and_then(|bytes| i64::try_from(bytes).ok())
    }
}

/// What a GPU has to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GpuUsage {
    /// Its model.
    #[schema(example = "NVIDIA H100 80GB HBM3")]
    pub name: String,
    /// Share of the last second or less in which it computed anything, from 0 to 1.
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
    /// The host and the device, unless it was given a name.
    pub name: String,
    /// `cpu` or `cuda:0`, or several with commas between them.
    pub device: String,
    /// Memory of the first in bytes, where it is known.
    pub memory_bytes: Option<i64>,
    /// The program's version.
    pub version: String,
    /// How many devices it has.
    pub devices: i32,
    /// Id of the oldest job that it holds.
    pub job: Option<String>,
    /// Ids of all jobs that it holds: with several devices it may have several.
    pub jobs: Vec<String>,
    /// Id of the job that it keeps free devices for, until there are enough of them.
    pub waits_for: Option<String>,
    /// What its machine had to do at its last heartbeat; null where it did not say.
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Json<Usage>>,
    /// Share of the last hour, or of its life where that is shorter, in which jobs used its devices.
    pub busy_share: f64,
    /// Whether it was heard of within the last minute.
    pub online: bool,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When it was last heard of.
    pub heartbeat_at: DateTime<Utc>,
}

/// The workers that were heard of within a day, newest first.
///
/// # Errors
/// Those of the database.
pub async fn list(pool: &PgPool) -> sqlx::Result<Vec<Worker>> {
    sqlx::query_as!(
        Worker,
        r#"
        select id, name, device, devices, memory_bytes, version, usage as "usage: Json<Usage>", started_at, heartbeat_at,
            waits_for, heartbeat_at > now() - interval '1 minute' as "online!",
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
    )
    .fetch_all(pool)
    .await
}

/// The devices of the largest worker that is there now; 0 where there is none.
///
/// # Errors
/// Those of the database.
pub async fn most_devices(pool: &PgPool) -> sqlx::Result<i32> {
    sqlx::query_scalar!(
        r#"select coalesce(max(devices), 0) as "devices!" from workers
           where heartbeat_at > now() - interval '1 minute'"#,
    )
    .fetch_one(pool)
    .await
}

/// Makes a worker known.
///
/// # Errors
/// Those of the database.
pub async fn register(pool: &PgPool, worker: &NewWorker) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into workers (id, name, device, devices, memory_bytes, version, usage) values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (id) do update set heartbeat_at = now(), usage = excluded.usage",
        worker.id,
        worker.name,
        worker.device,
        worker.devices,
        worker.memory_bytes,
        env!("CARGO_PKG_VERSION"),
        json!(worker.usage),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Strikes a worker that ends in order off the list.
///
/// # Errors
/// Those of the database.
pub async fn forget(pool: &PgPool, id: &str) -> sqlx::Result<()> {
    sqlx::query!("delete from workers where id = $1", id).execute(pool).await?;
    Ok(())
}
