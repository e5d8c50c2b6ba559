//! `/v1/jobs/{id}/stream`
//!
//! A stream subscribes to changes before it queries, so it misses none. Events and points have ascending positions in
//! the database (`seq` and `id`), so a stream can resume exactly from any of them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tokio::time::{Instant, sleep_until, timeout};

use crate::db::events::{self, StoredEvent};
use crate::db::jobs::Job;
use crate::db::listen::{Changed, Subscription};
use crate::db::metrics::{self, StoredPoint};
use crate::http::AppState;
use crate::http::answers::AnswerClient;
use crate::http::error::ApiError;
use crate::http::extract::{JobId, Query};
use crate::http::feed::{Cursor, PAGE};
use crate::http::sse::{self, PACE, POLL_INTERVAL, Sender, StreamError, StreamParameters};
use crate::http::v1::jobs;
use crate::http::v1::stream::send_changes;

/// Bytes of events after which no more are read for a client that is far behind: they are kept until it has taken them.
const EVENT_BYTES: usize = 32 << 10;

/// The id of a message: `<seq of the last event>-<id of the last point>`, followed by `-<status>` after a final status.
/// The suffix tells a client that reconnects although the stream is over (as browsers do) from one that has not
/// received the final status yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MessageId {
    pub(super) cursor: Cursor,
    pub(super) ended: Option<String>,
}

impl MessageId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let mut number = || parts.next()?.parse().ok().filter(|&number: &i64| number >= 0);
        let cursor = Cursor { event: number()?, point: number()? };
        Some(Self { cursor, ended: parts.next().map(str::to_owned) })
    }

    pub(super) fn text(&self) -> String {
        let ended = self.ended.iter().map(|status| format!("-{status}")).collect::<String>();
        format!("{}-{}{ended}", self.cursor.event, self.cursor.point)
    }
}

/// Follow a job
///
/// Server-Sent Events. `status`: the job as in `GET /v1/jobs/{id}`, at the start and whenever anything but its progress
/// changes. `progress`: its progress, with the job's `id`. `event`: an entry of its history. `metric`: a point of a
/// series. Events and points carry an `id` from which the stream resumes without loss or repetition. The first
/// connection receives all of them unless `after` is given. The stream ends once the job's final status has been sent;
/// a client that reconnects after that gets 204.
#[utoipa::path(get, path = "/v1/jobs/{id}/stream", tag = "jobs", operation_id = "stream_job",
    params(("id" = String, Path, description = "Id of the job"), StreamParameters,
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last message received")),
    responses((status = 200, body = String, content_type = "text/event-stream"),
        (status = 204, description = "The job has ended and the client has received everything")))]
pub async fn get(
    State(state): State<AppState>,
    id: JobId,
    client: AnswerClient,
    Query(parameters): Query<StreamParameters>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let MessageId { cursor, ended } = match parameters.last_event_id(&headers)? {
        None => MessageId::default(),
        Some(id) => {
            MessageId::parse(&id).ok_or_else(|| ApiError::malformed(format!("{id:?} is not an id of this stream")))?
        }
    };
    let job = jobs::find(&state, &id).await?;
    if ended.as_deref() == Some(job.status.name())
        && events::list(&state.pool, &id.0, cursor.event, 1).await?.is_empty()
    {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(sse::respond(&state, client, |sender| {
        let follower = Follower { sender, state: state.clone(), cursor, sent: None };
        async move { follower.follow(&id.0).await }
    }))
}

/// One client's view of one job.
struct Follower {
    sender: Sender,
    state: AppState,
    cursor: Cursor,
    /// The job as last sent.
    sent: Option<Arc<Job>>,
}

impl Follower {
    async fn follow(mut self, id: &str) -> Result<(), StreamError> {
        let mut subscription = self.state.changes.subscribe();
        let feed = self.state.feeds.watch(id);
        // The first snapshot may be shared with another watcher and have begun before this subscription. So a second
        // one follows at once, whether or not anything changes.
        let subscribed = Instant::now();
        let mut changed = subscribed.checked_sub(PACE).unwrap_or(subscribed);
        let mut is_first = true;
        loop {
            let began = Instant::now();
            // Boxed so that a stream that only waits, as most do, stays small.
            let snapshot = Box::pin(feed.snapshot(&self.state.pool, changed, self.cursor)).await?;
            let Some(snapshot) = snapshot else { return Ok(()) };
            if self.sent.is_none() && !snapshot.job.status.is_final() {
                self.send_job(&snapshot.job).await?;
            }
            if self.cursor.event >= snapshot.events.after && self.cursor.point >= snapshot.points.after {
                for event in snapshot.events.since(self.cursor.event) {
                    self.send_event(event).await?;
                }
                for point in snapshot.points.since(self.cursor.point) {
                    self.send_point(point).await?;
                }
            } else {
                // Too far behind for the shared snapshot.
                Box::pin(self.send_stored_events(id)).await?;
                Box::pin(self.send_stored_points(id)).await?;
            }
            let ended = snapshot.job.status.is_final();
            self.send_job(&snapshot.job).await?;
            if ended {
                return Ok(());
            }
            drop(snapshot);
            changed = if is_first { subscribed } else { wait_for_change(&mut subscription, id).await };
            is_first = false;
            sleep_until(began + PACE).await;
            // Changes in the meantime belong to the same snapshot.
            while let Some(next) = subscription.next().now_or_never() {
                if concerns(&next, id) {
                    changed = next.heard;
                }
            }
        }
    }

    fn message_id(&self) -> String {
        MessageId { cursor: self.cursor, ended: None }.text()
    }

    async fn send_event(&mut self, event: &StoredEvent) -> Result<(), StreamError> {
        self.cursor.event = event.seq;
        self.sender.send("event", Some(self.message_id()), event).await
    }

    async fn send_point(&mut self, point: &StoredPoint) -> Result<(), StreamError> {
        self.cursor.point = point.id;
        self.sender.send("metric", Some(self.message_id()), point).await
    }

    async fn send_stored_events(&mut self, id: &str) -> Result<(), StreamError> {
        loop {
            let (page, more) =
                events::page_within(&self.state.pool, id, self.cursor.event, (PAGE, EVENT_BYTES)).await?;
            for event in page {
                self.send_event(&event).await?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    async fn send_stored_points(&mut self, id: &str) -> Result<(), StreamError> {
        loop {
            let page = metrics::list(&self.state.pool, id, self.cursor.point, PAGE).await?;
            let more = page.len() as i64 == PAGE;
            for point in page {
                self.send_point(&point).await?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Sends what has changed about the job itself.
    async fn send_job(&mut self, job: &Arc<Job>) -> Result<(), StreamError> {
        if self.sent.as_ref().is_some_and(|sent| Arc::ptr_eq(sent, job)) {
            return Ok(());
        }
        let ended = Some(job.status.name().to_owned()).filter(|_| job.status.is_final());
        let id = ended.map(|ended| MessageId { cursor: self.cursor, ended: Some(ended) }.text());
        send_changes(&self.sender, self.sent.as_deref(), job, id).await?;
        self.sent = Some(job.clone());
        Ok(())
    }
}

fn concerns(changed: &Changed, id: &str) -> bool {
    changed.job.as_ref().is_none_or(|job| **job == *id)
}

/// Waits until the job has changed, or may have, and returns when this process was notified. All watchers get the same
/// instant, and so share one snapshot.
async fn wait_for_change(subscription: &mut Subscription, id: &str) -> Instant {
    let changed = async {
        loop {
            let next = subscription.next().await;
            if concerns(&next, id) {
                return next.heard;
            }
        }
    };
    timeout(POLL_INTERVAL, changed).await.unwrap_or_else(|_| Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_round_trip_and_nothing_else_is_one() {
        for text in ["0-0", "12-345", "7-0-succeeded"] {
            assert_eq!(MessageId::parse(text).map(|id| id.text()).as_deref(), Some(text));
        }
        for text in ["", "12", "12-", "-1-2", "a-b", "1.5-2"] {
            assert_eq!(MessageId::parse(text), None, "{text}");
        }
    }
}
