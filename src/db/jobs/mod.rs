//! The table `jobs`: its rows as users see them. What users do to them is in `create.rs`, `change.rs`, `amend.rs` and
//! `delete.rs`; lists for people are in [`summaries`].

mod amend;
mod around;
mod baselines;
mod change;
mod create;
mod delete;
pub mod groups;
pub mod labels;
mod lacks;
mod schedule;
pub mod settings;
mod speeds;
pub mod status;
pub mod summaries;
pub mod waiting;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::types::Json;
use utoipa::ToSchema;

use crate::protocol::{Evaluation, Failure, Outcome, Progress};
use crate::spec::JobSpec;

pub use amend::amend;
pub use baselines::Baseline;
pub use change::change;
pub(super) use change::set_status;
pub(super) use create::insert;
pub use create::{Created, NetworkNames, NewJob, SweepMember, create, find_by_key, network_of};
pub use delete::delete;
pub(super) use delete::delete_in;
pub use speeds::{DeviceKind, ExportedMacs, MeasuredJob, measured};
pub use status::{Change, Status};

/// A job as its user sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// `job_` and a ULID: sorts by age.
    #[schema(example = "job_01KB3Z6V0Q2M5K8N1R4T7W9XYZ")]
    pub id: String,
    /// The specification's name.
    pub name: String,
    /// Where it is in its life.
    pub status: Status,
    /// The specification with every default filled in.
    #[schema(value_type = JobSpec)]
    pub spec: Value,
    /// Name of the exported network that is the teacher; null for an architecture.
    pub teacher_network: Option<String>,
    /// Name of the exported network that is the student; null for an architecture.
    pub student_network: Option<String>,
    /// Higher runs first.
    pub priority: i32,
    /// For filtering.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub labels: Value,
    /// What people have noted about it.
    pub notes: Option<String>,
    /// Names of the webhooks that are told of its end.
    #[serde(default)]
    pub webhooks: Vec<String>,
    /// The sweep that it belongs to; null for a job of its own.
    #[serde(default)]
    pub sweep: Option<String>,
    /// How many times it was started.
    pub attempt: i32,
    /// How many times it may be started. This grows with each attempt that does not count against the `max_attempts` of
    /// the specification, and with a retry: of the tries that the specification allows,
    /// `spec.max_attempts - (max_attempts - attempt)` are used.
    pub max_attempts: i32,
    /// Where training is; null before the first step.
    #[schema(value_type = Option<Progress>)]
    pub progress: Option<Value>,
    /// The teacher's evaluation, known before the result.
    #[schema(value_type = Option<Evaluation>)]
    pub teacher: Option<Value>,
    /// The result of training; null until the job has succeeded.
    #[schema(value_type = Option<Outcome>)]
    pub result: Option<Value>,
    /// Why the last attempt failed.
    #[schema(value_type = Option<Failure>)]
    pub error: Option<Value>,
    /// Name of the worker that holds it.
    pub worker: Option<String>,
    /// When it was posted.
    pub created_at: DateTime<Utc>,
    /// When its first attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Why something was not done that a user asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing.
    Missing,
    /// A job of this status does not allow it.
    NotWhile(Status),
    /// Another reason, in words that follow "cannot be …: ".
    Because(String),
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Jobs with any of these statuses; every status if empty.
    pub statuses: Vec<Status>,
    /// Jobs with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Jobs of this sweep.
    pub sweep: Option<String>,
    /// Jobs older than this one.
    pub after: Option<String>,
}

pub async fn get(pool: &PgPool, id: &str) -> sqlx::Result<Option<Job>> {
    Ok(list_where(pool, &[id.to_owned()]).await?.pop())
}

/// The document that a job was posted with, byte for byte. None if it was not kept.
pub async fn submitted(pool: &PgPool, id: &str) -> sqlx::Result<Option<String>> {
    let query = sqlx::query_scalar!("select submitted::text from jobs where id = $1", id);
    Ok(query.fetch_optional(pool).await?.flatten())
}

/// The jobs of these ids, newest first, without those that do not exist.
pub async fn list_where(pool: &PgPool, ids: &[String]) -> sqlx::Result<Vec<Job>> {
    sqlx::query_as!(
        Job,
        r#"
        select id, name, status as "status: Status", readable(spec) as "spec!", priority,
            readable(labels) as "labels!", attempt, max_attempts, readable(progress) as progress,
            readable(teacher) as teacher, readable(result) as result, readable(error) as error,
            coalesce((select workers.name from workers where workers.id = worker), worker) as worker,
            calendar_time(created_at) as "created_at!", calendar_time(started_at) as started_at,
            calendar_time(finished_at) as finished_at, teacher_network, student_network, notes,
            plain_list(webhooks) as "webhooks!", sweep_id as sweep
        from jobs where id = any($1) order by id desc
        "#,
        ids,
    )
    .fetch_all(pool)
    .await
}

/// Jobs, newest first.
pub async fn list(pool: &PgPool, filter: &Filter, limit: i64) -> sqlx::Result<Vec<Job>> {
    sqlx::query_as!(
        Job,
        r#"
        select id, name, status as "status: Status", readable(spec) as "spec!", priority,
            readable(labels) as "labels!", attempt, max_attempts, readable(progress) as progress,
            readable(teacher) as teacher, readable(result) as result, readable(error) as error,
            coalesce((select workers.name from workers where workers.id = worker), worker) as worker,
            calendar_time(created_at) as "created_at!", calendar_time(started_at) as started_at,
            calendar_time(finished_at) as finished_at, teacher_network, student_network, notes,
            plain_list(webhooks) as "webhooks!", sweep_id as sweep
        from jobs
        where (cardinality($1::text[]) = 0 or status = any($1) or ('unknown' = any($1) and status <> all($5)))
            and ($2::jsonb = '{}' or labels @> $2) and ($3::text is null or id < $3)
            and ($6::text is null or sweep_id = $6)
        order by id desc limit $4
        "#,
        &filter.statuses as &[Status],
        Json(&filter.labels) as _,
        filter.after,
        limit,
        &Status::ALL as &[Status],
        filter.sweep,
    )
    .fetch_all(pool)
    .await
}

/// The database's clock, and the ids of the jobs that have not ended, or not before a time on that clock.
pub async fn current(pool: &PgPool, since: Option<DateTime<Utc>>) -> sqlx::Result<(DateTime<Utc>, Vec<String>)> {
    let row = sqlx::query!(
        r#"
        select now() as "now!", coalesce(array_agg(id order by id desc) filter (where id is not null), '{}') as "ids!"
        from jobs where finished_at is null or finished_at >= $1
        "#,
        since,
    )
    .fetch_one(pool)
    .await?;
    Ok((row.now, row.ids))
}
