//! `/v1/stream`

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::db;
use crate::db::jobs::Job;
use crate::http::AppState;
use crate::http::answers::AnswerClient;
use crate::http::board::{Board, JobProgress};
use crate::http::error::ApiError;
use crate::http::extract::{Query, time};
use crate::http::sse::{self, Sender, StreamError, StreamParameters};

/// A transaction that was under way during a stream's query can end a job at a time before that query.
const SLACK: TimeDelta = TimeDelta::seconds(60);
/// Jobs per query.
const PAGE: usize = 100;

/// Follow all jobs
///
/// Server-Sent Events for a page that lists jobs. `status`: a job as in `GET /v1/jobs/{id}`; at the start every job
/// that has not ended, then each job that changes. `progress`: a job's progress, with its `id`. `deleted`: the `id` of
/// a deleted job. A client that reconnects with the id of the last message also receives the jobs that ended in the
/// meantime.
#[utoipa::path(get, path = "/v1/stream", tag = "jobs", operation_id = "stream_jobs",
    params(StreamParameters,
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last message received")),
    responses((status = 200, body = String, content_type = "text/event-stream")))]
pub async fn get(
    State(state): State<AppState>,
    client: AnswerClient,
    Query(parameters): Query<StreamParameters>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let since = match parameters.last_event_id(&headers)? {
        None => None,
        Some(id) => Some(time(&id).ok_or_else(|| ApiError::malformed(format!("{id:?} is not an id of this stream")))?),
    };
    Ok(sse::respond(&state, client, |sender| {
        let board = state.boards.watch(&state.pool, &state.changes);
        watch(board, state.pool.clone(), sender, since)
    }))
}

/// Tells a client of all jobs, and then of what changes.
async fn watch(
    board: Arc<Board>,
    pool: PgPool,
    sender: Sender,
    since: Option<DateTime<Utc>>,
) -> Result<(), StreamError> {
    let mut news = board.news();
    let ended = StreamError::Disconnected;
    news.wait_for(|is_there| *is_there).await.map_err(|_| ended)?;
    let (mut position, mut last) = (board.position(), None);
    while let Some((id, messages)) = board.page(last.as_deref()) {
        for message in messages {
            sender.send_text(message.name, &message.data).await?;
        }
        last = Some(id);
    }
    if let Some(since) = since {
        send_ended(&board, &pool, &sender, since - SLACK).await?;
    }
    let mut told = None;
    loop {
        news.mark_unchanged();
        let read_at = board.read_at();
        loop {
            // A client that is too far behind reconnects, and is told of all jobs again.
            let Ok(messages) = board.since(position) else { return Ok(()) };
            if messages.is_empty() {
                break;
            }
            for (at, message) in messages {
                sender.send_text(message.name, &message.data).await?;
                position = at;
            }
        }
        if let Some(read_at) = read_at.filter(|read_at| told != Some(*read_at)) {
            // An id to resume from that belongs to no message.
            sender.send_id(read_at.timestamp_micros().to_string()).await?;
            told = Some(read_at);
        }
        if news.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Tells of the jobs that have ended since a time.
async fn send_ended(board: &Board, pool: &PgPool, sender: &Sender, since: DateTime<Utc>) -> Result<(), StreamError> {
    let (_, mut ids) = db::jobs::current(pool, Some(since)).await?;
    ids.retain(|id| !board.has(id));
    ids.sort_unstable();
    for ids in ids.chunks(PAGE) {
        let mut jobs = db::jobs::list_where(pool, ids).await?;
        while let Some(job) = jobs.pop() {
            if job.status.is_final() {
                send_changes(sender, None, &job, None).await?;
            }
        }
    }
    Ok(())
}

/// Sends what a client that last received `before` does not know about `job`.
pub async fn send_changes(
    sender: &Sender,
    before: Option<&Job>,
    job: &Job,
    id: Option<String>,
) -> Result<(), StreamError> {
    let is_same_but_progress =
        before.is_some_and(|before| Job { progress: job.progress.clone(), ..before.clone() } == *job);
    let has_progressed = before.is_none_or(|before| before.progress != job.progress);
    if let Some(progress) = job.progress.clone().filter(|_| has_progressed) {
        sender.send("progress", None, &JobProgress { job: job.id.clone(), progress }).await?;
    }
    if !is_same_but_progress {
        sender.send("status", id, job).await?;
    }
    Ok(())
}
