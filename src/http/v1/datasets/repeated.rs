//! Uploads whose last answer was lost. A client sends the last piece or the last shard again, and gets the version that
//! the upload has become: the server remembers that for a day.

use chrono::Utc;

use super::shards::ShardPlace;
use crate::db::dataset_pieces::StoredPiece;
use crate::db::datasets;
use crate::db::finished_uploads::{self, FinishedUpload};
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::uploads::Upload;

/// The finished upload whose last piece may be this one: a piece with its offset, its size and the size of the whole.
/// An upload of a single piece is simply made again.
pub async fn of_piece(
    state: &AppState,
    name: &str,
    (upload, piece): (&str, [i64; 3]),
    place: Option<&ShardPlace>,
) -> Result<Option<FinishedUpload>, ApiError> {
    let found = finished_uploads::find(&state.pool, name, upload).await?;
    Ok(found.filter(|finished| {
        let FinishedUpload { start_at, size_bytes, total_bytes, .. } = finished;
        [*start_at, *size_bytes, *total_bytes] == piece && finished.place == text(place)
    }))
}

/// The version that an upload has become, if what came has the SHA-256 of its last piece, and the version's file is
/// whole.
pub async fn version(state: &AppState, name: &str, finished: FinishedUpload, sha256: &str) -> Result<String, ApiError> {
    if sha256 != finished.sha256 {
        return Err(ApiError::conflict(format!(
            "upload {} is complete, and its last piece had other bytes: use another name for another file",
            finished.upload
        )));
    }
    let stored = datasets::stored(&state.pool, &finished.dataset_id).await?;
    if let Some(stored) = stored
        && state.artifacts.is_whole(&stored.key, &stored.sha256).await
    {
        return Ok(finished.dataset_id);
    }
    finished_uploads::forget(&state.pool, name, &finished.upload).await?;
    Err(ApiError::conflict(format!(
        "{} was deleted since, or is damaged in storage: begin the upload again at byte 0",
        finished.dataset_id
    )))
}

/// Remembers the version that pieces have become. `last` is the last of them.
pub async fn remember_pieces(
    state: &AppState,
    name: &str,
    (upload, place): (&str, Option<&ShardPlace>),
    last: &StoredPiece,
    version: &str,
) -> Result<(), ApiError> {
    let finished = FinishedUpload {
        upload: upload.to_owned(),
        split: place.map(|place| place.split.clone()),
        place: text(place),
        start_at: last.start_at,
        size_bytes: last.size_bytes,
        total_bytes: last.total_bytes,
        sha256: last.sha256.clone(),
        dataset_id: version.to_owned(),
        expires_at: Utc::now(),
    };
    Ok(finished_uploads::remember(&state.pool, name, &finished).await?)
}

/// A shard as the last of its set.
#[derive(Debug)]
pub struct LastShard(FinishedUpload);

impl LastShard {
    pub fn of(place: &ShardPlace, upload: &Upload) -> Self {
        let size = i64::try_from(upload.size).unwrap_or(i64::MAX);
        let place_text = text(Some(place));
        Self(FinishedUpload {
            // No client can call an upload so.
            upload: format!("/{place_text}"),
            split: Some(place.split.clone()),
            place: place_text,
            start_at: 0,
            size_bytes: size,
            total_bytes: size,
            sha256: upload.sha256.clone(),
            dataset_id: String::new(),
            expires_at: Utc::now(),
        })
    }

    /// The version that this shard has completed before.
    pub async fn version(&self, state: &AppState, name: &str) -> Result<Option<String>, ApiError> {
        let found = finished_uploads::find(&state.pool, name, &self.0.upload).await?;
        Ok(found.filter(|found| found.sha256 == self.0.sha256).map(|found| found.dataset_id))
    }

    /// Remembers the version that this shard has completed.
    pub async fn remember(self, state: &AppState, name: &str, version: &str) -> Result<(), ApiError> {
        let finished = FinishedUpload { dataset_id: version.to_owned(), ..self.0 };
        Ok(finished_uploads::remember(&state.pool, name, &finished).await?)
    }
}

/// Which shard an upload is; empty for a whole data set.
fn text(place: Option<&ShardPlace>) -> String {
    place.map(ToString::to_string).unwrap_or_default()
}
