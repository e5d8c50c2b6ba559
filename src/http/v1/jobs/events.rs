//! `/v1/jobs/{id}/events`

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::db::events::{self, StoredEvent};
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{JobId, Query, whole};
use crate::http::v1::jobs;

/// Part of a job's event history.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// The entries, oldest first.
    pub data: Vec<StoredEvent>,
    /// Whether more entries follow, of which the first is the one after the last `seq` here.
    pub has_more: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsParameters {
    /// Only entries after this `seq`.
    #[serde(default, deserialize_with = "whole::<0, { i64::MAX }, _>")]
    #[param(minimum = 0, default = 0)]
    after: Option<i64>,
    /// Most entries to return. A page whose messages and data have a mebibyte ends earlier.
    #[serde(default, deserialize_with = "whole::<1, 1000, _>")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
}

/// List a job's events
///
/// Status changes, log lines, warnings and checkpoints. Append-only; `seq` counts from 1 without gaps.
#[utoipa::path(get, path = "/v1/jobs/{id}/events", tag = "jobs", operation_id = "list_events",
    params(("id" = String, Path, description = "Id of the job"), EventsParameters), responses((status = 200, body = History)))]
pub async fn list(
    State(state): State<AppState>,
    id: JobId,
    Query(parameters): Query<EventsParameters>,
) -> Result<Json<History>, ApiError> {
    let limit = parameters.limit.unwrap_or(100);
    // The events of a deleted job may be there a little longer than the job.
    jobs::find(&state, &id).await?;
    let (data, has_more) = events::page(&state.pool, &id.0, parameters.after.unwrap_or(0), limit).await?;
    Ok(Json(History { data, has_more }))
}
