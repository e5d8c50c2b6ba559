//! `PUT /v1/datasets/{name}?upload=` and `/v1/datasets/{name}/uploads/{upload}`: uploads in pieces.
//!
//! A client names its upload, and sends pieces with `Content-Range` (RFC 9110, section 14.5) one after the other, each
//! from where the last one ended. A piece is stored whole or not at all, so a broken connection costs one piece,
//! and any server can take the next. The last piece may be sent again, since putting the pieces together takes a while
//! and can fail.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_RANGE;
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::repeated;
use super::shards::{ShardPlace, UploadOutcome};
use crate::artifacts::keys;
use crate::dataset;
use crate::db::dataset_pieces::{self, StoredPiece};
use crate::db::file_deletions::{self, FileDeletion};
use crate::db::finished_uploads::{self, FinishedUpload};
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{Name, UploadName};
use crate::http::quota::{self, NewUpload};
use crate::http::uploads::{Spooled, Upload, UploadKind};
use crate::removals;

/// Most pieces of an upload. Each request looks at all of them.
const MOST_PIECES: usize = 10_000;
/// Most characters of an upload's name.
const LONGEST_NAME: usize = 64;

/// A piece of an upload.
#[derive(Debug, Clone)]
pub struct UploadPiece {
    pub upload: String,
    start: u64,
    size: u64,
    total: u64,
}

impl UploadPiece {
    /// Bytes of all pieces in storage once this one has completed the upload. They leave it for what was uploaded.
    pub fn stored_bytes(&self) -> u64 {
        if self.size == self.total { 0 } else { self.total }
    }

    /// Its offset, its size and the size of the whole.
    fn numbers(&self) -> [i64; 3] {
        [self.start, self.size, self.total].map(signed)
    }
}

/// How much of an upload the server has.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PartialUpload {
    /// The client's name for the upload.
    pub upload: String,
    /// Bytes received, which is where the next piece begins.
    pub received_bytes: i64,
    /// Bytes of the whole upload.
    pub size_bytes: i64,
    /// When the pieces are removed unless another one comes.
    pub expires_at: DateTime<Utc>,
}

/// Which piece a request sends; `None` if it sends the whole.
pub fn of_request(upload: Option<String>, headers: &HeaderMap) -> Result<Option<UploadPiece>, ApiError> {
    let range = headers.get(CONTENT_RANGE);
    let (upload, range) = match (upload, range) {
        (None, None) => return Ok(None),
        (Some(upload), Some(range)) => (upload, range),
        (None, Some(_)) => {
            return Err(ApiError::malformed(
                "query parameters: upload: is required with Content-Range: a name of your choice for the whole upload",
            ));
        }
        (Some(_), None) => {
            return Err(ApiError::malformed("Content-Range is required with upload, such as bytes 0-999/5000"));
        }
    };
    if !is_name(&upload) {
        return Err(ApiError::malformed(format!("query parameters: upload: {NAME_RULE}")));
    }
    let wrong = || {
        ApiError::malformed("Content-Range cannot be read: expected bytes FIRST-LAST/SIZE, such as bytes 0-999/5000")
    };
    let text = range.to_str().map_err(|_| wrong())?;
    let (place, total) = text.strip_prefix("bytes ").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
    let (first, last) = place.split_once('-').ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let (start, last, total) = (number(first)?, number(last)?, number(total)?);
    if start > last || last >= total || i64::try_from(total).is_err() {
        return Err(wrong());
    }
    Ok(Some(UploadPiece { upload, start, size: last - start + 1, total }))
}

const NAME_RULE: &str = "expected 1 to 64 letters, digits and characters of _-";

fn is_name(upload: &str) -> bool {
    (1..=LONGEST_NAME).contains(&upload.len())
        && upload.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// What a request sent.
#[derive(Debug)]
pub enum Received {
    /// New bytes, and the pieces that were stored before.
    Part(Upload, Vec<StoredPiece>),
    /// The last piece of an upload that has become this version.
    Again(String),
}

/// Receives the bytes of a piece.
pub async fn receive(
    state: &AppState,
    name: &str,
    (piece, place): (&UploadPiece, Option<&ShardPlace>),
    headers: &HeaderMap,
    body: Body,
) -> Result<Received, ApiError> {
    let limit = state.settings.dataset_limit;
    if piece.total > limit {
        return Err(ApiError::TooLarge(limit));
    }
    let before = dataset_pieces::of_upload(&state.pool, name, &piece.upload).await?;
    let finished = if before.is_empty() {
        repeated::of_piece(state, name, (&piece.upload, piece.numbers()), place).await?
    } else {
        None
    };
    if finished.is_none() {
        check_place(&before, piece)?;
        quota::check(state, whole(piece, &before)).await?;
    }
    let upload = Upload::receive(state, UploadKind::Dataset, headers, body).await?;
    if upload.size != piece.size {
        return Err(ApiError::malformed(format!(
            "the body has {} bytes, but its Content-Range says {}",
            upload.size, piece.size
        )));
    }
    match finished {
        Some(finished) => repeated::version(state, name, finished, &upload.sha256).await.map(Received::Again),
        None => Ok(Received::Part(upload, before)),
    }
}

/// The space that an upload takes in the end: all of it counts at once, so that it is not refused after hours.
fn whole(piece: &UploadPiece, before: &[StoredPiece]) -> NewUpload<'static> {
    NewUpload { kind: UploadKind::Dataset, id: "", bytes: piece.total, replaced: received(before) }
}

/// Stores a piece. Returns the whole upload once it is complete, and until then how much was received.
pub async fn complete(
    state: &AppState,
    name: &str,
    piece: &UploadPiece,
    headers: &HeaderMap,
    (upload, before): (Upload, Vec<StoredPiece>),
) -> Result<Result<Upload, PartialUpload>, ApiError> {
    if piece.size == piece.total {
        return Ok(Ok(upload));
    }
    let pieces = if repeated_last(&before, piece).is_some_and(|last| last.sha256 == upload.sha256) {
        drop(upload);
        before
    } else {
        store(state, name, piece, (upload, &before)).await?
    };
    if received(&pieces) < piece.start + piece.size {
        // The upload was deleted while this piece came: nothing would ever complete it.
        remove(state, name, &piece.upload, Some(signed(piece.start))).await?;
        return Err(lost());
    }
    if piece.start + piece.size == piece.total {
        let whole = assemble(state, headers, &pieces).await;
        if let Err(error) = &whole {
            // Only the last piece is removed, so that it can be sent again; but if one is damaged, all are useless.
            let start = (!matches!(error, ApiError::Conflict(_))).then(|| signed(piece.start));
            remove(state, name, &piece.upload, start).await?;
        }
        return whole.map(Ok);
    }
    Ok(Err(progress(&piece.upload, &pieces).ok_or_else(lost)?))
}

/// Refuses a piece that does not follow the received ones.
fn check_place(before: &[StoredPiece], piece: &UploadPiece) -> Result<(), ApiError> {
    let received = received(before);
    if let Some(first) = before.first()
        && first.total_bytes.unsigned_abs() != piece.total
    {
        return Err(ApiError::conflict(format!(
            "upload {} has {} bytes according to its earlier pieces, not {}: use another name for another file",
            piece.upload, first.total_bytes, piece.total
        )));
    }
    if received == piece.start && before.len() >= MOST_PIECES {
        return Err(ApiError::conflict(format!(
            "upload {} has {MOST_PIECES} pieces, which is the limit: begin again under another name, with larger pieces",
            piece.upload
        )));
    }
    if received == piece.start || repeated_last(before, piece).is_some() {
        return Ok(());
    }
    Err(ApiError::conflict(format!(
        "the server has {received} bytes of upload {}: the next piece begins at byte {received}, not {}",
        piece.upload, piece.start
    )))
}

/// The stored piece that this one repeats, if it completes the upload: a server may have ended after it stored the last
/// piece, and before it put them together.
fn repeated_last<'a>(before: &'a [StoredPiece], piece: &UploadPiece) -> Option<&'a StoredPiece> {
    let last = before.last().filter(|_| received(before) == piece.total)?;
    (last.start_at == signed(piece.start) && last.size_bytes == signed(piece.size)).then_some(last)
}

/// Number of bytes received without a gap.
fn received(pieces: &[StoredPiece]) -> u64 {
    let mut end = 0;
    for piece in pieces {
        if piece.start_at.unsigned_abs() == end {
            end += piece.size_bytes.unsigned_abs();
        }
    }
    end
}

fn progress(upload: &str, pieces: &[StoredPiece]) -> Option<PartialUpload> {
    let first = pieces.first()?;
    Some(PartialUpload {
        upload: upload.to_owned(),
        received_bytes: signed(received(pieces)),
        size_bytes: first.total_bytes,
        expires_at: pieces.iter().map(|piece| piece.expires_at).min()?,
    })
}

/// The error for pieces that were removed in the meantime.
fn lost() -> ApiError {
    ApiError::conflict("the upload was abandoned or deleted in the meantime: begin again at byte 0")
}

async fn store(
    state: &AppState,
    name: &str,
    piece: &UploadPiece,
    (upload, before): (Upload, &[StoredPiece]),
) -> Result<Vec<StoredPiece>, ApiError> {
    let new = StoredPiece {
        start_at: signed(piece.start),
        size_bytes: signed(piece.size),
        total_bytes: signed(piece.total),
        key: keys::dataset(&upload.sha256, &keys::unique()),
        sha256: upload.sha256.clone(),
        expires_at: Utc::now(),
    };
    let turn = state.uploads.storing().await;
    // As before the bytes came, since others may have come meanwhile.
    let _space = quota::reserve(state, &new.key, piece.size, whole(piece, before)).await?;
    let stored = state.artifacts.put_file(&new.key, &upload.path()).await;
    drop((upload, turn));
    let added = match stored {
        Ok(_) => dataset_pieces::add(&state.pool, name, &piece.upload, &new).await?,
        Err(error) => {
            give_up(state, &new.key).await;
            return Err(error.into());
        }
    };
    if added.is_none() {
        give_up(state, &new.key).await;
    }
    added.ok_or_else(|| {
        ApiError::conflict("another request has sent the same piece: GET this upload to see where to continue")
    })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

async fn give_up(state: &AppState, key: &str) {
    match file_deletions::give_up(&state.pool, key).await {
        Ok(()) => {
            let file = FileDeletion { key: key.to_owned(), is_directory: false };
            removals::start(&state.pool, &state.artifacts, file).await;
        }
        Err(error) => tracing::warn!(%error, key, "what is left of a piece is removed in a day"),
    }
}

/// Puts the pieces together.
async fn assemble(state: &AppState, headers: &HeaderMap, pieces: &[StoredPiece]) -> Result<Upload, ApiError> {
    let total = pieces.first().map(|piece| piece.total_bytes.unsigned_abs());
    if Some(received(pieces)) != total {
        return Err(lost());
    }
    let mut whole = Spooled::begin(state, headers).await?;
    for piece in pieces {
        let mut bytes = state.artifacts.read(&piece.key, 0..piece.size_bytes.unsigned_abs()).await?;
        let mut hash = Sha256::new();
        while let Some(chunk) = bytes.try_next().await? {
            hash.update(&chunk);
            whole.add(&chunk).await?;
        }
        if hex::encode(hash.finalize()) != piece.sha256 {
            return Err(ApiError::conflict("a piece of the upload is damaged in storage: begin again at byte 0"));
        }
    }
    whole.end().await
}

/// Removes the pieces of an upload that is complete or can never succeed, and remembers what it became. If another
/// attempt may succeed, removes only the last one, so that it can be sent again.
pub async fn settle(
    state: &AppState,
    name: &str,
    (piece, place): (&UploadPiece, Option<&ShardPlace>),
    stored: &Result<UploadOutcome, ApiError>,
) -> Result<(), ApiError> {
    if let Ok(UploadOutcome::Version(version)) = stored {
        let pieces = dataset_pieces::of_upload(&state.pool, name, &piece.upload).await?;
        if let Some(last) = pieces.last() {
            repeated::remember_pieces(state, name, (&piece.upload, place), last, &version.id).await?;
        }
    }
    let is_over = matches!(stored, Ok(_) | Err(ApiError::Invalid { .. } | ApiError::Malformed(_)));
    remove(state, name, &piece.upload, (!is_over).then(|| signed(piece.start))).await
}

/// Removes the piece of an upload that begins at `start`, or all of them.
async fn remove(state: &AppState, name: &str, upload: &str, start: Option<i64>) -> Result<(), ApiError> {
    let gone = dataset_pieces::forget(&state.pool, name, Some(upload), start).await?;
    removals::start_all(&state.pool, &state.artifacts, gone).await;
    Ok(())
}

/// Get how much of an upload was received
///
/// For a day after the last piece, that is all of it: the last piece, sent again, is answered with the data set.
#[utoipa::path(get, path = "/v1/datasets/{name}/uploads/{upload}", tag = "datasets", operation_id = "get_dataset_upload",
    params(("name" = String, Path, description = "Name of the data set"),
        ("upload" = String, Path, description = "Name of the upload, as its pieces have it")),
    responses((status = 200, body = PartialUpload)))]
pub async fn get(
    State(state): State<AppState>,
    name: Name,
    upload: UploadName,
) -> Result<Json<PartialUpload>, ApiError> {
    let (name, upload) = (name.0, upload.0);
    let pieces = unfinished(&state, &name, &upload).await?;
    if let Some(progress) = progress(&upload, &pieces) {
        return Ok(Json(progress));
    }
    let finished = if is_name(&upload) && dataset::is_name(&name) {
        finished_uploads::find(&state.pool, &name, &upload).await?
    } else {
        None
    };
    let FinishedUpload { total_bytes, expires_at, .. } = finished.ok_or_else(none)?;
    Ok(Json(PartialUpload { upload, received_bytes: total_bytes, size_bytes: total_bytes, expires_at }))
}

/// Give up an upload
///
/// Removes the pieces of an upload that is not complete, and so makes room for others at once.
#[utoipa::path(delete, path = "/v1/datasets/{name}/uploads/{upload}", tag = "datasets",
    operation_id = "delete_dataset_upload",
    params(("name" = String, Path, description = "Name of the data set"),
        ("upload" = String, Path, description = "Name of the upload, as its pieces have it")),
    responses((status = 204)))]
pub async fn delete(State(state): State<AppState>, name: Name, upload: UploadName) -> Result<StatusCode, ApiError> {
    let (name, upload) = (name.0, upload.0);
    if unfinished(&state, &name, &upload).await?.is_empty() {
        return Err(none());
    }
    remove(&state, &name, &upload, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The pieces of an upload, none if it has an impossible name.
async fn unfinished(state: &AppState, name: &str, upload: &str) -> Result<Vec<StoredPiece>, ApiError> {
    if !is_name(upload) || !dataset::is_name(name) {
        return Ok(Vec::new());
    }
    Ok(dataset_pieces::of_upload(&state.pool, name, upload).await?)
}

fn none() -> ApiError {
    ApiError::not_found("there is no unfinished upload of that name: begin at byte 0")
}
