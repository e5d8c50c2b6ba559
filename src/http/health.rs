//! `/healthz` and `/readyz`

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use crate::db;

/// Shorter than the usual timeout of probes.
const PATIENCE: Duration = Duration::from_secs(3);

/// The server is healthy.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    pub status: String,
}

impl Health {
    fn ok() -> Json<Self> {
        Json(Self { status: "ok".into() })
    }
}

/// Check that the server is alive
#[utoipa::path(get, path = "/healthz", tag = "server", operation_id = "alive", responses((status = 200, body = Health)))]
pub async fn alive() -> Json<Health> {
    Health::ok()
}

/// Check that the server is ready
///
/// Queries the database and writes to the storage.
#[utoipa::path(get, path = "/readyz", tag = "server", operation_id = "ready", responses((status = 200, body = Health)))]
pub async fn ready(State(state): State<AppState>) -> Result<Json<Health>, ApiError> {
    let database = tokio::time::timeout(PATIENCE, db::ping(&state.pool));
    let storage = tokio::time::timeout(PATIENCE, state.artifacts.probe());
    let (database, storage) = tokio::join!(database, storage);
    let mut broken = Vec::new();
    if !matches!(database, Ok(Ok(()))) {
        tracing::error!(?database, "the database is not ready");
        broken.push("the database does not answer");
    }
    if !matches!(storage, Ok(Ok(()))) {
        tracing::error!(?storage, "the storage is not ready");
        broken.push("the storage cannot be written");
    }
    if broken.is_empty() { Ok(Health::ok()) } else { Err(ApiError::Unavailable(broken.join("; ").into())) }
}
