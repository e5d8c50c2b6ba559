//! `/v1/datasets`

pub mod details;
pub mod images;
pub mod pieces;
mod repeated;
pub mod shards;
pub mod unfinished;
pub mod upload;
mod version;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use tokio::sync::{Mutex, Semaphore};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::unfinished::UnfinishedUpload;
use crate::dataset::{self, DatasetSummary, Discovered, UnusableDirectory};
use crate::db;
use crate::http::AppState;
use crate::http::error::ApiError;

/// How long a scan is valid at least. Shorter than it takes to copy a data set and post a job.
const FRESH: Duration = Duration::from_secs(2);

/// A scan of millions of files takes a while, so it is valid for at least this many times its own duration.
const FRESH_FACTOR: u32 = 10;

/// Data sets whose last lookup is remembered.
const MOST_REMEMBERED: usize = 64;
/// Lookups at the same time. Each holds the names of all files of its data set.
const LOOKUPS: usize = 2;

/// Results of lookups of single data sets, shared by equal requests at about the same time. Faults are looked up again,
/// because the user may have repaired them.
#[derive(Debug)]
pub struct SharedLookups<T, E> {
    last: std::sync::Mutex<HashMap<String, Arc<Remembered<T, E>>>>,
    free: Semaphore,
}

/// The outcome of a lookup, and until when it is valid. Locked during a lookup.
type Remembered<T, E> = Mutex<Option<(Instant, Arc<Result<T, E>>)>>;

impl<T, E> Default for SharedLookups<T, E> {
    fn default() -> Self {
        Self { last: std::sync::Mutex::default(), free: Semaphore::new(LOOKUPS) }
    }
}

impl<T: Send + Sync + 'static, E: Send + Sync + 'static> SharedLookups<T, E> {
    /// What `lookup` returns, or returned a moment ago for the same question. `lookup` may block. It runs to its end
    /// even if the client gives up, and serves the next one.
    pub async fn find(
        self: &Arc<Self>,
        asked: String,
        lookup: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<Arc<Result<T, E>>, ApiError> {
        let lookups = self.clone();
        let found = tokio::spawn(async move {
            let place = lookups.place(asked);
            let mut last = place.lock().await;
            if let Some((until, found)) = &*last
                && Instant::now() < *until
            {
                return Ok(found.clone());
            }
            let _turn = lookups.free.acquire().await?;
            let start = Instant::now();
            let found = Arc::new(tokio::task::spawn_blocking(lookup).await?);
            let until = Instant::now() + FRESH.max(start.elapsed() * FRESH_FACTOR);
            *last = found.is_ok().then(|| (until, found.clone()));
            anyhow::Ok(found)
        });
        Ok(found.await.map_err(anyhow::Error::from)??)
    }

    fn place(&self, asked: String) -> Arc<Remembered<T, E>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= MOST_REMEMBERED && !last.contains_key(&asked) {
            // Keeps those whose lookup is running: somebody else holds them, too.
            last.retain(|_, place| Arc::strong_count(place) > 1);
        }
        last.entry(asked).or_default().clone()
    }
}

/// The data sets in the server's directory. Requests at about the same time share one scan.
#[derive(Debug)]
pub struct Catalogue {
    directory: PathBuf,
    follow_links: bool,
    /// The last scan, and until when it is valid.
    last: Mutex<Option<(Instant, Arc<Discovered>)>>,
}

impl Catalogue {
    /// The directory need not exist.
    pub fn new(directory: PathBuf, follow_links: bool) -> Self {
        Self { directory, follow_links, last: Mutex::new(None) }
    }

    pub fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// Sorted by name.
    pub async fn list(self: &Arc<Self>) -> Result<Arc<Discovered>, ApiError> {
        let catalogue = self.clone();
        // In a task of its own, so that a scan outlives a client that gives up, and serves the next one.
        let found = tokio::spawn(async move { catalogue.scan().await }).await.map_err(anyhow::Error::from)?;
        Ok(found?)
    }

    async fn scan(&self) -> anyhow::Result<Arc<Discovered>> {
        let mut last = self.last.lock().await;
        if let Some((until, found)) = &*last
            && Instant::now() < *until
        {
            return Ok(found.clone());
        }
        let (directory, follow_links, start) = (self.directory.clone(), self.follow_links, Instant::now());
        let scan = tokio::task::spawn_blocking(move || match dataset::discover(&directory, follow_links) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Discovered::default()),
            found => found,
        });
        let found = Arc::new(scan.await??);
        let fresh = FRESH.max(start.elapsed() * FRESH_FACTOR);
        *last = Some((Instant::now() + fresh, found.clone()));
        Ok(found)
    }
}

/// The data sets of the server: directories, and uploads.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DatasetList {
    /// The data sets.
    pub data: Vec<DatasetSummary>,
    /// Directories that are no data sets, or faulty ones, and uploads that this server cannot read.
    pub unusable: Vec<UnusableDirectory>,
    /// Uploads in pieces and shards that are not complete, by the names of their data sets.
    pub unfinished: Vec<UnfinishedUpload>,
}

/// List data sets
///
/// The data sets in the server's `--datasets-dir`, why its other directories are not among them, and the latest version
/// of each data set that was uploaded. Names are sorted; `GET /v1/datasets/{name}` has more. `unfinished` has what was
/// uploaded of data sets and is not complete: how much, until when it is kept, and how to continue or give it up.
#[utoipa::path(get, path = "/v1/datasets", tag = "datasets", operation_id = "list_datasets",
    responses((status = 200, body = DatasetList)))]
pub async fn list(State(state): State<AppState>) -> Result<Json<DatasetList>, ApiError> {
    let Discovered { datasets, unusable } = &*state.datasets.list().await?;
    let (mut data, mut unusable) = (datasets.clone(), unusable.clone());
    for upload in db::datasets::latest(&state.pool).await? {
        match upload.read {
            // A directory is what its name means, whatever was uploaded under it.
            _ if datasets.iter().any(|dataset| dataset.name == upload.name) => {}
            Ok(upload) => data.push(upload.summary.0),
            Err(error) => unusable.push(UnusableDirectory { name: upload.name, reason: error.to_string() }),
        }
    }
    data.sort_by(|one, other| one.name.cmp(&other.name));
    unusable.sort_by(|one, other| one.name.cmp(&other.name));
    let unfinished = unfinished::list(&state, None).await?;
    Ok(Json(DatasetList { data, unusable, unfinished }))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn who_asks_the_same_at_about_the_same_time_shares_a_lookup() {
        let (lookups, count) = (Arc::new(SharedLookups::<usize, usize>::default()), Arc::new(AtomicUsize::new(0)));
        let ask = |asked: String, succeeds: bool| {
            let (lookups, count) = (lookups.clone(), count.clone());
            async move {
                let lookup = move || {
                    let before = count.fetch_add(1, Ordering::Relaxed);
                    if succeeds { Ok(before) } else { Err(before) }
                };
                *lookups.find(asked, lookup).await.expect("it looks")
            }
        };
        let all = futures::future::join_all((0..40).map(|_| ask("one".into(), true))).await;
        assert!(all.iter().all(|found| *found == Ok(0)), "{all:?}");
        assert_eq!(ask("another".into(), true).await, Ok(1));
        // Faults are looked up again.
        assert_eq!(ask("wrong".into(), false).await, Err(2));
        assert_eq!(ask("wrong".into(), true).await, Ok(3));
        for other in 0..2 * MOST_REMEMBERED {
            assert!(ask(format!("{other}"), true).await.is_ok());
        }
        assert!(lookups.last.lock().unwrap_or_else(PoisonError::into_inner).len() <= MOST_REMEMBERED);
    }
}
