//! `PUT /v1/datasets/{name}`

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::details::{self, DatasetDetails};
use super::pieces::{self, PartialUpload, Received, UploadPiece};
use super::repeated::LastShard;
use super::shards::{self, DatasetUploadParameters, PendingShards, ShardPlace, UploadOutcome};
use super::version::{self, UploadedVersion};
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{Name, Query};
use crate::http::uploads::{Upload, UploadKind};
use crate::text::quoted;

/// Most characters of an upload's name.
const LONGEST_NAME: usize = 64;
/// The rule for the names of uploads, which are part of URLs.
const NAME_RULE: &str =
    "has 1 to 64 letters (a to z, A to Z), digits and characters of _.-, and begins with a letter or a digit";

/// Upload a data set
///
/// The body is the file itself: `curl -T pets.zip '…/v1/datasets/pets'`. It is a zip, or a tar that may be
/// compressed by gzip or zstd, of any layout that `--datasets-dir` may have: image folders, shards in parquet or of
/// WebDataset, the files of CIFAR and MNIST. The archive is unpacked and checked as a whole before the data set is
/// visible; several faults are in `errors`.
///
/// Different files make a new version, and a version never changes. The name means the version that was uploaded last.
/// A job that names the data set is pinned to that version, `name@version`, when it is posted; jobs can also name a
/// version. Uploading the same files again returns the same version, and repairs its file if that was damaged in
/// storage.
///
/// With `split`, the body is a shard, in parquet or as a tar of WebDataset: `curl -T train.parquet
/// '…/v1/datasets/pets?split=train'`, or with `&shard=0&shards=3` one of several. Once all shards of a split are there,
/// they and the other splits of the latest version become a version; until then the answer is 202, and the shards are
/// kept for a day after the last one.
///
/// A large file can be sent in pieces, so that a broken connection costs only one of them. Each piece is a `PUT` with
/// the same `upload`, a name of your choice, and a `Content-Range` such as `bytes 0-67108863/500000000`. Send the
/// pieces one after the other. Each is answered with 202, and the last one like the whole file. `GET
/// /v1/datasets/{name}/uploads/{upload}` says where to continue; if it has all bytes, send the last piece again.
/// `DELETE` of the same URL gives the upload up.
///
/// A client that has lost the last answer sends the last piece or the last shard again. For a day, the answer is the
/// version that the upload has become, as long as that is the latest of its name.
#[utoipa::path(put, path = "/v1/datasets/{name}", tag = "datasets", operation_id = "upload_dataset",
    params(("name" = String, Path, description = "A new or known name: letters, digits and characters of `_.-`"),
        DatasetUploadParameters),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = DatasetDetails,
            headers(("Location" = String, description = "The version's URL"))),
        (status = 200, description = "The same files were uploaded before", body = DatasetDetails),
        (status = 202, description = "The shard or the piece waits for others", body = NotYet)))]
pub async fn put(
    State(state): State<AppState>,
    name: Name,
    Query(parameters): Query<DatasetUploadParameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let piece = pieces::of_request(parameters.upload.clone(), &headers)?;
    let (name, place) = (name.0, parameters.place()?);
    check_name(&state, &name).await?;
    version::check_takes_any(&state)?;
    if place.is_some() {
        shards::check(&state, &name).await?;
    }
    let received = match &piece {
        Some(piece) => pieces::receive(&state, &name, (piece, place.as_ref()), &headers, body).await?,
        None => Received::Part(Upload::receive(&state, UploadKind::Dataset, &headers, body).await?, Vec::new()),
    };
    let (upload, before) = match received {
        Received::Part(upload, before) => (upload, before),
        Received::Again(id) => return created(&state, &UploadedVersion { id, is_new: false }).await,
    };
    // In a task of its own: a complete upload is stored even if the client disconnects.
    let stored = tokio::spawn(async move {
        let upload = match &piece {
            Some(piece) => match pieces::complete(&state, &name, piece, &headers, (upload, before)).await? {
                Ok(whole) => whole,
                Err(partial) => return Ok((StatusCode::ACCEPTED, Json(NotYet::Pieces(partial))).into_response()),
            },
            None => upload,
        };
        let replaced = piece.as_ref().map_or(0, UploadPiece::stored_bytes);
        let stored = store(&state, upload, &name, place.as_ref(), replaced).await;
        if let Some(piece) = piece {
            pieces::settle(&state, &name, (&piece, place.as_ref()), &stored).await?;
        }
        match stored? {
            UploadOutcome::Version(version) => created(&state, &version).await,
            UploadOutcome::Waiting(shards) => Ok((StatusCode::ACCEPTED, Json(NotYet::Shards(shards))).into_response()),
        }
    });
    stored.await.map_err(anyhow::Error::from)?
}

async fn created(state: &AppState, version: &UploadedVersion) -> Result<Response, ApiError> {
    let details = details::of_name(state, &version.id).await?;
    let status = if version.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [(LOCATION, format!("/v1/datasets/{}", details.id))], Json(details)).into_response())
}

/// How much of an upload the server has, while it is not complete.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum NotYet {
    /// Shards that wait for others of their splits.
    Shards(PendingShards),
    /// Pieces that wait for the rest of their file.
    Pieces(PartialUpload),
}

async fn store(
    state: &AppState,
    upload: Upload,
    name: &str,
    place: Option<&ShardPlace>,
    replaced: u64,
) -> Result<UploadOutcome, ApiError> {
    let Some(place) = place else {
        return version::store(state, upload, name, replaced).await.map(UploadOutcome::Version);
    };
    let last = LastShard::of(place, &upload);
    let known = last.version(state, name).await?;
    match (shards::store(state, upload, name, place.clone(), replaced).await?, known) {
        (UploadOutcome::Version(version), _) => {
            last.remember(state, name, &version.id).await?;
            Ok(UploadOutcome::Version(version))
        }
        // It waits all the same: another set of shards may begin with one of the last.
        (UploadOutcome::Waiting(_), Some(id)) => Ok(UploadOutcome::Version(UploadedVersion { id, is_new: false })),
        (waiting, None) => Ok(waiting),
    }
}

/// Refuses a name that an upload cannot have.
async fn check_name(state: &AppState, name: &str) -> Result<(), ApiError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let is_name = name.len() <= LONGEST_NAME
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(is_plain);
    if !is_name {
        let shown: String = name.chars().take(LONGEST_NAME).collect();
        let version = if name.contains('@') { "; the server chooses the version" } else { "" };
        return Err(ApiError::malformed(format!(
            "an uploaded data set cannot be called {shown}: its name {NAME_RULE}{version}",
            shown = quoted(&shown)
        )));
    }
    if tokio::fs::try_exists(state.settings.datasets_dir.join(name)).await.unwrap_or(false) {
        return Err(ApiError::conflict(format!(
            "{name} is a directory in the server's --datasets-dir: upload the data set under another name"
        )));
    }
    Ok(())
}
