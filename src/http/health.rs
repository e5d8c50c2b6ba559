//! `/healthz` and `/readyz`

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
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

/// What the last check of the database and the storage found. Everybody may ask, so requests share a check.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<(Instant, Vec<&'static str>)>>);

impl Readiness {
    /// What does not work.
    async fn broken(&self, state: &AppState) -> Vec<&'static str> {
        let mut last = self.0.lock().await;
        if let Some((at, broken)) = &*last
            && at.elapsed() < state.settings.ready_memory
        {
            return broken.clone();
        }
        let broken = check(state).await;
        *last = Some((Instant::now(), broken.clone()));
        broken
    }
}

async fn check(state: &AppState) -> Vec<&'static str> {
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
    broken
}

/// Check that the server is ready
///
/// Queries the database and writes to the storage, at most once in five seconds: in between, the answer is that of the
/// last check.
#[utoipa::path(get, path = "/readyz", tag = "server", operation_id = "ready", responses((status = 200, body = Health)))]
pub async fn ready(State(state): State<AppState>) -> Result<Json<Health>, ApiError> {
    let broken = state.readiness.broken(&state).await;
    if broken.is_empty() { Ok(Health::ok()) } else { Err(ApiError::Unavailable(broken.join("; ").into())) }
}
