//! The tables `sweeps`, `sweep_combinations` and `sweep_rungs`: sets of jobs that differ in a few settings.
//!
//! A sweep runs nothing itself. Its jobs are ordinary jobs of the queue, and what follows for them is decided by
//! `settle`, in the transaction that ends an attempt or changes a job. There is one order of locks: jobs before their
//! sweep. Whoever holds a sweep waits for no job, so that the last of several jobs that end together sees the others.

mod change;
mod create;
mod delete;
mod ranking;
mod results;
mod settle;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

use super::foreign_json::ForeignJson;
use super::text_status::text_status;

pub use change::{SweepChange, change};
pub use create::{CreatedSweep, NewSweep, create, find_by_key};
pub use delete::{DeletedJob, delete};
pub use results::{CombinationResult, FailedJob, MemberJob, RungResult, first_failure, results};
pub(super) use settle::{settle, settle_all, settle_free};

/// The status of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SweepStatus {
    /// Jobs are left to run.
    Running,
    /// Its user paused it.
    Paused,
    /// Every job has ended.
    Finished,
    /// Its user cancelled it.
    Cancelled,
    /// A newer version of the program gave it a status that this one does not know, and does not change.
    Unknown,
}

impl SweepStatus {
    /// Every status that this program knows.
    const ALL: [Self; 4] = [Self::Running, Self::Paused, Self::Finished, Self::Cancelled];

    /// The name in the database and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

text_status!(SweepStatus);

/// Why something was not done with a sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SweepRefusal {
    /// There is no such sweep.
    Missing,
    /// A sweep of this status does not allow it.
    NotWhile(SweepStatus),
    /// Another reason, as the text after "cannot be …: ".
    Because(String),
}

/// A sweep without its combinations.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSweep {
    pub id: String,
    pub name: String,
    pub status: SweepStatus,
    /// As stored; null if this program cannot read them.
    pub axes: Value,
    pub seeds: i32,
    /// As stored; null if this program cannot read it.
    pub strategy: Value,
    pub max_parallel: Option<i32>,
    /// Epochs after which jobs are compared; empty without halving.
    pub rungs: Vec<i32>,
    /// Rungs whose comparison has been made.
    pub rung: i32,
    pub warnings: Vec<String>,
    /// Names of the webhooks that are told of its end.
    pub webhooks: Vec<String>,
    pub combinations: i64,
    /// Number of jobs by the name of their status.
    pub statuses: Value,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// Bytes of axes after which a list ends, which is after one more sweep: the axes of one may have a mebibyte.
const MOST_BYTES: usize = 1 << 20;

/// Sweeps, newest first: those after an id, or only that of one id.
pub async fn list(
    pool: &PgPool,
    only: Option<&str>,
    after: Option<&str>,
    limit: i64,
) -> sqlx::Result<Vec<StoredSweep>> {
    let mut rows = sqlx::query_as!(
        StoredSweep,
        r#"
        select id, name, status as "status: SweepStatus", axes::text as "axes!: ForeignJson", seeds,
            readable(strategy) as "strategy!", max_parallel, plain_list(rungs) as "rungs!", rung,
            plain_list(warnings) as "warnings!", plain_list(webhooks) as "webhooks!",
            (select count(*) from sweep_combinations where sweep_id = sweeps.id) as "combinations!",
            (select coalesce(jsonb_object_agg(status, jobs), '{}') from (
                select jobs.status, count(*) as jobs from jobs where jobs.sweep_id = sweeps.id group by jobs.status
            ) as counted) as "statuses!",
            created_at, finished_at
        from sweeps where ($1::text is null or id = $1) and ($2::text is null or id < $2) order by id desc limit $3
        "#,
        only,
        after,
        limit,
    )
    .fetch(pool);
    let (mut sweeps, mut bytes) = (Vec::new(), 0);
    while let Some(sweep) = rows.try_next().await? {
        let is_last = bytes >= MOST_BYTES;
        bytes += sweep.axes.to_string().len();
        sweeps.push(sweep);
        if is_last {
            break;
        }
    }
    Ok(sweeps)
}

pub async fn get(pool: &PgPool, id: &str) -> sqlx::Result<Option<StoredSweep>> {
    Ok(list(pool, Some(id), None, 1).await?.pop())
}

/// The document that a sweep was made of, byte for byte.
pub async fn submitted(pool: &PgPool, id: &str) -> sqlx::Result<Option<String>> {
    let query = sqlx::query_scalar!(r#"select submitted::text as "document!" from sweeps where id = $1"#, id);
    query.fetch_optional(pool).await
}

/// Whether workers hold more jobs of a sweep than may run at the same time, counting a claim that is not committed yet.
/// Claims of jobs of one sweep wait for each other here, so that the last one sees those before it.
pub(super) async fn exceeds_limit(connection: &mut PgConnection, sweep: &str) -> sqlx::Result<bool> {
    let query = sqlx::query_scalar!(
        r#"select max_parallel as "most!" from sweeps
           where id = $1 and status = 'running' and max_parallel is not null for no key update"#,
        sweep,
    );
    let Some(most) = query.fetch_optional(&mut *connection).await? else { return Ok(false) };
    let held = sqlx::query_scalar!(
        r#"select count(*) as "held!" from jobs where sweep_id = $1 and lease_expires_at is not null"#,
        sweep,
    );
    Ok(held.fetch_one(connection).await? > i64::from(most))
}
