//! `/v1/jobs/{id}/attempts`

use axum::Json;
use axum::extract::State;

use crate::db::attempts::{self, Attempt};
use crate::http::error::ApiError;
use crate::http::extract::JobId;
use crate::http::v1::jobs;
use crate::http::{AppState, List};

/// List a job's attempts
///
/// One entry for each start on a worker, oldest first, with the step it resumed from and how it ended. Empty until the
/// job first starts.
#[utoipa::path(get, path = "/v1/jobs/{id}/attempts", tag = "jobs", operation_id = "list_attempts",
    params(("id" = String, Path, description = "Id of the job")), responses((status = 200, body = List<Attempt>)))]
pub async fn list(State(state): State<AppState>, id: JobId) -> Result<Json<List<Attempt>>, ApiError> {
    jobs::find(&state, &id).await?;
    Ok(Json(List { data: attempts::list(&state.pool, &id.0).await? }))
}
