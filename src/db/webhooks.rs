//! The table `webhook_messages`: messages to webhooks, which triggers of the tables `jobs` and `sweeps` insert.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

use super::events::{self, EventKind, NewEvent};
use super::{interval, message};

/// Days for which delivered and abandoned messages are kept.
const KEPT_DAYS: i32 = 30;
/// Days after which a message is abandoned if no server knows its webhook any more. All attempts to send a message take
/// less time.
const FORGOTTEN_DAYS: i32 = 7;

/// A message that is to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueMessage {
    pub id: String,
    /// The job or the sweep that it is about.
    pub subject: String,
    pub webhook: String,
    pub kind: String,
    pub body: String,
    /// Number of attempts to send it, this one included.
    pub attempts: i32,
}

/// A message for a webhook, as users see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookMessage {
    /// The same in every attempt, so that a receiver can tell a repetition: the header `webhook-id`.
    #[schema(example = "msg_0f1e2d3c4b5a69788796a5b4c3d2e1f0")]
    pub id: String,
    /// Name of the webhook.
    pub webhook: String,
    /// The event, such as `job.succeeded` or `sweep.finished`.
    #[serde(rename = "type")]
    #[schema(example = "job.succeeded")]
    pub kind: String,
    /// When the job or the sweep ended.
    pub created_at: DateTime<Utc>,
    /// How many times it was sent.
    pub attempts: i32,
    /// When it is sent again; null once it was delivered or given up.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When the receiver accepted it; null before, and if it was given up.
    pub delivered_at: Option<DateTime<Utc>>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// Takes due messages for these webhooks. Nobody else gets them within `lease`, after which they are due again unless
/// their outcome was recorded.
pub async fn take_due(
    pool: &PgPool,
    webhooks: &[String],
    lease: Duration,
    limit: i64,
) -> sqlx::Result<Vec<DueMessage>> {
    sqlx::query_as!(
        DueMessage,
        r#"
        update webhook_messages set attempts = attempts + 1, next_attempt_at = now() + $2
        where id in (
            select id from webhook_messages where next_attempt_at <= now() and webhook = any($1)
            order by next_attempt_at limit $3 for update skip locked)
        returning id, job_id as subject, webhook, type as kind, body, attempts
        "#,
        webhooks,
        interval(lease),
        limit,
    )
    .fetch_all(pool)
    .await
}

/// How long until the next message for these webhooks is due; `None` if there is none.
pub async fn until_next(pool: &PgPool, webhooks: &[String]) -> sqlx::Result<Option<Duration>> {
    let query = sqlx::query_scalar!(
        r#"select extract(epoch from calendar_time(min(next_attempt_at)) - now())::float8 as seconds
           from webhook_messages where next_attempt_at is not null and webhook = any($1)"#,
        webhooks,
    );
    let seconds = query.fetch_one(pool).await?;
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)))
}

/// Records that the receiver has accepted a message.
pub async fn delivered(pool: &PgPool, id: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update webhook_messages set next_attempt_at = null, delivered_at = now(), last_error = null where id = $1",
        id,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Records that an attempt failed, and when the next one is due. Without a `wait` the message is abandoned, and the
/// history of the job, or a warning of the sweep, says so.
pub async fn failed(pool: &PgPool, sent: &DueMessage, error: &str, wait: Option<Duration>) -> sqlx::Result<()> {
    let mut transaction = pool.begin().await?;
    let noted = sqlx::query!(
        "update webhook_messages set last_error = $3, next_attempt_at = now() + $4
         where id = $1 and attempts = $2 and next_attempt_at is not null",
        sent.id,
        sent.attempts,
        message(error),
        wait.map(interval),
    )
    .execute(&mut *transaction)
    .await?;
    if noted.rows_affected() == 1 && wait.is_none() {
        warn(&mut transaction, sent, error).await?;
    }
    transaction.commit().await
}

/// Says in the history of the job, or in the warnings of the sweep, that a webhook will not be told.
async fn warn(connection: &mut PgConnection, sent: &DueMessage, error: &str) -> sqlx::Result<()> {
    let is_of_sweep = sent.kind.starts_with("sweep.");
    let warning = format!(
        "webhook {} was not told that this {} has ended, after {} attempts: {error}",
        sent.webhook,
        if is_of_sweep { "sweep" } else { "job" },
        sent.attempts
    );
    if !is_of_sweep {
        let event = NewEvent { kind: EventKind::Warning, message: warning, data: None };
        return events::append(connection, &sent.subject, &[event]).await;
    }
    sqlx::query!(
        "update sweeps set warnings = array_append(warnings, $2::text) where id = $1",
        sent.subject,
        message(&warning),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The messages about a job or a sweep, oldest first.
pub async fn about(pool: &PgPool, subject: &str) -> sqlx::Result<Vec<WebhookMessage>> {
    sqlx::query_as!(
        WebhookMessage,
        r#"
        select id, webhook, type as kind, created_at, attempts, calendar_time(next_attempt_at) as next_attempt_at,
            delivered_at, last_error
        from webhook_messages where job_id = $1 order by created_at, webhook
        "#,
        subject,
    )
    .fetch_all(pool)
    .await
}

/// Abandons messages that no server can send any more, and deletes old ones. Returns the number of abandoned messages.
pub async fn tidy(pool: &PgPool) -> sqlx::Result<u64> {
    let given_up = sqlx::query!(
        "update webhook_messages set next_attempt_at = null,
            last_error = coalesce(last_error, 'no server knew a webhook of this name for days')
         where next_attempt_at is not null and created_at < now() - make_interval(days => $1)",
        FORGOTTEN_DAYS,
    )
    .execute(pool)
    .await?;
    sqlx::query!(
        "delete from webhook_messages where next_attempt_at is null and created_at < now() - make_interval(days => $1)",
        KEPT_DAYS,
    )
    .execute(pool)
    .await?;
    Ok(given_up.rows_affected())
}
