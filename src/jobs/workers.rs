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
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// The device's memory.
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
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// Memory of the device in bytes, where it is known.
    pub memory_bytes: Option<i64>,
    /// The program's version.
    pub version: String,
    /// Id of the job that it holds.
    pub job: Option<String>,
    /// What its machine had to do at its last heartbeat; null where it did not say.
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Json<Usage>>,
    /// Share of the last hour, or of its life where that is shorter, in which it held a job.
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
        select id, name, device, memory_bytes, version, usage as "usage: Json<Usage>", started_at, heartbeat_at,
            heartbeat_at > now() - interval '1 minute' as "online!",
            (select jobs.id from jobs where lease_expires_at is not null and worker = workers.id limit 1) as job,
            least(1, coalesce((
                select sum(extract(epoch from
                    coalesce(ended_at, now()) - greatest(attempts.started_at, now() - interval '1 hour')))
                from attempts
                where worker = workers.id and (ended_at is null or ended_at > now() - interval '1 hour')), 0)
            / greatest(extract(epoch from least(now() - workers.started_at, interval '1 hour')), 1))::float8
                as "busy_share!"
        from workers where heartbeat_at > now() - interval '1 day' order by id desc
        "#,
    )
    .fetch_all(pool)
    .await
}

/// Makes a worker known.
///
/// # Errors
/// Those of the database.
pub async fn register(pool: &PgPool, worker: &NewWorker) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into workers (id, name, device, memory_bytes, version, usage) values ($1, $2, $3, $4, $5, $6)
         on conflict (id) do update set heartbeat_at = now(), usage = excluded.usage",
        worker.id,
        worker.name,
        worker.device,
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
