//! Server-Sent Events: a task looks and writes, the client reads at its own speed.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::error::ApiError;

/// Least time between two looks of one stream: what changes faster is sent together.
pub const PACE: Duration = Duration::from_millis(200);

/// A stream looks again after so long even where no notification came.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Where the messages of a stream go. Full while the client is slower than we are.
#[derive(Debug, Clone)]
pub struct Sender(mpsc::Sender<Event>);

/// Why a stream ended before its end.
#[derive(Debug)]
pub enum Broken {
    /// The client has gone away.
    Gone,
    /// Something failed here; the client comes back and goes on.
    Failed(sqlx::Error),
}

impl From<sqlx::Error> for Broken {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error)
    }
}

impl Sender {
    /// Sends one message.
    ///
    /// # Errors
    /// When the client has gone away.
    pub async fn send(&self, name: &str, id: Option<String>, data: &impl Serialize) -> Result<(), Broken> {
        let event = Event::default().event(name).json_data(data).expect("what is sent can be written as JSON");
        let event = if let Some(id) = id { event.id(id) } else { event };
        self.0.send(event).await.map_err(|_| Broken::Gone)
    }

    /// Sends an id to come back with, and no message.
    ///
    /// # Errors
    /// When the client has gone away.
    pub async fn send_id(&self, id: String) -> Result<(), Broken> {
        self.0.send(Event::default().id(id)).await.map_err(|_| Broken::Gone)
    }

    /// Waits until the client has gone away.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Answers with what `produce` sends, until it returns, and with a comment whenever nothing was sent for as long as
/// `keep_alive`: proxies close what seems idle.
pub fn respond<F>(keep_alive: Duration, produce: impl FnOnce(Sender) -> F) -> Response
where
    F: Future<Output = Result<(), Broken>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(64);
    let producing = produce(Sender(sender));
    tokio::spawn(async move {
        if let Err(Broken::Failed(error)) = producing.await {
            tracing::warn!(%error, "a stream ended early; its client will come back");
        }
    });
    let events = ReceiverStream::new(receiver).map(Ok::<_, Infallible>);
    let keep_alive = KeepAlive::new().interval(keep_alive);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // Tells nginx not to hold events back.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// Where the client wants to go on: the header of a client that lost its connection, or else the parameter.
///
/// # Errors
/// When it is not text.
pub fn last_event_id(headers: &HeaderMap, after: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(id) = headers.get("last-event-id") else { return Ok(after) };
    match id.to_str() {
        Ok("") => Ok(None),
        Ok(id) => Ok(Some(id.to_owned())),
        Err(_) => Err(ApiError::malformed("Last-Event-ID is not an id of this stream")),
    }
}
