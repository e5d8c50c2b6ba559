//! `/v1/jobs/{id}/updates`

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::stream::MessageId;
use crate::db::events::{self, StoredEvent};
use crate::db::jobs::Job;
use crate::db::metrics::{self, StoredPoint};
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{JobId, Query};
use crate::http::feed::{Cursor, PAGE};
use crate::http::v1::jobs;

/// What is new about a job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Updates {
    /// The job as it is now.
    pub job: Job,
    /// Entries of its history after the position, oldest first; at most 500, and fewer if their messages
    /// are long.
    pub events: Vec<StoredEvent>,
    /// Points of its series after the position, oldest first; at most 500.
    pub points: Vec<StoredPoint>,
    /// The position after these, for the next request.
    #[schema(example = "17-4200")]
    pub next: String,
    /// Whether there is more after `next` already.
    pub has_more: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UpdatesParameters {
    /// Continue after this position: `next` of the last answer, or an id of the job's stream. Without it, from the
    /// start.
    #[serde(default)]
    after: Option<String>,
}

/// Get what is new about a job
///
/// The same as the job's stream in single answers, for clients that cannot hold a connection for every job that they
/// show: ask again when `GET /v1/changes` names the job.
#[utoipa::path(get, path = "/v1/jobs/{id}/updates", tag = "jobs", operation_id = "get_updates",
    params(("id" = String, Path, description = "Id of the job"), UpdatesParameters), responses((status = 200, body = Updates)))]
pub async fn get(
    State(state): State<AppState>,
    id: JobId,
    Query(parameters): Query<UpdatesParameters>,
) -> Result<Json<Updates>, ApiError> {
    let Cursor { event, point } = match parameters.after {
        None => Cursor::default(),
        Some(text) => {
            let id = MessageId::parse(&text);
            id.ok_or_else(|| ApiError::malformed(format!("{text:?} is not a position in a job's history")))?.cursor
        }
    };
    // The job first: once it has ended, no events or points are added after this query.
    let job = jobs::find(&state, &id).await?;
    let (events, has_more_events) = events::page(&state.pool, &id.0, event, PAGE).await?;
    let points = metrics::list(&state.pool, &id.0, point, PAGE).await?;
    let next = Cursor {
        event: events.last().map_or(event, |last| last.seq),
        point: points.last().map_or(point, |last| last.id),
    };
    let has_more = has_more_events || points.len() as i64 == PAGE;
    Ok(Json(Updates { job, events, points, next: MessageId { cursor: next, ended: None }.text(), has_more }))
}
