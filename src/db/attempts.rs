//! The table `attempts`: one row for each start of a job on a worker. Rows outlive their job, so that the counters made
//! of them never fall.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

use super::queue::FencingToken;
use crate::protocol::{ErrorClass, Started};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// Its student is published.
    Succeeded,
    /// It was paused or cancelled, or its worker returned the job to the queue.
    Stopped,
    User,
    Oom,
    Numeric,
    WorkerLost,
    Storage,
    Machine,
    Internal,
}

impl AttemptOutcome {
    pub const ALL: [Self; 9] = [
        Self::Succeeded,
        Self::Stopped,
        Self::User,
        Self::Oom,
        Self::Numeric,
        Self::WorkerLost,
        Self::Storage,
        Self::Machine,
        Self::Internal,
    ];

    /// The name in the database, in JSON and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Stopped => "stopped",
            Self::User => ErrorClass::User.name(),
            Self::Oom => ErrorClass::Oom.name(),
            Self::Numeric => ErrorClass::Numeric.name(),
            Self::WorkerLost => ErrorClass::WorkerLost.name(),
            Self::Storage => ErrorClass::Storage.name(),
            Self::Machine => ErrorClass::Machine.name(),
            Self::Internal => ErrorClass::Internal.name(),
        }
    }
}

impl From<ErrorClass> for AttemptOutcome {
    fn from(class: ErrorClass) -> Self {
        match class {
            ErrorClass::User => Self::User,
            ErrorClass::Oom => Self::Oom,
            ErrorClass::Numeric => Self::Numeric,
            ErrorClass::WorkerLost => Self::WorkerLost,
            ErrorClass::Storage => Self::Storage,
            ErrorClass::Machine => Self::Machine,
            ErrorClass::Internal => Self::Internal,
        }
    }
}

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
    /// When a worker took it.
    pub started_at: DateTime<Utc>,
    /// When its last checkpoint was stored.
    pub saved_at: Option<DateTime<Utc>>,
    /// When it ended; null while it runs.
    pub ended_at: Option<DateTime<Utc>>,
    /// When its worker was last heard of: its work ends there, though its lease may have run out later. Null while it
    /// runs, and where it was not recorded.
    pub heard_at: Option<DateTime<Utc>>,
    /// `succeeded`, `stopped` (paused, cancelled or returned to the queue), or the class of its failure; null while it
    /// runs.
    #[schema(example = "worker_lost")]
    pub outcome: Option<String>,
    /// Whether it counts against `max_attempts`: one that was stopped, that its worker's machine could not run, or that
    /// saved a new checkpoint before it failed does not. Null while it runs.
    pub counted: Option<bool>,
    /// Epochs that earlier attempts had done; null until its trainer has started.
    pub resumed_epochs: Option<i32>,
    /// Steps that earlier attempts had done; null until its trainer has started.
    pub resumed_step: Option<i64>,
}

/// All attempts of a job, oldest first.
pub async fn list(pool: &PgPool, job: &str) -> sqlx::Result<Vec<Attempt>> {
    sqlx::query_as!(
        Attempt,
        "select attempt, worker_name as worker, device, runnable_at, started_at, saved_at, ended_at, heard_at, outcome,
            counted, resumed_epochs, resumed_step
         from attempts where job_id = $1 order by attempt",
        job,
    )
    .fetch_all(pool)
    .await
}

/// Counts a write that was refused because its attempt had lost the job. A heartbeat that comes after the attempt
/// itself has ended the job is not counted, nor is a write of an attempt that the database has lost.
pub async fn count_refused(pool: &PgPool, token: &FencingToken) -> sqlx::Result<()> {
    sqlx::query!(
        "update attempts set refused_writes = refused_writes + 1
         where job_id = $1 and attempt = $2 and coalesce(claim, $3) = $3
            and (outcome is null or outcome = 'worker_lost')",
        token.job,
        token.attempt,
        token.claim,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Notes where the attempt's trainer runs and what it resumed from.
pub(super) async fn note_start(
    connection: &mut PgConnection,
    token: &FencingToken,
    started: &Started,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update attempts set device = $3, resumed_epochs = $4, resumed_step = $5 where job_id = $1 and attempt = $2",
        token.job,
        token.attempt,
        super::storable(&started.device),
        i32::try_from(started.resumed_epochs).unwrap_or(i32::MAX),
        i64::try_from(started.resumed_step).unwrap_or(i64::MAX),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes that the attempt stored a checkpoint after this step.
pub(super) async fn note_checkpoint(
    connection: &mut PgConnection,
    token: &FencingToken,
    step: u64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update attempts set saved_at = now(), saved_step = $3 where job_id = $1 and attempt = $2",
        token.job,
        token.attempt,
        i64::try_from(step).unwrap_or(i64::MAX),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether the job's running attempt stored a checkpoint after more steps than every earlier one.
pub(super) async fn has_advanced(connection: &mut PgConnection, job: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select coalesce(max(saved_step) filter (where ended_at is null), 0)
              > coalesce(max(saved_step) filter (where ended_at is not null), 0) as "advanced!"
           from attempts where job_id = $1"#,
        job,
    )
    .fetch_one(connection)
    .await
}

/// Ends the job's running attempt, which counts against the most attempts that the job may have or does not.
pub(super) async fn end(
    connection: &mut PgConnection,
    job: &str,
    outcome: AttemptOutcome,
    counted: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update attempts set ended_at = now(), outcome = $2, counted = $3,
            heard_at = (select greatest(lease_renewed_at, written_at) from jobs where id = $1)
         where job_id = $1 and ended_at is null",
        job,
        outcome as AttemptOutcome,
        counted,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The number of the job's latest attempts that failed for a reason that may pass, without a break: an attempt that
/// was stopped, or whose worker was lost, ends the row.
pub(super) async fn failures_in_a_row(connection: &mut PgConnection, job: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from attempts
           where job_id = $1 and attempt > (
              select coalesce(max(attempt), 0) from attempts
              where job_id = $1 and outcome not in ('storage', 'machine', 'internal'))"#,
        job,
    )
    .fetch_one(connection)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_has_one_name_everywhere() {
        for outcome in AttemptOutcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.name());
        }
    }
}
