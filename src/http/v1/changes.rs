//! `/v1/changes`

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};
use utoipa::ToSchema;

use crate::db::listen::{Changed, Changes};
use crate::http::AppState;
use crate::http::answers::AnswerClient;
use crate::http::sse::{self, PACE, POLL_INTERVAL, Sender, StreamError};

/// Data of a `changed` message.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChangedJobs {
    /// Ids of the jobs that were created, changed or deleted since the last message; null where any job may have
    /// changed.
    #[schema(required)]
    pub ids: Option<BTreeSet<String>>,
}

/// Follow which jobs change
///
/// Server-Sent Events for a page that shows parts of long lists and queries again what it shows. `changed`: the `ids`
/// of the jobs that were created, changed in any way or deleted since the last message, at most five times a second;
/// null at the start, whenever changes may have been missed, and after 15 seconds without a change: a client that hears
/// nothing for longer has lost the connection.
#[utoipa::path(get, path = "/v1/changes", tag = "jobs", operation_id = "stream_changes",
    responses((status = 200, body = String, content_type = "text/event-stream")))]
pub async fn get(State(state): State<AppState>, client: AnswerClient) -> Response {
    let changes = state.changes.clone();
    sse::respond(&state, client, |sender| async move { send_changed(&changes, &sender).await })
}

async fn send_changed(changes: &Changes, sender: &Sender) -> Result<(), StreamError> {
    let mut subscription = changes.subscribe();
    let mut changed = ChangedJobs { ids: None };
    loop {
        let sent = Instant::now();
        sender.send("changed", None, &changed).await?;
        changed = ChangedJobs { ids: Some(BTreeSet::new()) };
        note(timeout(POLL_INTERVAL, subscription.next()).await.unwrap_or_else(|_| Changed::any()), &mut changed);
        while let Ok(next) = timeout_at(sent + PACE, subscription.next()).await {
            note(next, &mut changed);
        }
    }
}

fn note(next: Changed, changed: &mut ChangedJobs) {
    match (next.job, &mut changed.ids) {
        (Some(id), Some(ids)) => drop(ids.insert(id.to_string())),
        _ => changed.ids = None,
    }
}
