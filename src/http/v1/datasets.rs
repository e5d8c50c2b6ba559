//! `/v1/datasets`

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use tokio::sync::Mutex;

use crate::dataset::{self, Summary};
use crate::http::error::ApiError;
use crate::http::{AppState, List};

/// A look counts for so long at least: shorter than anybody needs to copy a data set and post a job.
const FRESH: Duration = Duration::from_secs(2);

/// And for so many times as long as it took, since a look at millions of files takes a while.
const PATIENCE: u32 = 10;

/// The data sets below the server's directory. One look serves all who ask at about the same time.
#[derive(Debug)]
pub struct Catalogue {
    directory: PathBuf,
    /// The last look, and until when it counts.
    last: Mutex<Option<(Instant, Arc<Vec<Summary>>)>>,
}

impl Catalogue {
    /// Of a directory, which need not exist.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, last: Mutex::new(None) }
    }

    /// The directory.
    pub fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// What there is, by name.
    pub async fn list(self: &Arc<Self>) -> Result<Arc<Vec<Summary>>, ApiError> {
        let catalogue = self.clone();
        // A task of its own, so that a look which takes longer than its client waits serves the next one.
        let found = tokio::spawn(async move { catalogue.look().await }).await.map_err(anyhow::Error::from)?;
        Ok(found?)
    }

    async fn look(&self) -> anyhow::Result<Arc<Vec<Summary>>> {
        let mut last = self.last.lock().await;
        if let Some((until, found)) = &*last
            && Instant::now() < *until
        {
            return Ok(found.clone());
        }
        let (directory, start) = (self.directory.clone(), Instant::now());
        let look = tokio::task::spawn_blocking(move || match dataset::discover(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            found => found,
        });
        let found = Arc::new(look.await??);
        let fresh = FRESH.max(start.elapsed() * PATIENCE);
        *last = Some((Instant::now() + fresh, found.clone()));
        Ok(found)
    }
}

/// Data sets
///
/// What is found below the server's `--datasets-dir`.
#[utoipa::path(get, path = "/v1/datasets", tag = "server", operation_id = "list_datasets",
    responses((status = 200, body = List<Summary>)))]
pub async fn list(State(state): State<AppState>) -> Result<Json<List<Summary>>, ApiError> {
    Ok(Json(List { data: state.datasets.list().await?.to_vec() }))
}
