//! `/v1/datasets`

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use tokio::sync::Mutex;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::dataset::{self, DatasetSummary, Discovered, UnusableDirectory};
use crate::http::AppState;
use crate::http::error::ApiError;

/// How long a scan is valid at least. Shorter than it takes to copy a data set and post a job.
const FRESH: Duration = Duration::from_secs(2);

/// A scan of millions of files takes a while, so it is valid for at least this many times its own duration.
const FRESH_FACTOR: u32 = 10;

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

    /// The outline of a data set, which workers compare with their copies; `None` if it cannot be read.
    pub async fn outline(&self, name: &str) -> Option<String> {
        let path = dataset::resolve(&self.directory, name).ok()?;
        tokio::task::spawn_blocking(move || dataset::outline(&path).ok()).await.ok().flatten()
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

/// What the server's directory of data sets holds.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DatasetList {
    /// The data sets.
    pub data: Vec<DatasetSummary>,
    /// Directories that are no data sets, or faulty ones.
    pub unusable: Vec<UnusableDirectory>,
}

/// List data sets
///
/// The data sets in the server's `--datasets-dir`, and why its other directories are not among them.
#[utoipa::path(get, path = "/v1/datasets", tag = "server", operation_id = "list_datasets",
    responses((status = 200, body = DatasetList)))]
pub async fn list(State(state): State<AppState>) -> Result<Json<DatasetList>, ApiError> {
    let Discovered { datasets, unusable } = &*state.datasets.list().await?;
    Ok(Json(DatasetList { data: datasets.clone(), unusable: unusable.clone() }))
}
