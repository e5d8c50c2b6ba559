//! `/v1/webhooks`

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::List;
use crate::text::quoted;

/// Most webhooks of a job or a sweep.
pub const MOST: usize = 10;

/// A webhook that jobs and sweeps may name.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Its name, for the parameter `webhook` of `POST /v1/jobs`, and for `webhooks` in the document of a sweep.
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

/// Why a name is not that of a webhook; `None` if it is.
pub fn fault_of(state: &AppState, name: &str) -> Option<String> {
    let known = &state.settings.webhooks;
    if known.iter().any(|other| other == name) {
        return None;
    }
    let shown: String = name.chars().take(64).collect();
    let others = if known.is_empty() {
        "this server has none: its operator can set some with --webhooks".to_owned()
    } else {
        format!("there are {}", known.join(", "))
    };
    Some(format!("there is no webhook {shown}; {others}", shown = quoted(&shown)))
}
