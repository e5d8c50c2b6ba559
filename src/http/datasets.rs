//! Finds the data set of a name: a directory of the server, or an upload, of which this machine keeps a copy.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use super::AppState;
use super::error::ApiError;
use super::uploads::full;
use crate::artifacts;
use crate::dataset;
use crate::dataset_cache::{self, DatasetCache, LocalCopy};
use crate::db::datasets::{self, StoredDataset, UploadedDataset};

/// How long a request waits for a copy from storage. The copy is completed even if nobody waits any more.
const PATIENCE: Duration = Duration::from_secs(20);
/// Least number of digits that may stand for a whole version.
const FEWEST_DIGITS: usize = 4;

/// Where a data set is.
#[derive(Debug, Clone)]
pub enum Located {
    /// A directory below `--datasets-dir`.
    Directory {
        path: PathBuf,
        /// Whether an upload has the same name.
        hides: bool,
    },
    /// A version that was uploaded.
    Uploaded(Box<UploadedDataset>),
}

/// The files of a data set. They are not removed while this is held.
#[derive(Debug, Clone)]
pub struct DatasetFiles {
    pub path: PathBuf,
    _copy: Option<Arc<LocalCopy>>,
}

impl DatasetFiles {
    /// The directory around the data set's own, which error messages do not show.
    pub fn base(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}

/// Finds a data set by its name: a directory, the latest upload of that name or, with `name@version`, a certain upload.
/// The first digits of a version are enough if they are unique.
pub async fn locate(state: &AppState, name: &str) -> Result<Option<Located>, ApiError> {
    if !dataset::is_name(name) {
        return Ok(None);
    }
    if let Some((own, version)) = name.split_once('@') {
        let found = datasets::versions(&state.pool, own).await?;
        let mut meant = found.into_iter().filter(|one| {
            one.version == version || (version.len() >= FEWEST_DIGITS && one.version.starts_with(version))
        });
        match (meant.next(), meant.next()) {
            (Some(one), None) => return Ok(Some(Located::Uploaded(Box::new(one.read?)))),
            (Some(one), Some(other)) => {
                return Err(ApiError::invalid(format!(
                    "{name} is ambiguous, it may be {} or {}: write more digits of the version",
                    one.id, other.id
                )));
            }
            (None, _) => {}
        }
    }
    let directory = state.settings.datasets_dir.clone();
    let wanted = name.to_owned();
    let directory = tokio::task::spawn_blocking(move || dataset::resolve(&directory, &wanted).ok());
    let directory = directory.await.map_err(anyhow::Error::from)?;
    let latest = datasets::versions(&state.pool, name).await?.into_iter().next();
    Ok(match (directory, latest) {
        (Some(path), latest) => Some(Located::Directory { path, hides: latest.is_some() }),
        (None, Some(latest)) => Some(Located::Uploaded(Box::new(latest.read?))),
        (None, None) => None,
    })
}

impl Located {
    /// What the user of a job that names it should know.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::Directory { path, hides: true } => {
                let name = path.file_name().unwrap_or_default().display();
                Some(format!(
                    "{name} is a directory of the server, and an upload has the same name: to use the upload, name one of \
                     its versions ({name}@…)"
                ))
            }
            _ => None,
        }
    }

    /// What identifies its files, whose fingerprint this is.
    pub fn version(&self, fingerprint: &str) -> String {
        match self {
            Self::Directory { path, .. } => format!("{} {fingerprint}", path.display()),
            Self::Uploaded(upload) => upload.id.clone(),
        }
    }

    pub fn uploaded(&self) -> Option<&UploadedDataset> {
        match self {
            Self::Directory { .. } => None,
            Self::Uploaded(upload) => Some(upload),
        }
    }

    /// The files, which are fetched from storage if this machine has no copy.
    pub async fn files(&self, state: &AppState) -> Result<DatasetFiles, ApiError> {
        match self {
            Self::Directory { path, .. } => Ok(DatasetFiles { path: path.clone(), _copy: None }),
            Self::Uploaded(upload) => {
                let copy = local(state, &upload.stored).await?;
                Ok(DatasetFiles { path: copy.path().to_owned(), _copy: Some(Arc::new(copy)) })
            }
        }
    }
}

type Fetch = Shared<BoxFuture<'static, Result<(), Arc<dataset_cache::Error>>>>;

/// The fetches of this process, by id of the data set.
#[derive(Debug, Default)]
pub struct Fetches {
    running: Mutex<HashMap<String, Fetch>>,
}

impl Fetches {
    /// The fetch of a data set: the running one, or a new one.
    fn begin(&self, state: &AppState, stored: &StoredDataset) -> Fetch {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, fetch| fetch.peek().is_none());
        let begin = || {
            let (cache, store, stored) =
                (state.settings.dataset_cache.clone(), state.artifacts.clone(), stored.clone());
            let fetch = async move { cache.get(&store, &stored, |_| ()).await.map(drop).map_err(Arc::new) };
            let fetch = fetch.boxed().shared();
            // A task of its own, so that it continues when nobody waits for it.
            tokio::spawn(fetch.clone());
            fetch
        };
        running.entry(stored.id.clone()).or_insert_with(begin).clone()
    }
}

async fn find(cache: &DatasetCache, stored: &StoredDataset) -> Result<Option<LocalCopy>, ApiError> {
    let (cache, stored) = (cache.clone(), stored.clone());
    let found = tokio::task::spawn_blocking(move || cache.find(&stored)).await.map_err(anyhow::Error::from)?;
    found.map_err(|error| refusal(&error))
}

/// This machine's copy of an upload.
async fn local(state: &AppState, stored: &StoredDataset) -> Result<LocalCopy, ApiError> {
    let cache = &state.settings.dataset_cache;
    let slow = || {
        let id = &stored.id;
        ApiError::Unavailable(format!("the server is fetching the data set {id} from storage: try again").into())
    };
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(copy) = find(cache, stored).await? {
            return Ok(copy);
        }
        let fetch = state.fetches.begin(state, stored);
        let fetched = tokio::time::timeout_at(end, fetch).await.map_err(|_| slow())?;
        fetched.map_err(|error| refusal(&error))?;
    }
}

fn refusal(error: &dataset_cache::Error) -> ApiError {
    match error {
        dataset_cache::Error::TooLarge { .. } => ApiError::conflict(error.to_string()),
        dataset_cache::Error::Stored(artifacts::Error::Storage(_)) => {
            tracing::error!(%error, "the storage failed");
            ApiError::Unavailable("the storage does not answer: try again".into())
        }
        dataset_cache::Error::Stored(_) | dataset_cache::Error::Unreadable { .. } => {
            tracing::error!(%error, "a stored data set is gone or damaged");
            ApiError::Gone(
                "the files of the data set are missing in storage or damaged there: upload them again to repair it"
                    .into(),
            )
        }
        dataset_cache::Error::Disk { source, .. } => full(std::io::Error::new(source.kind(), error.to_string())),
    }
}
