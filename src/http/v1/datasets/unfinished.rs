//! What has been uploaded and is no data set yet: the list of it, and `/v1/datasets/{name}/shards/{split}`.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::dataset;
use crate::db::dataset_pieces::{self, UnfinishedPieces};
use crate::db::dataset_shards::{self, Shards, StoredShard, UnfinishedSplit};
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{Name, path_parameters};
use crate::removals;

/// Most unfinished uploads that are listed, of each kind.
const MOST: i64 = 1000;

/// Bytes that were uploaded, and wait for others before they are a data set.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UnfinishedUpload {
    /// Name of the data set.
    pub name: String,
    /// The client's name for an upload in pieces; null for shards.
    pub upload: Option<String>,
    /// The split whose shards wait for others; null for an upload in pieces.
    pub split: Option<String>,
    /// Number of shards that wait; null for an upload in pieces.
    pub shards_here: Option<i64>,
    /// Number of shards of the split; null for an upload in pieces.
    pub shards: Option<i32>,
    /// Bytes received.
    pub received_bytes: i64,
    /// Bytes of the whole upload; null for shards, whose sizes are not known before.
    pub size_bytes: Option<i64>,
    /// When they are removed unless more come.
    pub expires_at: DateTime<Utc>,
    /// How to continue, and how to give it up.
    pub next: String,
}

impl From<UnfinishedPieces> for UnfinishedUpload {
    fn from(found: UnfinishedPieces) -> Self {
        let UnfinishedPieces { name, upload, received_bytes, size_bytes, expires_at } = found;
        let on = if received_bytes < size_bytes {
            format!("send the next piece, which begins at byte {received_bytes}")
        } else {
            "send the last piece again".to_owned()
        };
        let next = format!(
            "to continue, start the same upload again, or {on} (PUT /v1/datasets/{name}?upload={upload}); to give it \
             up, DELETE /v1/datasets/{name}/uploads/{upload}"
        );
        let (upload, size_bytes) = (Some(upload), Some(size_bytes));
        let (split, shards_here, shards) = (None, None, None);
        Self { name, upload, split, shards_here, shards, received_bytes, size_bytes, expires_at, next }
    }
}

impl From<UnfinishedSplit> for UnfinishedUpload {
    fn from(found: UnfinishedSplit) -> Self {
        let UnfinishedSplit { name, split, here, shards, received_bytes, expires_at } = found;
        let on = if here < i64::from(shards) { "the shards that are missing" } else { "one of its shards again" };
        let next = format!(
            "to continue, send {on} (PUT /v1/datasets/{name}?split={split}&shards={shards}&shard=NUMBER); to give it \
             up, DELETE /v1/datasets/{name}/shards/{split}"
        );
        let (upload, size_bytes) = (None, None);
        let (split, shards_here, shards) = (Some(split), Some(here), Some(shards));
        Self { name, upload, split, shards_here, shards, received_bytes, size_bytes, expires_at, next }
    }
}

/// All unfinished uploads by the names of their data sets, or those of one.
pub async fn list(state: &AppState, name: Option<&str>) -> Result<Vec<UnfinishedUpload>, ApiError> {
    let pieces = dataset_pieces::unfinished(&state.pool, name, MOST).await?;
    let splits = dataset_shards::unfinished(&state.pool, name, MOST).await?;
    let mut all: Vec<UnfinishedUpload> = pieces.into_iter().map(Into::into).collect();
    all.extend(splits.into_iter().map(UnfinishedUpload::from));
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// The `{split}` of a path.
#[derive(Debug)]
pub struct SplitName(String);

impl<S: Send + Sync> FromRequestParts<S> for SplitName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let parameters = path_parameters(parts).await?;
        let name = parameters.into_iter().find(|(name, _)| name == "split").expect("the route has a {split}");
        Ok(Self(name.1))
    }
}

/// The shards of a split that wait for others.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct WaitingShardList {
    /// Number of shards of the split.
    pub shards: i32,
    /// Those that wait, by number.
    pub data: Vec<WaitingShard>,
}

/// A shard that waits for others of its split.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct WaitingShard {
    /// Its number, from 0.
    pub shard: i32,
    /// Its size in bytes.
    pub size_bytes: i64,
    /// SHA-256 of its file, in hexadecimal.
    pub sha256: String,
}

/// List the shards of a split that wait for others
///
/// Those that were uploaded and are not part of a version yet. A client that goes on with an upload need not send them
/// again if their bytes are the same.
#[utoipa::path(get, path = "/v1/datasets/{name}/shards/{split}", tag = "datasets",
    operation_id = "list_waiting_dataset_shards",
    params(("name" = String, Path, description = "Name of the data set"),
        ("split" = String, Path, description = "Name of the split")),
    responses((status = 200, body = WaitingShardList)))]
pub async fn shards(
    State(state): State<AppState>,
    name: Name,
    split: SplitName,
) -> Result<Json<WaitingShardList>, ApiError> {
    let found = of_split(&state, &name.0, &split.0).await?;
    let shards = found.first().map(|shard| shard.shards).ok_or_else(none)?;
    let waiting = |StoredShard { shard, size_bytes, sha256, .. }| WaitingShard { shard, size_bytes, sha256 };
    Ok(Json(WaitingShardList { shards, data: found.into_iter().map(waiting).collect() }))
}

/// Give up the shards of a split that wait for others
///
/// Removes them, and so makes room for others at once. The versions of the data set stay.
#[utoipa::path(delete, path = "/v1/datasets/{name}/shards/{split}", tag = "datasets",
    operation_id = "delete_waiting_dataset_shards",
    params(("name" = String, Path, description = "Name of the data set"),
        ("split" = String, Path, description = "Name of the split")),
    responses((status = 204)))]
pub async fn delete_shards(
    State(state): State<AppState>,
    name: Name,
    split: SplitName,
) -> Result<StatusCode, ApiError> {
    let found = of_split(&state, &name.0, &split.0).await?;
    let keys: Vec<String> = found.into_iter().map(|shard| shard.key).collect();
    if keys.is_empty() {
        return Err(none());
    }
    let gone = dataset_shards::forget(&state.pool, &name.0, Shards::Under(&keys)).await?;
    removals::start_all(&state.pool, &state.artifacts, gone).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn of_split(state: &AppState, name: &str, split: &str) -> Result<Vec<StoredShard>, ApiError> {
    if !dataset::is_name(name) || !dataset::is_name(split) {
        return Ok(Vec::new());
    }
    let mut found = dataset_shards::of_dataset(&state.pool, name).await?;
    found.retain(|shard| shard.split == split);
    Ok(found)
}

fn none() -> ApiError {
    ApiError::not_found("no shards of that split wait for others: GET /v1/datasets lists unfinished uploads")
}
