//! `/v1/settings`

use axum::Json;
use axum::extract::State;

use crate::db::jobs::settings::{self, KnownSetting, SpecSetting};
use crate::http::error::ApiError;
use crate::http::{AppState, List};
use crate::spec::{has_setting, setting_meant};

/// List settings
///
/// The settings of the newest 1,000 jobs by their JSON pointers, those with the most different values first: what
/// `column` of `GET /v1/summaries` and `by` of `GET /v1/groups` can name.
#[utoipa::path(get, path = "/v1/settings", tag = "jobs", operation_id = "list_settings",
    responses((status = 200, body = List<KnownSetting>)))]
pub async fn list(State(state): State<AppState>) -> Result<Json<List<KnownSetting>>, ApiError> {
    Ok(Json(List { data: settings::known(&state.pool).await? }))
}

/// Refuses a setting that neither the specification has nor any job, which may be of another version.
///
/// # Errors
/// That, with the setting that was probably meant, or the database cannot be read.
pub(super) async fn check(state: &AppState, parameter: &str, setting: &SpecSetting) -> Result<(), ApiError> {
    let pointer = &setting.pointer;
    if has_setting(pointer) || settings::is_in_any_job(&state.pool, setting).await? {
        return Ok(());
    }
    let advice = match setting_meant(pointer) {
        Some(meant) => format!(", did you mean {meant}?"),
        None => "; GET /v1/settings lists those that jobs have".to_owned(),
    };
    Err(ApiError::malformed(format!("query parameters: {parameter}: no job has the setting {pointer}{advice}")))
}
