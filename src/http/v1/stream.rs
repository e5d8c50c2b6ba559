//! `/v1/stream`

use std::collections::{BTreeSet, HashMap};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};
use utoipa::ToSchema;

use crate::db;
use crate::db::jobs::Job;
use crate::db::listen::Changed;
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::Query;
use crate::http::sse::{self, PACE, POLL_INTERVAL, Sender, StreamError, StreamParameters};
use crate::protocol::Progress;

/// A transaction that was under way during a stream's query can end a job at a time before that query.
const SLACK: TimeDelta = TimeDelta::seconds(60);
/// Jobs per query.
const PAGE: usize = 100;

/// Data of a `progress` message.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JobProgress {
    /// Id of the job.
    #[serde(rename = "id")]
    pub job: String,
    /// How far its training has come.
    #[serde(flatten)]
    #[schema(value_type = Progress)]
    pub progress: Value,
}

/// Data of a `deleted` message.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// Id of the deleted job.
    pub id: String,
}

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
    Query(parameters): Query<StreamParameters>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let since = match parameters.last_event_id(&headers)? {
        None => None,
        Some(id) => {
            let time = id.parse().ok().and_then(DateTime::from_timestamp_micros);
            Some(time.ok_or_else(|| ApiError::malformed(format!("{id:?} is not an id of this stream")))?)
        }
    };
    Ok(sse::respond(&state, |sender| Watcher { sender, state: state.clone(), sent: HashMap::new(), since }.watch()))
}

/// One client's view of all jobs.
struct Watcher {
    sender: Sender,
    state: AppState,
    /// Jobs as last sent.
    sent: HashMap<String, Job>,
    /// When all of them were last queried, on the database's clock.
    since: Option<DateTime<Utc>>,
}

impl Watcher {
    async fn watch(mut self) -> Result<(), StreamError> {
        let mut subscription = self.state.changes.subscribe();
        self.send_all().await?;
        loop {
            let began = Instant::now();
            let mut changed = BTreeSet::new();
            let mut all = note(timeout(POLL_INTERVAL, subscription.next()).await.ok(), &mut changed);
            // Whatever else changes within the pace is sent together.
            while let Ok(next) = timeout_at(began + PACE, subscription.next()).await {
                all |= note(Some(next), &mut changed);
            }
            if all {
                self.send_all().await?;
            } else {
                self.send_jobs(changed.into_iter().collect()).await?;
            }
        }
    }

    async fn send_all(&mut self) -> Result<(), StreamError> {
        let (now, mut ids) = db::jobs::current(&self.state.pool, self.since.map(|since| since - SLACK)).await?;
        ids.extend(self.sent.keys().cloned());
        ids.sort_unstable();
        ids.dedup();
        self.send_jobs(ids).await?;
        // An id to resume from that belongs to no message.
        self.since = Some(now);
        self.sender.send_id(now.timestamp_micros().to_string()).await
    }

    async fn send_jobs(&mut self, ids: Vec<String>) -> Result<(), StreamError> {
        for ids in ids.chunks(PAGE) {
            let mut jobs = db::jobs::list_where(&self.state.pool, ids).await?;
            for id in ids.iter().filter(|id| jobs.iter().all(|job| job.id != **id)) {
                self.sent.remove(id);
                self.sender.send("deleted", None, &Deleted { id: id.clone() }).await?;
            }
            while let Some(job) = jobs.pop() {
                send_changes(&self.sender, self.sent.get(&job.id), &job, None).await?;
                if job.status.is_final() {
                    self.sent.remove(&job.id);
                } else {
                    self.sent.insert(job.id.clone(), job);
                }
            }
        }
        Ok(())
    }
}

/// Adds a changed job to `jobs`, or returns whether any job may have changed.
fn note(changed: Option<Changed>, jobs: &mut BTreeSet<String>) -> bool {
    match changed {
        Some(Changed { job: Some(id), .. }) => {
            jobs.insert(id.to_string());
            false
        }
        Some(Changed { job: None, .. }) | None => true,
    }
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
