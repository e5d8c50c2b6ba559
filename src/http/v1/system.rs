//! `/v1/system`

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::db::system::{self, LastDay, Queue, StorageUsage};
use crate::http::AppState;
use crate::http::error::ApiError;

/// State of the whole system.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct System {
    /// Waiting jobs.
    pub queue: Queue,
    /// Work of the last 24 hours.
    pub last_day: LastDay,
    /// Stored files.
    pub storage: Storage,
}

/// Stored files, and how much more can be stored.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Storage {
    #[serde(flatten)]
    stored: StorageUsage,
    /// Largest total size of all uploaded checkpoints and data sets, in bytes; null where the disk is the limit.
    pub checkpoints_limit_bytes: Option<u64>,
    /// Free space of the storage, in bytes; null for S3.
    pub free_bytes: Option<u64>,
}

/// Get the state of the system
#[utoipa::path(get, path = "/v1/system", tag = "server", operation_id = "get_system",
    responses((status = 200, body = System)))]
pub async fn get(State(state): State<AppState>) -> Result<Json<System>, ApiError> {
    let storage = Storage {
        stored: system::stored(&state.pool).await?,
        checkpoints_limit_bytes: state.settings.uploads_limit,
        free_bytes: state.artifacts.free_bytes(),
    };
    let (queue, last_day) = (system::queue(&state.pool).await?, system::last_day(&state.pool).await?);
    Ok(Json(System { queue, last_day, storage }))
}
