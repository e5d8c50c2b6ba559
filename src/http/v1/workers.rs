//! `/v1/workers`

use axum::Json;
use axum::extract::State as Shared;

use crate::http::error::ApiError;
use crate::http::{List, State};
use crate::jobs::workers::{self, Worker};

/// Workers
///
/// Those that were heard of within the last day, newest first.
#[utoipa::path(get, path = "/v1/workers", tag = "server", operation_id = "list_workers",
    responses((status = 200, body = List<Worker>)))]
pub async fn list(Shared(state): Shared<State>) -> Result<Json<List<Worker>>, ApiError> {
    Ok(Json(List { data: workers::list(&state.pool).await? }))
}
