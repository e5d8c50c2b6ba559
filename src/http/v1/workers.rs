//! `/v1/workers`

use axum::Json;
use axum::extract::State;

use crate::db::workers::{self, Worker};
use crate::http::error::ApiError;
use crate::http::{AppState, List};

/// List workers
///
/// Newest first: those that are online, which is with a heartbeat within the last minute, and those that vanished
/// within a day and are not deleted yet.
#[utoipa::path(get, path = "/v1/workers", tag = "server", operation_id = "list_workers",
    responses((status = 200, body = List<Worker>)))]
pub async fn list(State(state): State<AppState>) -> Result<Json<List<Worker>>, ApiError> {
    Ok(Json(List { data: workers::list(&state.pool).await? }))
}
