//! Reads what a client still sends of an upload that was refused.
//!
//! A client that sends a large body reads the answer afterwards. If the server closed the connection with unread bytes,
//! it would be reset, and the client would see a broken connection instead of the reason.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::EXPECT;
use axum::middleware::Next;
use axum::response::Response;
use futures::{Stream, StreamExt};

/// Most bytes that are read for nothing: more than a piece of the dashboard's uploads has.
const MOST: usize = 64 << 20;
/// How long they are read.
const PATIENCE: Duration = Duration::from_secs(10);

/// The body of a request, which its handler may give up before it has ended.
#[derive(Clone)]
struct SharedBody(Arc<Mutex<SharedState>>);

struct SharedState {
    body: BodyDataStream,
    has_ended: bool,
}

impl Stream for SharedBody {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.has_ended {
            return Poll::Ready(None);
        }
        let next = state.body.poll_next_unpin(context);
        state.has_ended = matches!(next, Poll::Ready(None | Some(Err(_))));
        next
    }
}

/// Serves a request. If it is refused, goes on to read its body while the answer is sent.
pub async fn read_rest(request: Request, next: Next) -> Response {
    // Who asks before it sends reads the refusal first.
    if request.headers().contains_key(EXPECT) {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let state = SharedState { body: body.into_data_stream(), has_ended: false };
    let mut rest = SharedBody(Arc::new(Mutex::new(state)));
    let response = next.run(Request::from_parts(head, Body::from_stream(rest.clone()))).await;
    let status = response.status();
    // A client that is too slow would be so here, too.
    if (status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT) || status == StatusCode::SERVICE_UNAVAILABLE
    {
        tokio::spawn(async move {
            let mut read = 0;
            let reading = async {
                while let Some(Ok(bytes)) = rest.next().await {
                    read += bytes.len();
                    if read > MOST {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(PATIENCE, reading).await;
        });
    }
    response
}
