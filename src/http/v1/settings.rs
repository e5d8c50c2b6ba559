//! `/v1/settings`

use axum::Json;
use axum::extract::State;

use crate::db::jobs::settings::{self, KnownSetting};
use crate::http::error::ApiError;
use crate::http::{AppState, List};

/// List settings
///
/// The settings of the newest 1,000 jobs by their JSON pointers, those with the most different values first: what
/// `column` of `GET /v1/summaries` and `by` of `GET /v1/groups` can name.
#[utoipa::path(get, path = "/v1/settings", tag = "jobs", operation_id = "list_settings",
    responses((status = 200, body = List<KnownSetting>)))]
pub async fn list(State(state): State<AppState>) -> Result<Json<List<KnownSetting>>, ApiError> {
    Ok(Json(List { data: settings::known(&state.pool).await? }))
}
