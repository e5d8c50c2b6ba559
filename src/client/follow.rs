//! Follows a job's stream across lost connections, without a gap and without repetition.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

use super::error::{Error, Exit};
use super::server::ApiClient;
use super::sse::{Parser, SseMessage};
use crate::protocol::series::EVAL_TOP1;

/// Least time without a byte after which a stream is opened again: the server sends a comment every 15 seconds.
const SILENCE: Duration = Duration::from_secs(45);
/// Wait before the first attempt to connect again; each further one waits twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What happens while a job is followed.
#[derive(Debug)]
pub enum News {
    Message(SseMessage),
    /// The connection was lost for this reason, and is being opened again.
    Lost(Error),
    /// The connection works again.
    Restored,
}

/// Reads a job's stream, and opens it again when the connection is lost.
#[derive(Debug)]
pub struct JobFollower<'a> {
    server: &'a ApiClient,
    job: &'a str,
    /// Id of the last message that was returned.
    last_id: Option<String>,
    open: Option<(Response, Parser)>,
    pending: VecDeque<SseMessage>,
    outage: Option<Outage>,
}

#[derive(Debug)]
struct Outage {
    began: Instant,
    pause: Duration,
}

impl<'a> JobFollower<'a> {
    /// Begins after the message with the id `last_id`, or with the first one.
    pub fn new(server: &'a ApiClient, job: &'a str, last_id: Option<String>) -> Self {
        Self { server, job, last_id, open: None, pending: VecDeque::new(), outage: None }
    }

    /// What happens next; `None` once the job has ended and everything was returned.
    ///
    /// # Errors
    /// The server refuses, or could not be reached again in time.
    pub async fn next(&mut self) -> Result<Option<News>, Error> {
        loop {
            if let Some(message) = self.pending.pop_front() {
                if message.id.is_some() {
                    self.last_id.clone_from(&message.id);
                }
                return Ok(Some(News::Message(message)));
            }
            let failure = match self.advance().await {
                Ok(Advance::Heard) if self.outage.take().is_some() => return Ok(Some(News::Restored)),
                Ok(Advance::Heard | Advance::Opened) => continue,
                Ok(Advance::Over) => return Ok(None),
                Err(failure @ Error::Unreachable { .. }) => failure,
                Err(refusal) => return Err(refusal),
            };
            self.open = None;
            match &mut self.outage {
                None => {
                    self.outage = Some(Outage { began: Instant::now(), pause: FIRST_PAUSE });
                    return Ok(Some(News::Lost(failure)));
                }
                Some(outage) if outage.began.elapsed() + outage.pause > self.server.reconnect => return Err(failure),
                Some(outage) => {
                    tokio::time::sleep(outage.pause).await;
                    outage.pause = (outage.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Opens the stream, or reads some of it.
    async fn advance(&mut self) -> Result<Advance, Error> {
        let Some((response, parser)) = &mut self.open else {
            let request = self.server.request(Method::GET, &["v1", "jobs", self.job, "stream"]);
            let request = match &self.last_id {
                Some(id) => request.header("last-event-id", id),
                None => request,
            };
            let response = self.server.send_once(request, self.server.patience).await?;
            if response.status() == StatusCode::NO_CONTENT {
                return Ok(Advance::Over);
            }
            self.open = Some((response, Parser::default()));
            return Ok(Advance::Opened);
        };
        match self.server.piece(response, self.server.patience.max(SILENCE)).await? {
            Some(piece) => {
                self.pending.extend(parser.push(&piece)?);
                Ok(Advance::Heard)
            }
            None => Err(Error::unreachable("the server ended the stream, as when it stops")),
        }
    }
}

/// What one read did.
enum Advance {
    Opened,
    Heard,
    Over,
}

/// The exit code for the end of a followed job; `None` while it has not ended.
#[must_use]
pub fn ending(job: &Value) -> Option<Exit> {
    ending_with(job["status"].as_str()?)
}

/// The same for a job's status.
#[must_use]
pub fn ending_with(status: &str) -> Option<Exit> {
    match status {
        "succeeded" => Some(Exit::Success),
        "failed" => Some(Exit::JobFailed),
        "cancelled" => Some(Exit::JobCancelled),
        _ => None,
    }
}

/// A job's history after an entry, oldest first.
///
/// # Errors
/// As for [`ApiClient::get`].
pub async fn history(server: &ApiClient, job: &str, mut after: i64) -> Result<Vec<Value>, Error> {
    let mut events = Vec::new();
    loop {
        let position = after.to_string();
        let query = [("after", position.as_str()), ("limit", "1000")];
        let mut page = server.get(&["v1", "jobs", job, "events"], &query).await?;
        let Value::Array(entries) = page["data"].take() else { return Ok(events) };
        let Some(last) = entries.last().and_then(|entry| entry["seq"].as_i64()).filter(|last| *last > after) else {
            return Ok(events);
        };
        after = last;
        events.extend(entries);
        if page["has_more"] != true {
            return Ok(events);
        }
    }
}

/// The position after the points until now. Asked before the [history](history), so that no point is passed over that
/// comes while that is read.
///
/// # Errors
/// As for [`ApiClient::get`].
pub async fn last_point(server: &ApiClient, job: &str) -> Result<i64, Error> {
    // Few points of one series, because only the position is needed.
    let query = [("name", EVAL_TOP1), ("max_points", "4")];
    let metrics = server.get(&["v1", "jobs", job, "metrics"], &query).await?;
    Ok(metrics["last_id"].as_i64().unwrap_or(0))
}

/// The id with which a stream continues after these entries of the history and after a point.
#[must_use]
pub fn position(events: &[Value], last_point: i64) -> String {
    let seq = events.last().and_then(|event| event["seq"].as_i64()).unwrap_or(0);
    format!("{seq}-{last_point}")
}
