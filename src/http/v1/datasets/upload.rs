//! `PUT /v1/datasets/{name}`

use std::fs::{self, File};
use std::io;
use std::path::Path;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::types::Json as Jsonb;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

use super::details::{self, DatasetDetails};
use super::pieces::{self, PartialUpload};
use super::shards::{self, PendingShards, ShardPlace, UploadParameters};
use crate::archive::{self, ChannelWriter, Format, Limits};
use crate::artifacts::{self, keys};
use crate::dataset::{self, Dataset, DatasetClasses, DatasetOptions, DatasetSummary};
use crate::dataset_cache;
use crate::db::datasets::{self, Inserted, StoredDataset, UploadedDataset};
use crate::db::{checkpoints, file_deletions};
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{Name, Query, fault};
use crate::http::uploads::{Upload, UploadKind, full};
use crate::http::workspace::Workspace;
use crate::removals;

/// Most characters of an upload's name.
const LONGEST_NAME: usize = 64;
/// The rule for the names of uploads, which are part of URLs.
const NAME_RULE: &str =
    "has 1 to 64 letters (a to z, A to Z), digits and characters of _.-, and begins with a letter or a digit";

/// An upload as it was found to be.
pub struct Inspected {
    /// With the data set's directory among its files.
    workspace: Workspace,
    stored: StoredDataset,
    summary: DatasetSummary,
    classes: DatasetClasses,
}

/// Upload a data set
///
/// The body is the file itself: `curl -T pets.zip '…/v1/datasets/pets'`. It can be a zip, or a tar, also packed by gzip
/// or zstd, of any layout that `--datasets-dir` may have: image folders, parquet shards, the files of CIFAR and MNIST.
/// The archive is unpacked and checked as a whole before the data set is visible; all faults are in `errors`.
///
/// Each content is a version of its own, which never changes. A name means the version that came last. A job that names
/// the data set is pinned to the version of that moment, `name@version`, and jobs can name versions themselves.
/// Uploading the same files again returns the same version, and mends its file if that was damaged in storage.
///
/// With `split`, the body is a parquet shard: `curl -T train.parquet '…/v1/datasets/pets?split=train'`, or with
/// `&shard=0&shards=3` one of several. Once all shards of a split are there, they and the other splits of the latest
/// version become a version; until then the answer is 202, and the shards are kept for a day after the last one.
///
/// A large file can come in pieces, so that a broken connection costs one of them: each piece is a `PUT` with the same
/// `upload`, a name of your choice, and with `Content-Range: bytes 0-67108863/500000000`. The pieces come one after the
/// other, and each is answered with 202 until the last one, which is answered as the whole. `GET
/// /v1/datasets/{name}/uploads/{upload}` says where to go on.
#[utoipa::path(put, path = "/v1/datasets/{name}", tag = "datasets", operation_id = "upload_dataset",
    params(("name" = String, Path, description = "A new or known name: letters, digits and characters of `_.-`"),
        UploadParameters),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = DatasetDetails,
            headers(("Location" = String, description = "The version's URL"))),
        (status = 200, description = "The same files were uploaded before", body = DatasetDetails),
        (status = 202, description = "The shard or the piece waits for others", body = NotYet)))]
pub async fn put(
    State(state): State<AppState>,
    name: Name,
    Query(parameters): Query<UploadParameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let piece = pieces::of_request(parameters.upload.clone(), &headers)?;
    let (name, place) = (name.0, parameters.place()?);
    check_name(&state, &name).await?;
    if place.is_some() {
        shards::check(&state, &name).await?;
    }
    let upload = match &piece {
        Some(piece) => match pieces::receive(&state, &name, piece, &headers, body).await? {
            Ok(whole) => whole,
            Err(partial) => return Ok((StatusCode::ACCEPTED, Json(NotYet::Pieces(partial))).into_response()),
        },
        None => Upload::receive(&state, UploadKind::Dataset, &headers, body).await?,
    };
    // In a task of its own: a complete upload is stored even if the client disconnects.
    let stored = tokio::spawn(async move {
        let stored = store_as(&state, upload, &name, place).await;
        if let Some(piece) = piece {
            pieces::settle(&state, &name, &piece, &stored).await?;
        }
        Ok::<_, ApiError>(match stored? {
            Ok((id, is_new)) => Ok((details::of_name(&state, &id).await?, is_new)),
            Err(pending) => Err(pending),
        })
    });
    match stored.await.map_err(anyhow::Error::from)?? {
        Ok((details, is_new)) => {
            let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
            Ok((status, [(LOCATION, format!("/v1/datasets/{}", details.id))], Json(details)).into_response())
        }
        Err(pending) => Ok((StatusCode::ACCEPTED, Json(NotYet::Shards(pending))).into_response()),
    }
}

/// What has come of a data set that is not complete.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum NotYet {
    /// Shards that wait for others of their splits.
    Shards(PendingShards),
    /// Pieces that wait for the rest of their file.
    Pieces(PartialUpload),
}

/// The id of a version, and whether it is new; or the shards that wait for others.
pub type Stored = Result<Result<(String, bool), PendingShards>, ApiError>;

async fn store_as(state: &AppState, upload: Upload, name: &str, place: Option<ShardPlace>) -> Stored {
    match place {
        Some(place) => shards::store(state, upload, name, place).await,
        None => store(state, upload, name).await.map(Ok),
    }
}

/// Whether an upload can have a name.
async fn check_name(state: &AppState, name: &str) -> Result<(), ApiError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let is_name = name.len() <= LONGEST_NAME
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(is_plain);
    if !is_name {
        let shown: String = name.chars().take(LONGEST_NAME).collect();
        let version = if name.contains('@') { "; the server chooses the version" } else { "" };
        return Err(ApiError::malformed(format!(
            "an uploaded data set cannot be called {shown:?}: its name {NAME_RULE}{version}"
        )));
    }
    if tokio::fs::try_exists(state.settings.datasets_dir.join(name)).await.unwrap_or(false) {
        return Err(ApiError::conflict(format!(
            "{name} is a directory in the server's --datasets-dir: upload the data set under another name"
        )));
    }
    Ok(())
}

/// Stores the data set if it is one. Returns the id of its version, and whether that is new.
async fn store(state: &AppState, upload: Upload, name: &str) -> Result<(String, bool), ApiError> {
    let turn = state.uploads.unpacking().await;
    let (spool, own) = (state.settings.spool_dir.clone(), name.to_owned());
    let limit = limit(state);
    let inspected = tokio::task::spawn_blocking(move || {
        let inspected = inspect(upload.file(), &spool, &own, limit);
        drop((upload, turn));
        inspected
    });
    admit(state, inspected.await.map_err(anyhow::Error::from)??).await
}

/// Stores a data set if there is space. Returns the id of its version, and whether that is new.
pub async fn admit(state: &AppState, inspected: Inspected) -> Result<(String, bool), ApiError> {
    let _turn = state.uploads.storing().await;
    let StoredDataset { id, size_bytes, unpacked_bytes, .. } = &inspected.stored;
    let limit = limit(state);
    if unpacked_bytes.unsigned_abs() > limit {
        return Err(ApiError::invalid(format!(
            "the data set has {unpacked_bytes} bytes, and {limit} are the limit for one"
        )));
    }
    check_space(state, id, size_bytes.unsigned_abs()).await?;
    let id = id.clone();
    let is_new = keep(state, inspected).await?;
    Ok((id, is_new))
}

/// Most bytes of a data set's files. What this machine has no room for could not be looked at again.
fn limit(state: &AppState) -> u64 {
    state.settings.dataset_limit.min(state.settings.dataset_cache.limit())
}

/// Refuses what would make all uploads too large. `id` is what it replaces.
pub async fn check_space(state: &AppState, id: &str, bytes: u64) -> Result<(), ApiError> {
    let Some(limit) = state.settings.uploads_limit else { return Ok(()) };
    let others = checkpoints::size_of_others(&state.pool, id).await?;
    if others.saturating_add(bytes) <= limit {
        return Ok(());
    }
    Err(ApiError::conflict(format!(
        "no space for this data set: its {bytes} bytes and the {others} bytes of other uploads exceed the limit of {limit} \
         bytes for all of them. Delete a data set or a checkpoint that no job needs: DELETE /v1/datasets/{{name}}, DELETE \
         /v1/checkpoints/{{id}}"
    )))
}

/// Unpacks an upload, and finds out what it is.
fn inspect(file: &File, spool: &Path, name: &str, limit: u64) -> Result<Inspected, ApiError> {
    let format = Format::of_file(file).map_err(refused)?;
    if format == Format::Parquet {
        return Err(ApiError::invalid(
            "the file is a parquet shard: say of which split with ?split=train, or pack all shards as a tar or zip, with \
             names such as train-00000-of-00002.parquet",
        ));
    }
    let workspace = Workspace::new(spool).map_err(full)?;
    let path = workspace.files().join(name);
    fs::create_dir(&path).map_err(full)?;
    let unpacked = archive::unpack(format, file, &path, Limits::new(limit)).map_err(refused)?;
    describe(workspace, name, unpacked.notes)
}

/// What is wrong with the files of an upload.
pub fn wrong(error: &dataset::Error, base: &Path) -> ApiError {
    if !error.is_users() {
        return ApiError::Internal(anyhow::anyhow!("{error}"));
    }
    let detail = error.relative_to(base);
    let faults = vec![fault("", detail.clone())];
    ApiError::Invalid { detail: format!("the upload is no data set: {detail}").into(), faults }
}

/// Finds out what the files of an upload are, which are in the directory of the data set's name.
pub fn describe(workspace: Workspace, name: &str, notes: Vec<String>) -> Result<Inspected, ApiError> {
    let base = workspace.files();
    let path = base.join(name);
    let wrong = |error: dataset::Error| wrong(&error, &base);
    let dataset = Dataset::open(&path, &DatasetOptions::default()).map_err(wrong)?;
    let mut summary = dataset.usable_summary().map_err(wrong)?;
    let classes = dataset.class_counts().map_err(wrong)?;
    let fingerprint = dataset::fingerprint(&path)?;
    let bytes = dataset_cache::size_below(&path);
    let mut tar = Hashed { hash: Sha256::new(), bytes: 0 };
    archive::pack(&path, &mut tar)?;
    let sha256 = hex::encode(tar.hash.finalize());
    let id = datasets::id_of(name, &sha256);
    summary.version = Some(datasets::version_of(&sha256).to_owned());
    summary.notes = [notes, summary.notes].concat();
    let stored = StoredDataset {
        id,
        name: name.to_owned(),
        key: keys::dataset(&sha256, &keys::unique()),
        sha256,
        size_bytes: i64::try_from(tar.bytes).unwrap_or(i64::MAX),
        unpacked_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        fingerprint,
    };
    Ok(Inspected { workspace, stored, summary, classes })
}

/// All that is wrong with an archive.
pub fn refused(error: archive::Error) -> ApiError {
    match error {
        archive::Error::Io(error) => full(error),
        archive::Error::Refused(faults) => {
            let listed: Vec<_> = faults.lines().into_iter().map(|line| fault("", line)).collect();
            let detail = match listed.as_slice() {
                [only] => format!("the archive cannot be used: {}", only.detail),
                several => format!("the archive cannot be used: it has {} faults, listed in errors", several.len()),
            };
            ApiError::Invalid { detail: detail.into(), faults: listed }
        }
    }
}

/// Stores the files, unless they are stored already, and then the row that names them. Returns whether they are new.
async fn keep(state: &AppState, inspected: Inspected) -> Result<bool, ApiError> {
    let AppState { pool, artifacts, .. } = state;
    let Inspected { workspace, stored, summary, classes } = inspected;
    let mut damaged = None;
    if let Some(known) = datasets::stored(pool, &stored.id).await?.filter(|known| known.sha256 == stored.sha256) {
        // All bytes are compared, so that an upload mends what storage has damaged or lost.
        if artifacts.is_whole(&known.key, &known.sha256).await {
            if datasets::uploaded_again(pool, &known).await? {
                return Ok(false);
            }
        } else {
            tracing::warn!(dataset = stored.id, known.key, "the stored bytes are damaged or missing");
            damaged = Some(known.key);
        }
    }
    file_deletions::announce(pool, &stored.key).await?;
    if let Err(error) = put_tar(state, workspace.files().join(&stored.name), &stored).await {
        if let Err(error) = file_deletions::give_up(pool, &stored.key).await {
            tracing::warn!(%error, stored.key, "what is left of a failed upload is removed in a day");
        }
        return Err(error);
    }
    let new = UploadedDataset {
        id: stored.id.clone(),
        name: stored.name.clone(),
        version: datasets::version_of(&stored.sha256).to_owned(),
        stored,
        summary: Jsonb(summary),
        classes: Jsonb(classes),
        statistics: None,
        uploaded_at: Utc::now(),
    };
    let (is_new, superseded) = match datasets::insert(pool, &new, damaged.as_deref()).await? {
        Inserted::Done { is_new, superseded } => (is_new, superseded),
        Inserted::TooLate => {
            return Err(ApiError::Unavailable("storing the upload took more than a day: try again".into()));
        }
        Inserted::OtherContent => {
            let id = new.id;
            return Err(ApiError::conflict(format!(
                "{id} has other files with the same version: upload these under another name"
            )));
        }
    };
    if let Some(file) = superseded {
        removals::start(pool, artifacts, file).await;
    }
    // The files are here already, and so need not be fetched.
    let cache = state.settings.dataset_cache.clone();
    let adopted = tokio::task::spawn_blocking(move || {
        let adopted = cache.adopt(&workspace.files(), &new.stored);
        drop(workspace);
        adopted
    });
    if let Err(error) = adopted.await.map_err(anyhow::Error::from)? {
        tracing::warn!(%error, "cannot keep a copy of an uploaded data set; it is fetched when needed");
    }
    Ok(is_new)
}

/// Packs a directory into storage.
async fn put_tar(state: &AppState, path: std::path::PathBuf, stored: &StoredDataset) -> Result<(), ApiError> {
    let (mut writer, errors, pieces) = ChannelWriter::new();
    let packing = tokio::task::spawn_blocking(move || {
        if let Err(error) = archive::pack(&path, &mut writer) {
            // Whoever reads has its own error if it is gone.
            let _ = errors.blocking_send(Err(error));
        }
    });
    let failed = |source| artifacts::Error::File { path: "an unpacked data set".into(), source };
    let pieces = futures::StreamExt::map(ReceiverStream::new(pieces), |piece| piece.map_err(failed));
    let put = state.artifacts.put_stream(&stored.key, pieces).await;
    packing.await.map_err(anyhow::Error::from)?;
    let put = put?;
    if put.sha256 == stored.sha256 {
        return Ok(());
    }
    Err(ApiError::Internal(anyhow::anyhow!("the files of {} changed while they were packed", stored.id)))
}

/// Hashes and counts what is written.
struct Hashed {
    hash: Sha256,
    bytes: u64,
}

impl io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
