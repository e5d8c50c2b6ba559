//! `/v1/sweeps/{id}/webhooks`

use axum::Json;
use axum::extract::State;

use super::no_such;
use crate::db::sweeps;
use crate::db::webhooks::{self, WebhookMessage};
use crate::http::error::ApiError;
use crate::http::extract::SweepId;
use crate::http::{AppState, List};

/// List a sweep's messages to webhooks
///
/// One for each webhook that its document names, once it has ended: whether it was delivered and, if not, why and when
/// it is sent again. They are kept for 30 days.
#[utoipa::path(get, path = "/v1/sweeps/{id}/webhooks", tag = "sweeps", operation_id = "list_sweep_webhook_messages",
    params(("id" = String, Path, description = "Id of the sweep")),
    responses((status = 200, body = List<WebhookMessage>)))]
pub async fn list(State(state): State<AppState>, id: SweepId) -> Result<Json<List<WebhookMessage>>, ApiError> {
    sweeps::get(&state.pool, &id.0).await?.ok_or_else(|| no_such(&id.0))?;
    Ok(Json(List { data: webhooks::about(&state.pool, &id.0).await? }))
}
