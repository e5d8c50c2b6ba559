//! `/v1/jobs/{id}/webhooks`

use axum::Json;
use axum::extract::State;

use crate::db::webhooks::{self, WebhookMessage};
use crate::http::error::ApiError;
use crate::http::extract::JobId;
use crate::http::v1::jobs;
use crate::http::{AppState, List};
use crate::text::quoted;

/// Most webhooks of a job.
const MOST: usize = 10;

/// List a job's messages to webhooks
///
/// One for each webhook and each time that the job ended, oldest first: whether it was delivered and, if not, why and
/// when it is sent again. They are kept for 30 days.
#[utoipa::path(get, path = "/v1/jobs/{id}/webhooks", tag = "jobs", operation_id = "list_webhook_messages",
    params(("id" = String, Path, description = "Id of the job")),
    responses((status = 200, body = List<WebhookMessage>)))]
pub async fn list(State(state): State<AppState>, id: JobId) -> Result<Json<List<WebhookMessage>>, ApiError> {
    jobs::find(&state, &id).await?;
    Ok(Json(List { data: webhooks::of_job(&state.pool, &id.0).await? }))
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
    let known = &state.settings.webhooks;
    match named.iter().find(|name| !known.contains(name)) {
        None => Ok(named),
        Some(unknown) => {
            let shown: String = unknown.chars().take(64).collect();
            let others = if known.is_empty() {
                "none is set: the server's operator can set some with --webhooks".to_owned()
            } else {
                format!("there are {}", known.join(", "))
            };
            Err(ApiError::malformed(format!(
                "query parameters: webhook: there is no webhook {shown}; {others}",
                shown = quoted(&shown)
            )))
        }
    }
}
