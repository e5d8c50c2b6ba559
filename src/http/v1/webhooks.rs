//! `/v1/webhooks`

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::List;

/// A webhook that jobs may name.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Its name, for the parameter `webhook` of `POST /v1/jobs`.
    #[schema(example = "team-chat")]
    pub name: String,
}

/// List webhooks
///
/// The webhooks that the server's operator has set. Their addresses are not shown.
#[utoipa::path(get, path = "/v1/webhooks", tag = "server", operation_id = "list_webhooks",
    responses((status = 200, body = List<Webhook>)))]
pub async fn list(State(state): State<AppState>) -> Json<List<Webhook>> {
    Json(List { data: state.settings.webhooks.iter().map(|name| Webhook { name: name.clone() }).collect() })
}
