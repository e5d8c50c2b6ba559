//! The table `events`: a job's history, numbered from 1 without gaps.

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

use super::jobs::Status;
use super::message;

/// Bytes of messages and data after which a [`page`] ends: a thousand messages of
/// [`LONGEST_MESSAGE`](super::LONGEST_MESSAGE) bytes would have eight times as many.
const MOST_BYTES: usize = 1 << 20;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum EventKind {
    /// The job's status changed; `data.status` is the new one.
    Status,
    /// A line from the trainer.
    Log,
    /// A line from the trainer that somebody should look at.
    Warning,
    /// A state to resume from was stored.
    Checkpoint,
    /// The teacher was evaluated.
    Teacher,
    /// Replaces log lines and checkpoints of a job that ended long ago.
    Compacted,
}

impl EventKind {
    /// Every kind. One that only a newer version of the program knows is read as a line of the log.
    const ALL: [Self; 6] = [Self::Status, Self::Log, Self::Warning, Self::Checkpoint, Self::Teacher, Self::Compacted];
}

/// One entry of a job's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Event)]
pub struct StoredEvent {
    /// Number within the job, from 1 and without gaps; an event `compacted` stands for those from `data.from` to
    /// `data.to`.
    pub seq: i64,
    /// When it was written.
    pub time: DateTime<Utc>,
    /// What it is about.
    pub kind: EventKind,
    /// What happened, for people; at most 8 KiB. A longer text is cut, and says how many bytes are missing.
    pub message: String,
    /// The same, for programs; what it holds depends on the kind.
    #[schema(value_type = Option<Object>)]
    pub data: Option<Value>,
    /// The attempt that it is about; 0 before the first.
    pub attempt: i32,
}

/// An event that is not stored yet.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub kind: EventKind,
    /// What happened, for people.
    pub message: String,
    /// The same, for programs.
    pub data: Option<Value>,
}

impl NewEvent {
    #[must_use]
    pub fn status(status: Status, message: impl Into<String>) -> Self {
        Self { kind: EventKind::Status, message: message.into(), data: Some(json!({"status": status})) }
    }
}

/// Appends to a job's history, in the transaction of the change that the events tell of. The job's row, which holds the
/// last number, stays locked until that transaction ends, so that numbers have no gap.
pub(super) async fn append(connection: &mut PgConnection, job: &str, events: &[NewEvent]) -> sqlx::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind).collect();
    let messages: Vec<String> = events.iter().map(|event| message(&event.message)).collect();
    let data: Vec<Option<Value>> = events.iter().map(|event| event.data.clone()).collect();
    sqlx::query!(
        r#"
        with numbered as (
            update jobs set event_seq = event_seq + cardinality($2::text[]) where id = $1
            returning event_seq - cardinality($2::text[]) as before, attempt
        )
        insert into events (job_id, seq, attempt, kind, message, data)
        select $1, before + place, attempt, kind, message, data
        from numbered, unnest($2::text[], $3::text[], $4::jsonb[]) with ordinality as new (kind, message, data, place)
        "#,
        job,
        &kinds as &[EventKind],
        &messages,
        &data as &[Option<Value>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Appends a warning to a job's history, unless the current attempt's part of it has the same already.
pub(super) async fn warn_once(connection: &mut PgConnection, job: &str, warning: &str) -> sqlx::Result<()> {
    // The lock makes whoever says the same at the same time wait and see it.
    let lock = sqlx::query_scalar!("select attempt from jobs where id = $1 for no key update", job);
    let Some(attempt) = lock.fetch_optional(&mut *connection).await? else { return Ok(()) };
    let is_said = sqlx::query_scalar!(
        r#"select exists (select from events where job_id = $1 and attempt = $2 and kind = 'warning' and message = $3)
           as "is_said!""#,
        job,
        attempt,
        message(warning),
    )
    .fetch_one(&mut *connection)
    .await?;
    if is_said {
        return Ok(());
    }
    append(connection, job, &[NewEvent { kind: EventKind::Warning, message: warning.to_owned(), data: None }]).await
}

/// The events after a number, oldest first.
pub async fn list(pool: &PgPool, job: &str, after: i64, limit: i64) -> sqlx::Result<Vec<StoredEvent>> {
    rows(pool, job, after, limit).try_collect().await
}

/// The same, but the list ends once it has a mebibyte. Also returns whether more follow, since a list that is shorter
/// than the limit need not be the last.
pub async fn page(pool: &PgPool, job: &str, after: i64, limit: i64) -> sqlx::Result<(Vec<StoredEvent>, bool)> {
    page_within(pool, job, after, (limit, MOST_BYTES)).await
}

/// The same, but the list ends once it has this many bytes.
pub async fn page_within(
    pool: &PgPool,
    job: &str,
    after: i64,
    (limit, most_bytes): (i64, usize),
) -> sqlx::Result<(Vec<StoredEvent>, bool)> {
    let mut rows = rows(pool, job, after, limit.saturating_add(1));
    let (mut page, mut bytes) = (Vec::new(), 0);
    while let Some(event) = rows.try_next().await? {
        if bytes >= most_bytes || i64::try_from(page.len()).is_ok_and(|length| length >= limit) {
            return Ok((page, true));
        }
        bytes += event.message.len() + event.data.as_ref().map_or(0, |data| data.to_string().len());
        page.push(event);
    }
    Ok((page, false))
}

fn rows<'a>(pool: &'a PgPool, job: &'a str, after: i64, limit: i64) -> BoxStream<'a, sqlx::Result<StoredEvent>> {
    sqlx::query_as!(
        StoredEvent,
        r#"
        select seq, time, case when kind = any($4) then kind else 'log' end as "kind!: EventKind", message,
            readable(data) as data, attempt
        from events where job_id = $1 and seq > $2 order by seq limit $3
        "#,
        job,
        after,
        limit,
        &EventKind::ALL as &[EventKind],
    )
    .fetch(pool)
}
