//! Makes a version of a data set out of the files of an upload: unpacks and checks them, stores them as one tar, and
//! inserts the row that names it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::Utc;
use sha2::{Digest, Sha256};
use sqlx::types::Json as Jsonb;
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::wrappers::ReceiverStream;

use crate::archive::{self, ChannelWriter, Format, Limits};
use crate::artifacts::{self, keys};
use crate::dataset::{self, Dataset, DatasetClasses, DatasetOptions, DatasetSummary};
use crate::dataset_cache;
use crate::db::datasets::{self, InsertedDataset, Predecessor, StoredDataset, UploadedDataset};
use crate::db::file_deletions;
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::fault;
use crate::http::quota::{self, NewUpload};
use crate::http::uploads::{Upload, UploadKind, full};
use crate::http::workspace::Workspace;
use crate::removals;

/// A version that an upload has become.
#[derive(Debug)]
pub struct UploadedVersion {
    /// `name@version`
    pub id: String,
    /// False if the same files were uploaded under this name before.
    pub is_new: bool,
}

/// The files of an upload, and what they were found to be.
pub struct Inspected {
    /// Has the files in a directory with the data set's name.
    workspace: Workspace,
    stored: StoredDataset,
    summary: DatasetSummary,
    classes: DatasetClasses,
    /// The turn of unpacking it. Held until it is being stored: what waits for that takes much of the disk.
    turn: Option<OwnedSemaphorePermit>,
}

/// Stores the data set in an archive, if it is one.
/// `replaced` is the size of the pieces that it came in.
pub async fn store(state: &AppState, upload: Upload, name: &str, replaced: u64) -> Result<UploadedVersion, ApiError> {
    let turn = state.uploads.unpacking().await;
    let (spool, own) = (state.settings.spool_dir.clone(), name.to_owned());
    let limit = limit(state);
    let inspected = tokio::task::spawn_blocking(move || {
        let inspected = inspect(&upload, &spool, &own, limit, turn);
        drop(upload);
        inspected
    });
    let inspected = inspected.await.map_err(anyhow::Error::from)??;
    admit(state, inspected, &Predecessor::Any, replaced).await?.ok_or_else(overtaken)
}

/// The error for a version that others came before again and again.
pub fn overtaken() -> ApiError {
    ApiError::conflict("other uploads of this data set came in between: try again")
}

/// Stores a data set if there is space. `None` if it does not follow the version that it has splits of. `replaced` is
/// the size of the shards and pieces that it came in.
pub async fn admit(
    state: &AppState,
    mut inspected: Inspected,
    after: &Predecessor,
    replaced: u64,
) -> Result<Option<UploadedVersion>, ApiError> {
    let _turn = state.uploads.storing().await;
    drop(inspected.turn.take());
    check_size(state, inspected.stored.unpacked_bytes.unsigned_abs())?;
    let id = inspected.stored.id.clone();
    let is_new = keep(state, inspected, after, replaced).await?;
    Ok(is_new.map(|is_new| UploadedVersion { id, is_new }))
}

/// Refuses all data sets if this machine keeps no copies.
pub fn check_takes_any(state: &AppState) -> Result<(), ApiError> {
    if state.settings.dataset_cache.limit() > 0 {
        return Ok(());
    }
    Err(ApiError::conflict(
        "this server takes no data sets, because its --dataset-cache-mib is 0 and it could not show them: raise it, or \
         put the data set into --datasets-dir",
    ))
}

/// Refuses a data set whose files have too many bytes.
pub fn check_size(state: &AppState, bytes: u64) -> Result<(), ApiError> {
    let limit = limit(state);
    if bytes <= limit {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "the data set has {bytes} bytes, and the limit is {limit}: leave out images, or make them smaller"
    )))
}

/// Most bytes of a data set's files. If this machine had no room for a copy, the server could not show the data set.
fn limit(state: &AppState) -> u64 {
    state.settings.dataset_limit.min(state.settings.dataset_cache.limit())
}

/// Unpacks an upload, and finds out what it is.
fn inspect(
    upload: &Upload,
    spool: &Path,
    name: &str,
    limit: u64,
    turn: OwnedSemaphorePermit,
) -> Result<Inspected, ApiError> {
    let format = Format::of_file(upload.file()).map_err(refused)?;
    if format == Format::Parquet {
        return Err(ApiError::invalid(
            "the file is a parquet shard: say of which split with ?split=train, or pack all shards as a tar or zip, with \
             names such as train-00000-of-00002.parquet",
        ));
    }
    let workspace = Workspace::new(spool).map_err(full)?;
    let path = workspace.files().join(name);
    fs::create_dir(&path).map_err(full)?;
    let of_shard = |error: dataset::Error| wrong(&error, &workspace.files());
    if format == Format::Tar && dataset::is_webdataset(&upload.path()).map_err(of_shard)? {
        fs::copy(upload.path(), path.join("train-00000-of-00001.tar")).map_err(full)?;
        let note = "the tar is a shard of WebDataset and kept as it is: its images are the train split. Shards of other \
                    splits can be added with ?split=";
        return describe(workspace, name, vec![note.to_owned()], turn);
    }
    let unpacked = archive::unpack(format, upload.file(), &path, Limits::new(limit)).map_err(refused)?;
    if format == Format::Zip && is_network(&path) {
        return Err(ApiError::invalid(format!("the file {}", archive::IS_NETWORK)));
    }
    describe(workspace, name, unpacked.notes, turn)
}

/// Whether a zip was written by `torch.save` or `torch.export.save`: these files are at its top or in its only
/// directory.
fn is_network(path: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(path) else { return false };
    let first = entries.next().and_then(Result::ok).map(|entry| entry.path());
    let only = first.filter(|first| first.is_dir() && entries.next().is_none());
    [Some(path), only.as_deref()].into_iter().flatten().any(|place| {
        let has = |name: &str| place.join(name).is_file();
        (has("data.pkl") && has("version")) || has("archive_format") || has("serialized_exported_program.json")
    })
}

/// The error for files that are not a data set.
pub fn wrong(error: &dataset::Error, base: &Path) -> ApiError {
    if !error.is_users() {
        return ApiError::Internal(anyhow::anyhow!("{error}"));
    }
    ApiError::invalid(format!("the upload is not a data set: {}", error.relative_to(base)))
}

/// Finds out what data set the files of a workspace are. They are in a directory with the data set's name. `turn` is
/// the turn of unpacking them.
pub fn describe(
    workspace: Workspace,
    name: &str,
    notes: Vec<String>,
    turn: OwnedSemaphorePermit,
) -> Result<Inspected, ApiError> {
    let base = workspace.files();
    let path = base.join(name);
    let wrong = |error: dataset::Error| wrong(&error, &base);
    let dataset = Dataset::open(&path, &DatasetOptions::default()).map_err(wrong)?;
    let mut summary = dataset.usable_summary().map_err(wrong)?;
    let classes = dataset.class_counts().map_err(wrong)?;
    let fingerprint = dataset::fingerprint(&path)?;
    let bytes = dataset_cache::size_below(&path);
    let mut tar = TarHash { hash: Sha256::new(), bytes: 0 };
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
    Ok(Inspected { workspace, stored, summary, classes, turn: Some(turn) })
}

/// The error for an archive that was not unpacked, with all its faults.
pub fn refused(error: archive::Error) -> ApiError {
    match error {
        archive::Error::Io(error) => full(error),
        archive::Error::Refused(faults) => {
            let lines = faults.lines();
            if let [only] = lines.as_slice() {
                return ApiError::invalid(format!("the archive cannot be used: {only}"));
            }
            let detail = format!("the archive cannot be used: it has {} faults, listed in errors", lines.len());
            let faults = lines.into_iter().map(|line| fault("", line)).collect();
            ApiError::Invalid { detail: detail.into(), faults }
        }
    }
}

/// Stores the files, unless they are stored already, and inserts the row that names them. Returns whether the version
/// is new; `None` if it does not follow the version that it must. `replaced` as for [`admit`].
async fn keep(
    state: &AppState,
    inspected: Inspected,
    after: &Predecessor,
    replaced: u64,
) -> Result<Option<bool>, ApiError> {
    let AppState { pool, artifacts, .. } = state;
    let Inspected { workspace, stored, summary, classes, .. } = inspected;
    let mut damaged = None;
    if let Some(known) = datasets::stored(pool, &stored.id).await?.filter(|known| known.sha256 == stored.sha256) {
        // All bytes are compared, so that an upload mends what storage has damaged or lost.
        if artifacts.is_whole(&known.key, &known.sha256).await {
            if datasets::uploaded_again(pool, &known, after).await? {
                return Ok(Some(false));
            }
        } else {
            tracing::warn!(dataset = stored.id, known.key, "the stored bytes are damaged or missing");
            damaged = Some(known.key);
        }
    }
    let bytes = stored.size_bytes.unsigned_abs();
    let space = NewUpload { kind: UploadKind::Dataset, id: &stored.id, bytes, replaced };
    let space = quota::reserve(state, &stored.key, bytes, space).await?;
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
    let (is_new, superseded) = match datasets::insert(pool, &new, damaged.as_deref(), after).await? {
        InsertedDataset::Done { is_new, superseded } => (is_new, superseded),
        InsertedDataset::Overtaken => return Ok(None),
        InsertedDataset::TooLate => {
            return Err(ApiError::Unavailable("storing the upload took more than a day: try again".into()));
        }
        InsertedDataset::OtherContent => {
            let id = new.id;
            return Err(ApiError::conflict(format!(
                "{id} has other files with the same version: upload these under another name"
            )));
        }
    };
    drop(space);
    if let Some(file) = superseded {
        removals::start(pool, artifacts, file).await;
    }
    adopt(state, workspace, new.stored).await?;
    Ok(Some(is_new))
}

/// Keeps the files of an upload as this machine's copy: they are here already, and so need not be fetched.
async fn adopt(state: &AppState, workspace: Workspace, stored: StoredDataset) -> Result<(), ApiError> {
    let cache = state.settings.dataset_cache.clone();
    let adopted = tokio::task::spawn_blocking(move || {
        let adopted = cache.adopt(&workspace.files(), &stored);
        drop(workspace);
        adopted
    });
    if let Err(error) = adopted.await.map_err(anyhow::Error::from)? {
        tracing::warn!(%error, "cannot keep a copy of an uploaded data set; it is fetched when needed");
    }
    Ok(())
}

/// Packs a directory into storage.
async fn put_tar(state: &AppState, path: PathBuf, stored: &StoredDataset) -> Result<(), ApiError> {
    let (mut writer, errors, pieces) = ChannelWriter::new();
    let packing = tokio::task::spawn_blocking(move || {
        if let Err(error) = archive::pack(&path, &mut writer) {
            // If nobody receives it, storage has failed, and `put` below says so.
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

/// Takes a tar for its SHA-256 and size alone.
struct TarHash {
    hash: Sha256,
    bytes: u64,
}

impl io::Write for TarHash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
