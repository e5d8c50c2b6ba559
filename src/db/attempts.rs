//! A job's attempts, for its readers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::ToSchema;

/// One start of a job on a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// Number within the job, from 1.
    pub attempt: i32,
    /// Name of the worker; null where it was not recorded.
    pub worker: Option<String>,
    /// `cpu` or `cuda:0`; null until its trainer has started.
    pub device: Option<String>,
    /// Since when a worker could have taken the job.
    pub runnable_at: DateTime<Utc>,
    /// When one did.
    pub started_at: DateTime<Utc>,
    /// When its last checkpoint was stored.
    pub saved_at: Option<DateTime<Utc>>,
    /// When it ended; null while it runs.
    pub ended_at: Option<DateTime<Utc>>,
    /// When its worker was last heard of: what it did ends there, though its lease may have run out later. Null while it runs,
    /// and where it was not recorded.
    pub heard_at: Option<DateTime<Utc>>,
    /// `succeeded`, `stopped` (paused, cancelled or given back), or the class of its failure; null while it runs.
    #[schema(example = "worker_lost")]
    pub outcome: Option<String>,
    /// Epochs that earlier attempts had done; null until its trainer has started.
    pub resumed_epochs: Option<i32>,
    /// Steps that earlier attempts had done; null until its trainer has started.
    pub resumed_step: Option<i64>,
}

/// All of them, oldest first.
///
/// # Errors
/// Those of the database.
pub async fn list(pool: &PgPool, job: &str) -> sqlx::Result<Vec<Attempt>> {
    sqlx::query_as!(
        Attempt,
        r#"
        with told as (
            select attempt, max(data ->> 'worker') as worker, max(data ->> 'device') as device,
                max((data ->> 'resumed_epochs')::integer) as resumed_epochs,
                max((data ->> 'resumed_step')::bigint) as resumed_step
            from events where job_id = $1 and (data ? 'worker' or data ? 'resumed_step') group by attempt)
        select attempts.attempt, told.worker as "worker?", device as "device?", runnable_at, started_at, saved_at, ended_at,
            heard_at, outcome, resumed_epochs as "resumed_epochs?", resumed_step as "resumed_step?"
        from attempts left join told on told.attempt = attempts.attempt
        where job_id = $1 order by attempts.attempt
        "#,
        job,
    )
    .fetch_all(pool)
    .await
}
