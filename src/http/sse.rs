//! Server-Sent Events: a task produces messages, and the client reads them at its own speed.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::AppState;
use super::answers::AnswerClient;
use super::error::ApiError;

/// Shortest time between two queries of one stream. Changes within it are sent together.
pub const PACE: Duration = Duration::from_millis(200);

/// A stream queries the database this often even without a notification: a dead connection to the database takes a
/// while to be noticed.
pub const POLL_INTERVAL: Duration = Duration::from_secs(15);

/// Messages that wait for a client, beside what its connection takes. A message takes up to ten kilobytes, and there
/// may be ten thousand clients that read nothing.
const BACKLOG: usize = 1;

/// The sending end of a stream. `send` waits while the client is slower than we are.
#[derive(Debug, Clone)]
pub struct Sender(mpsc::Sender<Event>);

/// Why a stream broke off.
#[derive(Debug)]
pub enum StreamError {
    /// The client has disconnected.
    Disconnected,
    /// A query failed. The client reconnects and resumes.
    Database(sqlx::Error),
}

impl From<sqlx::Error> for StreamError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl Sender {
    /// Sends one message.
    ///
    /// # Errors
    /// [`StreamError::Disconnected`].
    pub async fn send(&self, name: &str, id: Option<String>, data: &impl Serialize) -> Result<(), StreamError> {
        let event = Event::default().event(name).json_data(data).expect("messages can be written as JSON");
        let event = if let Some(id) = id { event.id(id) } else { event };
        self.0.send(event).await.map_err(|_| StreamError::Disconnected)
    }

    /// Sends one message whose data is JSON already.
    ///
    /// # Errors
    /// [`StreamError::Disconnected`].
    pub async fn send_text(&self, name: &str, data: &str) -> Result<(), StreamError> {
        self.0.send(Event::default().event(name).data(data)).await.map_err(|_| StreamError::Disconnected)
    }

    /// Sends an id to resume from, without a message.
    ///
    /// # Errors
    /// [`StreamError::Disconnected`].
    pub async fn send_id(&self, id: String) -> Result<(), StreamError> {
        self.0.send(Event::default().id(id)).await.map_err(|_| StreamError::Disconnected)
    }

    async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Responds with what `produce` sends, until it returns, the client disconnects or the server stops. A comment is sent
/// whenever the stream was silent for `keep_alive`, because proxies close idle connections. What waits in the client's
/// connection counts towards the memory of answers.
pub fn respond<F>(state: &AppState, client: AnswerClient, produce: impl FnOnce(Sender) -> F) -> Response
where
    F: Future<Output = Result<(), StreamError>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let sender = Sender(sender);
    let stopping = state.stopping.clone();
    let producing = produce(sender.clone());
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = producing => ended,
            () = sender.closed() => Ok(()),
            () = stopping.cancelled() => Ok(()),
        };
        if let Err(StreamError::Database(error)) = ended {
            tracing::warn!(%error, "a stream broke off; its client will reconnect");
        }
    });
    let events = ReceiverStream::new(receiver).map(Ok::<_, Infallible>);
    let keep_alive = KeepAlive::new().interval(state.settings.keep_alive);
    let (mut head, body) = Sse::new(events).keep_alive(keep_alive).into_response().into_parts();
    // Tells nginx not to buffer events.
    head.headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    let (answers, client) = (state.answers.clone(), client.without_compression());
    let pieces = body.into_data_stream().then(move |piece| {
        let (answers, client) = (answers.clone(), client.clone());
        async move {
            let piece = piece?;
            let memory = answers.reserve(piece.len(), &client).await;
            Ok::<_, axum::Error>(memory.hold(piece))
        }
    });
    Response::from_parts(head, Body::from_stream(pieces))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamParameters {
    /// Resume after the message with this id. The header `Last-Event-ID` takes precedence.
    #[serde(default)]
    after: Option<String>,
}

impl StreamParameters {
    /// The id to resume after: from the header, which a reconnecting browser sends, or else from the parameter.
    ///
    /// # Errors
    /// The header is not text.
    pub fn last_event_id(self, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
        let Some(id) = headers.get("last-event-id") else { return Ok(self.after) };
        match id.to_str() {
            Ok("") => Ok(None),
            Ok(id) => Ok(Some(id.to_owned())),
            Err(_) => Err(ApiError::malformed("Last-Event-ID is not an id of this stream")),
        }
    }
}
