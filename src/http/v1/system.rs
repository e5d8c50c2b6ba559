//! `/v1/system`

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::error::ApiError;
use crate::jobs::system::{self, LastDay, Queue, Stored};

/// How the whole system is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct System {
    /// What waits.
    pub queue: Queue,
    /// What was done within a day.
    pub last_day: LastDay,
    /// What is stored.
    pub storage: Storage,
}

/// What is stored, and how much more could be.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Storage {
    #[serde(flatten)]
    stored: Stored,
    /// Most bytes that all uploaded checkpoints may have together; null where the disk is the limit.
    pub checkpoints_limit_bytes: Option<u64>,
    /// Free bytes where the files are stored; null for S3.
    pub free_bytes: Option<u64>,
}

/// Queue, recent work and storage
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
