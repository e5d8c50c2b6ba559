//! `/v1/jobs/{id}/stream` and `/v1/stream`
//!
//! A stream subscribes to changes first and looks afterwards, so it misses none. What it looks at is in the database
//! with places that ascend (`seq` of events, `id` of points), so it goes on from any place exactly.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout};
use utoipa::{IntoParams, ToSchema};

use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{Id, Job as JobId, Query};
use crate::http::feed::PAGE;
use crate::http::sse::{self, Broken, PACE, PATIENCE, Sender};
use crate::http::v1::jobs;
use crate::jobs::changes::{Changed, Subscription};
use crate::jobs::events::{self, Event};
use crate::jobs::metrics::{self, Point};
use crate::jobs::store::{self, Job};
use crate::protocol::Progress;

/// A transaction that was under way when a stream looked can have ended a job at an earlier time than that look's.
const SLACK: TimeDelta = TimeDelta::seconds(60);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Parameters {
    /// Go on after the message of this id, as with the header `Last-Event-ID`, which wins.
    #[serde(default)]
    after: Option<String>,
}

/// Data of a `progress` message.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JobProgress {
    /// Id of the job.
    #[serde(rename = "id")]
    pub job: String,
    /// Where its training is.
    #[serde(flatten)]
    #[schema(value_type = Progress)]
    pub progress: Value,
}

/// Data of a `deleted` message.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// Id of the job that is no more.
    pub id: String,
}

/// A place in a job's stream: `<seq of the last event>-<id of the last point>`. After a final status its name follows,
/// which tells a client that reconnects anyway (as browsers do) from one that has not heard of the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    seq: i64,
    point: i64,
    ended: Option<String>,
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let mut number = || parts.next()?.parse().ok().filter(|&number: &i64| number >= 0);
        let (seq, point) = (number()?, number()?);
        Some(Self { seq, point, ended: parts.next().map(str::to_owned) })
    }

    fn id(&self) -> Option<String> {
        let ended = self.ended.iter().map(|status| format!("-{status}")).collect::<String>();
        Some(format!("{}-{}{ended}", self.seq, self.point))
    }
}

/// A job, live
///
/// Server-Sent Events. `status`: the job as `GET /v1/jobs/{id}` has it, at the start and whenever something other than
/// its progress changes. `progress`: its progress with the job's `id`. `event`: an entry of its history. `metric`: a
/// point of a series. Events and points carry an `id` from which the stream goes on without loss or repetition; the
/// first connection gets all of them, unless `after` says otherwise. The stream ends when the job's final status has
/// been sent, and a client that comes back after that gets 204.
#[utoipa::path(get, path = "/v1/jobs/{id}/stream", tag = "jobs", operation_id = "stream_job",
    params(("id" = String, Path, description = "Id of the job"), Parameters,
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last message that was received")),
    responses((status = 200, body = String, content_type = "text/event-stream"),
        (status = 204, description = "The job has ended and everything was received")))]
pub async fn job(
    State(state): State<AppState>,
    id: Id<JobId>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let place = match sse::last_event_id(&headers, parameters.after)? {
        None => Place::default(),
        Some(id) => {
            Place::parse(&id).ok_or_else(|| ApiError::malformed(format!("{id:?} is not an id of this stream")))?
        }
    };
    let job = jobs::find(&state, &id).await?;
    if place.ended.as_deref() == Some(job.status.name())
        && events::list(&state.pool, &id.0, place.seq, 1).await?.is_empty()
    {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let place = Place { ended: None, ..place };
    Ok(sse::respond(state.settings.keep_alive, |sender| async move {
        tokio::select! {
            ended = Follower { sender: sender.clone(), state: state.clone(), place, sent: None }.follow(&id.0) => ended,
            () = sender.closed() => Ok(()),
            () = state.stopping.cancelled() => Ok(()),
        }
    }))
}

/// One client's view of one job.
struct Follower {
    sender: Sender,
    state: AppState,
    place: Place,
    /// The job as the client knows it.
    sent: Option<Arc<Job>>,
}

impl Follower {
    async fn follow(mut self, id: &str) -> Result<(), Broken> {
        let mut subscription = self.state.changes.subscribe();
        let feed = self.state.feeds.watch(id);
        // Whoever comes at about the same time shares a look, which may have begun before the subscription; so a second
        // one follows, whether something changes or not.
        let subscribed = Instant::now();
        let mut changed = subscribed.checked_sub(PACE).unwrap_or(subscribed);
        let mut is_first = true;
        loop {
            let looked = Instant::now();
            let places = (self.place.seq, self.place.point);
            // On the heap while it lasts: a stream that only waits, as most do, is small then.
            let look = Box::pin(feed.look(&self.state.pool, changed, places)).await?;
            let Some(look) = look else { return Ok(()) };
            if self.sent.is_none() && !look.job.status.is_final() {
                self.tell(&look.job).await?;
            }
            if self.place.seq >= look.events.after && self.place.point >= look.points.after {
                for event in look.events.since(self.place.seq) {
                    self.send_event(event).await?;
                }
                for point in look.points.since(self.place.point) {
                    self.send_point(point).await?;
                }
            } else {
                // Too far behind for what is shared.
                Box::pin(self.send_events(id)).await?;
                Box::pin(self.send_points(id)).await?;
            }
            let ended = look.job.status.is_final();
            self.tell(&look.job).await?;
            if ended {
                return Ok(());
            }
            drop(look);
            changed = if is_first { subscribed } else { wait_for(&mut subscription, id).await };
            is_first = false;
            sleep_until(looked + PACE).await;
            // What came meanwhile belongs to the same look.
            while let Some(next) = subscription.next().now_or_never() {
                if concerns(&next, id) {
                    changed = next.heard;
                }
            }
        }
    }

    async fn send_event(&mut self, event: &Event) -> Result<(), Broken> {
        self.place.seq = event.seq;
        self.sender.send("event", self.place.id(), event).await
    }

    async fn send_point(&mut self, point: &Point) -> Result<(), Broken> {
        self.place.point = point.id;
        self.sender.send("metric", self.place.id(), point).await
    }

    async fn send_events(&mut self, id: &str) -> Result<(), Broken> {
        loop {
            let page = events::list(&self.state.pool, id, self.place.seq, PAGE).await?;
            let more = page.len() as i64 == PAGE;
            for event in page {
                self.send_event(&event).await?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    async fn send_points(&mut self, id: &str) -> Result<(), Broken> {
        loop {
            let page = metrics::list(&self.state.pool, id, self.place.point, PAGE).await?;
            let more = page.len() as i64 == PAGE;
            for point in page {
                self.send_point(&point).await?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Says what is new about the job itself.
    async fn tell(&mut self, job: &Arc<Job>) -> Result<(), Broken> {
        if self.sent.as_ref().is_some_and(|sent| Arc::ptr_eq(sent, job)) {
            return Ok(());
        }
        let ended = Some(job.status.name().to_owned()).filter(|_| job.status.is_final());
        let id = if ended.is_some() { Place { ended, ..self.place.clone() }.id() } else { None };
        tell(&self.sender, self.sent.as_deref(), job, id).await?;
        self.sent = Some(job.clone());
        Ok(())
    }
}

/// Sends what a client that knows `before` does not know of `job`.
async fn tell(sender: &Sender, before: Option<&Job>, job: &Job, id: Option<String>) -> Result<(), Broken> {
    let still = before.is_some_and(|before| Job { progress: job.progress.clone(), ..before.clone() } == *job);
    let moved = before.is_none_or(|before| before.progress != job.progress);
    if let Some(progress) = job.progress.clone().filter(|_| moved) {
        sender.send("progress", None, &JobProgress { job: job.id.clone(), progress }).await?;
    }
    if !still {
        sender.send("status", id, job).await?;
    }
    Ok(())
}

fn concerns(changed: &Changed, id: &str) -> bool {
    changed.job.as_ref().is_none_or(|job| **job == *id)
}

/// Waits until the job has changed, or may have, and says when this process heard of that: all who watch it wait for the
/// same look then.
async fn wait_for(subscription: &mut Subscription, id: &str) -> Instant {
    let changed = async {
        loop {
            let next = subscription.next().await;
            if concerns(&next, id) {
                return next.heard;
            }
        }
    };
    // Notifications are not the only reason to look: a dead connection takes a while to be noticed.
    timeout(PATIENCE, changed).await.unwrap_or_else(|_| Instant::now())
}

/// All jobs, live
///
/// Server-Sent Events for a page that lists jobs. `status`: a job as `GET /v1/jobs/{id}` has it: at the start, each that
/// is under way; then each that changes. `progress`: a job's progress with its `id`. `deleted`: the `id` of a job that
/// is no more. A client that comes back with the id of the last message also gets the jobs that ended meanwhile.
#[utoipa::path(get, path = "/v1/stream", tag = "jobs", operation_id = "stream_jobs",
    params(Parameters,
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last message that was received")),
    responses((status = 200, body = String, content_type = "text/event-stream")))]
pub async fn all(
    State(state): State<AppState>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let since = match sse::last_event_id(&headers, parameters.after)? {
        None => None,
        Some(id) => {
            let time = id.parse().ok().and_then(DateTime::from_timestamp_micros);
            Some(time.ok_or_else(|| ApiError::malformed(format!("{id:?} is not an id of this stream")))?)
        }
    };
    Ok(sse::respond(state.settings.keep_alive, |sender| async move {
        tokio::select! {
            ended = Watcher { sender: sender.clone(), state: state.clone(), sent: HashMap::new(), since }.watch() => ended,
            () = sender.closed() => Ok(()),
            () = state.stopping.cancelled() => Ok(()),
        }
    }))
}

/// One client's view of all jobs.
struct Watcher {
    sender: Sender,
    state: AppState,
    /// Jobs as the client knows them.
    sent: HashMap<String, Job>,
    /// When, on the database's clock, the last look at all of them was.
    since: Option<DateTime<Utc>>,
}

impl Watcher {
    async fn watch(mut self) -> Result<(), Broken> {
        let mut subscription = self.state.changes.subscribe();
        self.look_at_all().await?;
        loop {
            let looked = Instant::now();
            let mut changed = BTreeSet::new();
            let mut all = note(timeout(PATIENCE, subscription.next()).await.ok(), &mut changed);
            // What else changes within the pace belongs to the same look.
            while let Ok(next) = tokio::time::timeout_at(looked + PACE, subscription.next()).await {
                all |= note(Some(next), &mut changed);
            }
            if all {
                self.look_at_all().await?;
            } else {
                self.look_at(changed.into_iter().collect()).await?;
            }
        }
    }

    async fn look_at_all(&mut self) -> Result<(), Broken> {
        let (now, mut ids) = store::current(&self.state.pool, self.since.map(|since| since - SLACK)).await?;
        ids.extend(self.sent.keys().cloned());
        ids.sort_unstable();
        ids.dedup();
        self.look_at(ids).await?;
        // A place to come back to that is no message by itself.
        self.since = Some(now);
        self.sender.send_id(now.timestamp_micros().to_string()).await
    }

    async fn look_at(&mut self, ids: Vec<String>) -> Result<(), Broken> {
        for ids in ids.chunks(100) {
            let mut jobs = store::list_where(&self.state.pool, ids).await?;
            for id in ids.iter().filter(|id| jobs.iter().all(|job| job.id != **id)) {
                self.sent.remove(id);
                self.sender.send("deleted", None, &Deleted { id: id.clone() }).await?;
            }
            while let Some(job) = jobs.pop() {
                tell(&self.sender, self.sent.get(&job.id), &job, None).await?;
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

/// Whether all jobs must be looked at.
fn note(changed: Option<Changed>, jobs: &mut BTreeSet<String>) -> bool {
    match changed {
        Some(Changed { job: Some(id), .. }) => {
            jobs.insert(id.to_string());
            false
        }
        Some(Changed { job: None, .. }) | None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_round_trip_and_nothing_else_is_one() {
        for text in ["0-0", "12-345", "7-0-succeeded"] {
            assert_eq!(Place::parse(text).and_then(|place| place.id()).as_deref(), Some(text));
        }
        for text in ["", "12", "12-", "-1-2", "a-b", "1.5-2"] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }
}
