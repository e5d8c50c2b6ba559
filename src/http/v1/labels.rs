//! `/v1/labels`

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::summaries::words;
use crate::db::jobs::labels::{self, Label};
use crate::http::error::ApiError;
use crate::http::extract::{Query, whole};
use crate::http::{AppState, List};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LabelsParameters {
    /// Only labels that contain each of these words in `key:value`. Case-insensitive.
    #[param(max_length = 200)]
    q: Option<String>,
    /// Most entries to return.
    #[serde(default, deserialize_with = "whole::<1, 1000, _>")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
}

/// List labels
///
/// The labels of all jobs with the number of jobs that have each, most frequent first.
#[utoipa::path(get, path = "/v1/labels", tag = "jobs", operation_id = "list_labels", params(LabelsParameters),
    responses((status = 200, body = List<Label>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(LabelsParameters { q, limit }): Query<LabelsParameters>,
) -> Result<Json<List<Label>>, ApiError> {
    let data = labels::find(&state.pool, &words(q)?, limit.unwrap_or(100)).await?;
    Ok(Json(List { data }))
}
