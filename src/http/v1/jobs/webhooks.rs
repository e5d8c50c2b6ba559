//! `/v1/jobs/{id}/webhooks`

use axum::Json;
use axum::extract::State;

use crate::db::webhooks::{self, WebhookMessage};
use crate::http::error::ApiError;
use crate::http::extract::JobId;
use crate::http::v1::jobs;
use crate::http::v1::webhooks::{MOST, fault_of};
use crate::http::{AppState, List};

/// List a job's messages to webhooks
///
/// One for each webhook and each time that the job ended, oldest first: whether it was delivered and, if not, why and
/// when it is sent again. They are kept for 30 days.
#[utoipa::path(get, path = "/v1/jobs/{id}/webhooks", tag = "jobs", operation_id = "list_webhook_messages",
    params(("id" = String, Path, description = "Id of the job")),
    responses((status = 200, body = List<WebhookMessage>)))]
pub async fn list(State(state): State<AppState>, id: JobId) -> Result<Json<List<WebhookMessage>>, ApiError> {
    jobs::find(&state, &id).await?;
    Ok(Json(List { data: webhooks::about(&state.pool, &id.0).await? }))
}

/// The webhooks that a request names, each once.
///
/// # Errors
/// One of them is not set, or there are too many.
pub fn chosen(state: &AppState, mut named: Vec<String>) -> Result<Vec<String>, ApiError> {
    named.sort_unstable();
    named.dedup();
    if named.len() > MOST {
        return Err(ApiError::malformed(format!("query parameters: webhook: expected at most {MOST} names")));
    }
    match named.iter().find_map(|name| fault_of(state, name)) {
        None => Ok(named),
        Some(reason) => Err(ApiError::malformed(format!("query parameters: webhook: {reason}"))),
    }
}
