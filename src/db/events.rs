//! A job's history, for its readers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use utoipa::ToSchema;

use super::EventKind;

/// One entry of a job's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Number within the job, from 1 and without gaps; an entry `compacted` stands for those from `from` to `to` in its data.
    pub seq: i64,
    /// When it was written.
    pub time: DateTime<Utc>,
    /// What it is about.
    #[schema(value_type = EventKind)]
    pub kind: String,
    /// What happened, for people.
    pub message: String,
    /// The same, for programs; what it holds depends on the kind.
    #[schema(value_type = Option<Object>)]
    pub data: Option<Value>,
    /// The attempt that it is about; 0 before the first.
    pub attempt: i32,
}

/// The entries after a number, oldest first.
///
/// # Errors
/// Those of the database.
pub async fn list(pool: &PgPool, job: &str, after: i64, limit: i64) -> sqlx::Result<Vec<Event>> {
    sqlx::query_as!(
        Event,
        r#"
        select seq, time, kind, message, data, attempt from events
        where job_id = $1 and seq > $2 order by seq limit $3
        "#,
        job,
        after,
        limit,
    )
    .fetch_all(pool)
    .await
}
