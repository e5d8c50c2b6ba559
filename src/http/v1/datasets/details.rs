//! `/v1/datasets/{name}`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::unfinished::{self, UnfinishedUpload};
use crate::dataset::{
    self, Dataset, DatasetClasses, DatasetFormat, DatasetOptions, DatasetStatistics, DatasetSummary, SplitSummary,
    UnusableDirectory,
};
use crate::db::dataset_pieces;
use crate::db::dataset_shards::{self, Shards};
use crate::db::datasets::{self, UploadedDataset};
use crate::db::jobs::Refusal;
use crate::http::AppState;
use crate::http::datasets::{Located, locate};
use crate::http::error::ApiError;
use crate::http::extract::Name;
use crate::http::statistics::{self, FoundStatistics};
use crate::removals;
use crate::text::quoted;

/// A data set, as the server reads it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DatasetDetails {
    /// How a job names exactly this data set: `name@version` for an upload, the name for a directory.
    #[schema(example = "pets@3f2a9c1d5b60e784")]
    pub id: String,
    /// The directory's name, or the one that it was uploaded under.
    pub name: String,
    /// The version of an upload; null for a directory of the server.
    pub version: Option<String>,
    /// All versions that were uploaded under the name, the latest first.
    pub versions: Vec<DatasetVersion>,
    /// Format of the files.
    pub format: DatasetFormat,
    /// Sorted by name.
    pub splits: Vec<SplitSummary>,
    /// Splits whose images have no labels, which a job can name as its `unlabelled_split`. Sorted by name.
    pub unlabelled_splits: Vec<SplitSummary>,
    /// Number of images in all splits with labels.
    pub images: u64,
    /// Number of classes.
    pub class_count: u32,
    /// The classes, with their numbers of images.
    pub classes: DatasetClasses,
    /// Total size of the splits' files.
    pub size_bytes: u64,
    /// What was guessed or passed over, and which splits no job can use.
    pub notes: Vec<String>,
    /// What decoding the images has shown. That takes a while: null until then, so ask again.
    pub statistics: Option<DatasetStatistics>,
    /// Why there are no statistics; null if there are some, or will be.
    pub statistics_fault: Option<String>,
    /// How many images have been read for the statistics; null before that begins, and once it has ended.
    pub statistics_progress: Option<StatisticsProgress>,
}

/// How many images of a data set have been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatisticsProgress {
    /// Number of images that have been read.
    pub read: u64,
    /// Number of images that will have been read in the end.
    pub images: u64,
}

/// A version of an uploaded data set.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DatasetVersion {
    /// `name@version`, as a job names it.
    pub id: String,
    /// The first 16 hexadecimal digits of the SHA-256 of its files.
    pub version: String,
    /// Number of images.
    pub images: u64,
    /// Size of its tar in storage, in bytes.
    pub size_bytes: i64,
    /// When it was uploaded for the last time.
    pub uploaded_at: DateTime<Utc>,
}

impl From<&UploadedDataset> for DatasetVersion {
    fn from(upload: &UploadedDataset) -> Self {
        Self {
            id: upload.id.clone(),
            version: upload.version.clone(),
            images: upload.summary.images,
            size_bytes: upload.stored.size_bytes,
            uploaded_at: upload.uploaded_at,
        }
    }
}

/// What the files of a data set are.
#[derive(Debug, Clone)]
pub struct DatasetContents {
    summary: DatasetSummary,
    classes: DatasetClasses,
}

/// Get a data set
///
/// Splits, classes with their names and numbers of images, and what was passed over. For an upload, the name means the
/// latest version, and `name@version` a certain one. Once the images have been decoded in the background, `statistics`
/// has mean and standard deviation, images that are in two splits, and images that cannot be decoded.
#[utoipa::path(get, path = "/v1/datasets/{name}", tag = "datasets", operation_id = "get_dataset",
    params(("name" = String, Path, description = "Name of the data set, or `name@version`")),
    responses((status = 200, body = DatasetDetails)))]
pub async fn get(State(state): State<AppState>, name: Name) -> Result<Json<DatasetDetails>, ApiError> {
    of_name(&state, &name.0).await.map(Json)
}

/// The details of the data set of a name.
pub async fn of_name(state: &AppState, name: &str) -> Result<DatasetDetails, ApiError> {
    let Some(located) = locate(state, name).await? else { return Err(no_such(state, name).await) };
    let (DatasetContents { summary, classes }, version) = contents(state, &located).await?;
    let (statistics, statistics_fault, statistics_progress) = match statistics::of(state, &located, &version) {
        FoundStatistics::Known(statistics) => (Some(statistics), None, None),
        FoundStatistics::Fault(fault) => (None, Some(fault), None),
        FoundStatistics::Reading(progress) => {
            let [read, images] = progress.get();
            (None, None, (images > 0).then_some(StatisticsProgress { read, images }))
        }
    };
    let own = located.uploaded().map_or(name, |upload| upload.name.as_str());
    let found = datasets::versions(&state.pool, own).await?;
    let DatasetSummary {
        format, splits, unlabelled_splits, images, classes: class_count, size_bytes, mut notes, ..
    } = summary;
    notes.extend(located.note());
    let mut versions = Vec::new();
    for version in found {
        match version.read {
            Ok(upload) => versions.push((&upload).into()),
            Err(error) => notes.push(error.to_string()),
        }
    }
    Ok(DatasetDetails {
        id: located.uploaded().map_or_else(|| name.to_owned(), |upload| upload.id.clone()),
        name: own.to_owned(),
        version: located.uploaded().map(|upload| upload.version.clone()),
        versions,
        format,
        splits,
        unlabelled_splits,
        images,
        class_count,
        classes,
        size_bytes,
        notes,
        statistics,
        statistics_fault,
        statistics_progress,
    })
}

/// The contents of a data set, and what identifies its files.
async fn contents(state: &AppState, located: &Located) -> Result<(DatasetContents, String), ApiError> {
    if let Some(upload) = located.uploaded() {
        let contents = DatasetContents { summary: upload.summary.0.clone(), classes: upload.classes.0.clone() };
        return Ok((contents, upload.id.clone()));
    }
    let files = located.files(state).await?;
    let (path, follow_links) = (files.path.clone(), state.settings.follow_links);
    let fingerprint = tokio::task::spawn_blocking(move || dataset::fingerprint(&path));
    let fingerprint = fingerprint.await.map_err(anyhow::Error::from)??;
    let version = located.version(&fingerprint);
    let (path, base) = (files.path.clone(), files.base().to_owned());
    let lookup = move || {
        let dataset = Dataset::open(&path, &DatasetOptions { follow_links, ..DatasetOptions::default() })?;
        Ok(DatasetContents { summary: dataset.usable_summary()?, classes: dataset.class_counts()? })
    };
    match &*state.details.find(version.clone(), lookup).await? {
        Ok(contents) => Ok((contents.clone(), version)),
        Err(error) if error.is_users() => {
            let reason = error.relative_to(&base);
            Err(ApiError::not_found(format!("the directory is not offered as a data set: {reason}")))
        }
        Err(error) => Err(ApiError::Internal(anyhow::anyhow!("{error}"))),
    }
}

/// The error for a name without a data set: why its directory is not offered, how to go on with an upload that is not
/// complete, or where the names are listed.
pub async fn no_such(state: &AppState, name: &str) -> ApiError {
    let shown: String = name.chars().take(dataset::LONGEST_NAME).collect();
    let list = match state.datasets.list().await {
        Ok(list) => list,
        Err(error) => return error,
    };
    let shown = quoted(&shown);
    if let Some(UnusableDirectory { reason, .. }) = list.unusable.iter().find(|directory| directory.name == name) {
        return ApiError::not_found(format!("the directory {shown} is not offered as a data set: {reason}"));
    }
    let waiting = if dataset::is_name(name) { unfinished::list(state, Some(name)).await } else { Ok(Vec::new()) };
    let waiting = match waiting {
        Ok(waiting) => waiting,
        Err(error) => return error,
    };
    ApiError::not_found(match &*waiting {
        [] => format!("there is no data set {shown}: GET /v1/datasets lists all"),
        [UnfinishedUpload { next, .. }] => {
            format!("there is no data set {shown} yet, because its upload is not complete: {next}")
        }
        [UnfinishedUpload { next, .. }, ..] => format!(
            "there is no data set {shown} yet, because its uploads are not complete, which GET /v1/datasets lists; of \
             the first one: {next}"
        ),
    })
}

/// Delete a data set
///
/// For an upload, the name deletes all versions, and `name@version` a certain one. 409 while an unfinished job needs
/// one of them, and for a directory of the server. The files may be removed from storage a little later, and from the
/// workers' disks when they need the room.
#[utoipa::path(delete, path = "/v1/datasets/{name}", tag = "datasets", operation_id = "delete_dataset",
    params(("name" = String, Path, description = "Name of the data set, or `name@version`")),
    responses((status = 204)))]
pub async fn delete(State(state): State<AppState>, name: Name) -> Result<StatusCode, ApiError> {
    let name = name.0;
    let ids: Vec<String> = match locate(&state, &name).await {
        // A data set that another version of the server described may be unreadable here, but can be deleted.
        Err(ApiError::Conflict(_)) => {
            let own = name.split_once('@').map_or(name.as_str(), |(own, _)| own);
            let found = datasets::versions(&state.pool, own).await?;
            found.into_iter().map(|one| one.id).filter(|id| own == name || *id == name).collect()
        }
        Err(error) => return Err(error),
        Ok(Some(Located::Uploaded(upload))) if name.contains('@') => vec![upload.id],
        Ok(Some(Located::Directory { hides: false, .. })) => {
            return Err(ApiError::conflict(format!(
                "{name} is a directory in the server's --datasets-dir, which only its operator can remove"
            )));
        }
        Ok(Some(_)) => datasets::versions(&state.pool, &name).await?.into_iter().map(|one| one.id).collect(),
        Ok(None) => Vec::new(),
    };
    let mut files = match datasets::delete(&state.pool, &ids).await? {
        Ok(files) => files,
        // There may still be shards that have not become a version.
        Err(Refusal::Missing | Refusal::NotWhile(_)) => Vec::new(),
        Err(Refusal::Because(reason)) => {
            return Err(ApiError::conflict(format!("data set {name} cannot be deleted: {reason}")));
        }
    };
    if dataset::is_name(&name) && !name.contains('@') {
        files.extend(dataset_shards::forget(&state.pool, &name, Shards::All).await?);
        files.extend(dataset_pieces::forget(&state.pool, &name, None, None).await?);
    }
    if files.is_empty() {
        return Err(no_such(&state, &name).await);
    }
    removals::start_all(&state.pool, &state.artifacts, files).await;
    Ok(StatusCode::NO_CONTENT)
}
