//! `PUT /v1/datasets/{name}?split=`: shards one by one, in parquet or as WebDataset's tars.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::version::{self, Inspected, UploadedVersion};
use crate::archive::Format;
use crate::artifacts::keys;
use crate::dataset::{self, Dataset, DatasetFormat, DatasetOptions};
use crate::db::dataset_shards::{self, Shards, StoredShard, WaitingShards, WaitingSplit};
use crate::db::datasets::{self, Predecessor, UploadedDataset};
use crate::db::file_deletions;
use crate::http::AppState;
use crate::http::datasets::Located;
use crate::http::error::ApiError;
use crate::http::extract::whole;
use crate::http::quota::{self, NewUpload};
use crate::http::uploads::{Upload, UploadKind, full};
use crate::http::workspace::Workspace;
use crate::removals;

/// Most shards of a split.
const MOST_SHARDS: i64 = 100_000;
/// How many times at most a version is made again because others came in between.
const TRIES: u32 = 8;

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DatasetUploadParameters {
    /// The body is a shard of this split, in parquet or as a tar of WebDataset. The shards replace the split of the
    /// latest version. Without `split`, the body is an archive of the whole data set.
    split: Option<String>,
    /// Number of the shard, from 0.
    #[serde(default, deserialize_with = "whole::<0, 99_999, _>")]
    #[param(minimum = 0, maximum = 99_999, default = 0)]
    shard: Option<i64>,
    /// Number of shards of the split. The data set changes once all of them are there.
    #[serde(default, deserialize_with = "whole::<1, 100_000, _>")]
    #[param(minimum = 1, maximum = 100_000, default = 1)]
    shards: Option<i64>,
    /// A name of your choice for an upload in pieces, each with `Content-Range`: 1 to 64 letters, digits, `_` and `-`.
    pub(super) upload: Option<String>,
}

/// Which shard an upload is.
#[derive(Debug, Clone)]
pub struct ShardPlace {
    pub(super) split: String,
    shard: i32,
    shards: i32,
}

/// Shards that wait for others of their splits.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PendingShards {
    /// Name of the data set.
    pub name: String,
    /// The splits that have shards.
    pub splits: Vec<PendingSplit>,
    /// When the shards are removed unless another one comes.
    pub expires_at: DateTime<Utc>,
}

/// A split whose shards are being uploaded.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PendingSplit {
    /// The split's name.
    pub split: String,
    /// Number of shards of the split.
    pub shards: i32,
    /// Numbers of those that are missing; at most the first 1,000.
    pub missing: Vec<i32>,
}

impl PendingShards {
    fn of(name: &str, waiting: WaitingShards) -> Self {
        let split = |WaitingSplit { split, shards, missing }| PendingSplit { split, shards, missing };
        let splits = waiting.splits.into_iter().map(split).collect();
        Self { name: name.to_owned(), splits, expires_at: waiting.expires_at }
    }
}

impl fmt::Display for ShardPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-of-{}", self.split, self.shard, self.shards)
    }
}

impl DatasetUploadParameters {
    /// Which shard the upload is; `None` for an archive.
    pub fn place(self) -> Result<Option<ShardPlace>, ApiError> {
        let Self { split, shard, shards, upload: _ } = self;
        let Some(split) = split else {
            return match (shard, shards) {
                (None, None) => Ok(None),
                _ => Err(ApiError::malformed("query parameters: split: is required with shard and shards")),
            };
        };
        // In the names of shards, a dash follows the split.
        if !dataset::is_name(&split) || split.contains('-') || split.len() > 64 {
            let rule = "expected at most 64 characters without dashes, slashes and control characters";
            return Err(ApiError::malformed(format!("query parameters: split: {rule}")));
        }
        let (shard, shards) = (shard.unwrap_or(0), shards.unwrap_or(1));
        if shard >= shards {
            return Err(ApiError::malformed(format!(
                "query parameters: shard: expected a number below shards, which is {shards}"
            )));
        }
        let number = |number: i64| i32::try_from(number.min(MOST_SHARDS)).unwrap_or(i32::MAX);
        Ok(Some(ShardPlace { split, shard: number(shard), shards: number(shards) }))
    }
}

/// The latest version of a name.
async fn latest(state: &AppState, name: &str) -> Result<Option<UploadedDataset>, ApiError> {
    let latest = datasets::versions(&state.pool, name).await?.into_iter().next();
    Ok(latest.map(|found| found.read).transpose()?)
}

/// What became of a whole upload.
#[derive(Debug)]
pub enum UploadOutcome {
    Version(UploadedVersion),
    /// It is a shard that waits for others of its split.
    Waiting(PendingShards),
}

/// Refuses shards for a data set that does not consist of shards.
pub async fn check(state: &AppState, name: &str) -> Result<(), ApiError> {
    match latest(state, name).await? {
        Some(latest) => ShardFormat::of(&latest).map(drop),
        None => Ok(()),
    }
}

/// A format of shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShardFormat {
    Parquet,
    WebDataset,
}

impl ShardFormat {
    /// The format of a version's shards.
    fn of(version: &UploadedDataset) -> Result<Self, ApiError> {
        match version.summary.format {
            DatasetFormat::Parquet => Ok(Self::Parquet),
            DatasetFormat::WebDataset => Ok(Self::WebDataset),
            _ => Err(ApiError::conflict(format!(
                "{} does not consist of parquet shards or of WebDataset's, so none can be added: upload a whole \
                 archive, or use another name",
                version.id
            ))),
        }
    }

    fn of_file(file: &File) -> Result<Self, ApiError> {
        match Format::of_file(file).map_err(version::refused)? {
            Format::Parquet => Ok(Self::Parquet),
            Format::Tar => Ok(Self::WebDataset),
            _ => Err(ApiError::invalid(
                "the file is not a parquet shard, nor a tar of WebDataset: leave out split to upload an archive of the \
                 whole data set",
            )),
        }
    }

    /// The name of a shard's file, as Hugging Face names them.
    fn file_name(self, split: &str, shard: usize, shards: usize) -> String {
        let extension = match self {
            Self::Parquet => "parquet",
            Self::WebDataset => "tar",
        };
        format!("{split}-{shard:05}-of-{shards:05}.{extension}")
    }
}

/// Stores a shard. Once all shards of its split are there, they become a version. `pieces` is the size of the pieces
/// that it came in.
pub async fn store(
    state: &AppState,
    upload: Upload,
    name: &str,
    place: ShardPlace,
    pieces: u64,
) -> Result<UploadOutcome, ApiError> {
    let format = ShardFormat::of_file(upload.file())?;
    if let Some(latest) = latest(state, name).await?
        && ShardFormat::of(&latest)? != format
    {
        return Err(ApiError::conflict(format!(
            "{} consists of shards of another format: upload all in parquet, or all as tars of WebDataset, or use \
             another name",
            latest.id
        )));
    }
    let upload = check_shard(state, upload, name, (&place, format)).await?;
    let ShardPlace { split, shard, shards } = place;
    let replaced = dataset_shards::replaced_by(&state.pool, name, &split, [shard, shards]).await?;
    let replaced = pieces.saturating_add(replaced);
    let sha256 = upload.sha256.clone();
    let key = keys::dataset(&sha256, &keys::unique());
    let space = NewUpload { kind: UploadKind::Dataset, id: "", bytes: upload.size, replaced };
    let turn = state.uploads.storing().await;
    let space = quota::reserve(state, &key, upload.size, space).await?;
    let put = state.artifacts.put_file(&key, &upload.path()).await;
    // The version that it completes needs a turn of its own.
    drop(turn);
    let size_bytes = i64::try_from(upload.size).unwrap_or(i64::MAX);
    drop(upload);
    if let Err(error) = put {
        if let Err(error) = file_deletions::give_up(&state.pool, &key).await {
            tracing::warn!(%error, key, "what is left of a failed upload is removed in a day");
        }
        return Err(error.into());
    }
    let new = StoredShard { split, shard, shards, key, sha256, size_bytes };
    let late = || ApiError::Unavailable("storing the upload took more than a day: try again".into());
    let added = dataset_shards::put(&state.pool, name, &new).await?.ok_or_else(late)?;
    drop(space);
    removals::start_all(&state.pool, &state.artifacts, added.replaced).await;
    match added.waiting {
        Some(waiting) => Ok(UploadOutcome::Waiting(PendingShards::of(name, waiting))),
        None => combine(state, name, (&new, pieces)).await,
    }
}

/// Total size of shards in bytes.
fn size<'a>(shards: impl IntoIterator<Item = &'a StoredShard>) -> u64 {
    shards.into_iter().map(|shard| shard.size_bytes.unsigned_abs()).fold(0, u64::saturating_add)
}

/// Makes a version of the splits whose shards are all there, as those of the new shard's are. Other requests may do the
/// same at the same time, with other splits: the one that comes second begins again, on top of the first. `pieces` is
/// the size of the pieces that the new shard came in.
async fn combine(state: &AppState, name: &str, (new, pieces): (&StoredShard, u64)) -> Result<UploadOutcome, ApiError> {
    let has = |waiting: &[StoredShard], key: &str| waiting.iter().any(|shard| shard.key == key);
    let mut waiting = dataset_shards::of_dataset(&state.pool, name).await?;
    for _ in 0..TRIES {
        let mut counts: BTreeMap<String, i32> = BTreeMap::new();
        for shard in &waiting {
            *counts.entry(shard.split.clone()).or_default() += 1;
        }
        let is_whole = |shard: &StoredShard| counts.get(&shard.split) == Some(&shard.shards);
        if !has(&waiting, &new.key) || !is_whole(new) {
            return taken(state, name, new, &waiting).await;
        }
        let whole: Vec<_> = waiting.into_iter().filter(is_whole).collect();
        let published = publish(state, name, &whole, pieces).await;
        if let Ok(Some(version)) = published {
            let keys: Vec<String> = whole.into_iter().map(|shard| shard.key).collect();
            let gone = dataset_shards::forget(&state.pool, name, Shards::Under(&keys)).await?;
            removals::start_all(&state.pool, &state.artifacts, gone).await;
            return Ok(UploadOutcome::Version(version));
        }
        waiting = dataset_shards::of_dataset(&state.pool, name).await?;
        // Another request may have removed the files of shards that it made a version of.
        if let Err(error) = published
            && whole.iter().all(|shard| has(&waiting, &shard.key))
        {
            return Err(error);
        }
    }
    Err(version::overtaken())
}

/// The answer for a shard that no longer waits.
async fn taken(
    state: &AppState,
    name: &str,
    new: &StoredShard,
    waiting: &[StoredShard],
) -> Result<UploadOutcome, ApiError> {
    let is_replaced = waiting.iter().any(|shard| shard.split == new.split);
    match latest(state, name).await?.filter(|_| !is_replaced) {
        // Another request has made a version with it.
        Some(latest) => Ok(UploadOutcome::Version(UploadedVersion { id: latest.id, is_new: false })),
        None => Err(ApiError::conflict("another request has replaced or deleted this shard: upload it again")),
    }
}

/// Makes a version of shards. `None` if another version came in between.
async fn publish(
    state: &AppState,
    name: &str,
    shards: &[StoredShard],
    pieces: u64,
) -> Result<Option<UploadedVersion>, ApiError> {
    let before = latest(state, name).await?;
    let after = Predecessor::Exactly(before.as_ref().map(|before| before.id.clone()));
    let inspected = assemble(state, name, shards, before).await?;
    version::admit(state, inspected, &after, pieces.saturating_add(size(shards))).await
}

/// Refuses a shard that cannot be read as one of a data set.
async fn check_shard(
    state: &AppState,
    upload: Upload,
    name: &str,
    (place, format): (&ShardPlace, ShardFormat),
) -> Result<Upload, ApiError> {
    let turn = state.uploads.unpacking().await;
    let (spool, name, split) = (state.settings.spool_dir.clone(), name.to_owned(), place.split.clone());
    let checked = tokio::task::spawn_blocking(move || -> Result<Upload, ApiError> {
        let workspace = new_workspace(&spool, &name)?;
        let path = workspace.files().join(&name).join(format.file_name(&split, 0, 1));
        // A copy, since the file has no name by which it could be opened again.
        fs::copy(upload.path(), &path).map_err(full)?;
        // Its labels alone may lack classes that other shards have.
        dataset::check_shard(&path, &split).map_err(|error| version::wrong(&error, &workspace.files()))?;
        drop(turn);
        Ok(upload)
    });
    checked.await.map_err(anyhow::Error::from)?
}

fn new_workspace(spool: &Path, name: &str) -> Result<Workspace, ApiError> {
    let workspace = Workspace::new(spool).map_err(full)?;
    fs::create_dir(workspace.files().join(name)).map_err(full)?;
    Ok(workspace)
}

/// Puts the shards together with the other splits of the version before.
async fn assemble(
    state: &AppState,
    name: &str,
    waiting: &[StoredShard],
    before: Option<UploadedDataset>,
) -> Result<Inspected, ApiError> {
    // Before they take the disk.
    version::check_size(state, size(waiting))?;
    let turn = state.uploads.unpacking().await;
    let (spool, own) = (state.settings.spool_dir.clone(), name.to_owned());
    let workspace = tokio::task::spawn_blocking(move || new_workspace(&spool, &own));
    let workspace = workspace.await.map_err(anyhow::Error::from)??;
    let path = workspace.files().join(name);
    let mut format = before.as_ref().map(ShardFormat::of).transpose()?;
    for shard in waiting {
        let found = fetch(state, shard, &path).await?;
        if *format.get_or_insert(found) != found {
            let StoredShard { split, shard, .. } = shard;
            return Err(ApiError::conflict(format!(
                "shard {shard} of the {split} split is of another format than the others of {name}: upload all in \
                 parquet, or all as tars of WebDataset"
            )));
        }
    }
    let format = format.unwrap_or(ShardFormat::Parquet);
    let files = match before {
        Some(before) => Some(Located::Uploaded(Box::new(before)).files(state).await?),
        None => None,
    };
    let replaced: Vec<String> = waiting.iter().map(|shard| shard.split.clone()).collect();
    let own = name.to_owned();
    let inspected = tokio::task::spawn_blocking(move || -> Result<Inspected, ApiError> {
        let path = workspace.files().join(&own);
        if let Some(files) = &files {
            let before = Dataset::open(&files.path, &DatasetOptions::default());
            let before = before.map_err(|error| version::wrong(&error, files.base()))?;
            for split in before.splits().into_iter().filter(|split| !replaced.contains(split)) {
                let shards = before.files(&split);
                for (number, shard) in shards.iter().enumerate() {
                    let file = path.join(format.file_name(&split, number, shards.len()));
                    // Versions never change, so they can share a file.
                    fs::hard_link(shard, &file).or_else(|_| fs::copy(shard, &file).map(drop)).map_err(full)?;
                }
            }
        }
        version::describe(workspace, &own, Vec::new(), turn)
    });
    inspected.await.map_err(anyhow::Error::from)?
}

/// Fetches a shard into a directory, and names it as its format and place say.
async fn fetch(state: &AppState, stored: &StoredShard, path: &Path) -> Result<ShardFormat, ApiError> {
    let StoredShard { split, shard, shards, key, sha256, .. } = stored;
    let fetched = path.join("fetched");
    state.artifacts.fetch_verified(key, &fetched, sha256).await?;
    let number = |number: i32| usize::try_from(number).unwrap_or_default();
    let (split, shard, shards, path) = (split.clone(), number(*shard), number(*shards), path.to_owned());
    let named = tokio::task::spawn_blocking(move || -> Result<ShardFormat, ApiError> {
        let format = ShardFormat::of_file(&File::open(&fetched)?)?;
        fs::rename(&fetched, path.join(format.file_name(&split, shard, shards)))?;
        Ok(format)
    });
    named.await.map_err(anyhow::Error::from)?
}
