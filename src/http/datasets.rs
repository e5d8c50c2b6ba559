//! `/v1/datasets`

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State as Shared;
use tokio::sync::Mutex;

use super::error::ApiError;
use super::{List, State};
use crate::dataset::{self, Summary};

/// How long a look at the directory counts. Shorter than anybody needs to copy a data set and post a job.
const FRESH: Duration = Duration::from_secs(2);

/// The data sets below the server's directory. Looking through them reads the headers of many files, so that one look
/// serves all who ask at about the same time.
#[derive(Debug)]
pub struct Catalogue {
    directory: PathBuf,
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
    pub async fn list(&self) -> Result<Arc<Vec<Summary>>, ApiError> {
        let mut last = self.last.lock().await;
        if let Some((when, found)) = &*last
            && when.elapsed() < FRESH
        {
            return Ok(found.clone());
        }
        let directory = self.directory.clone();
        let found = tokio::task::spawn_blocking(move || match dataset::discover(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            found => found,
        });
        let found = Arc::new(found.await.map_err(anyhow::Error::from)??);
        *last = Some((Instant::now(), found.clone()));
        Ok(found)
    }
}

/// Data sets
///
/// What is found below the server's `--datasets-dir`.
#[utoipa::path(get, path = "/v1/datasets", tag = "server", operation_id = "list_datasets",
    responses((status = 200, body = List<Summary>)))]
pub async fn list(Shared(state): Shared<State>) -> Result<Json<List<Summary>>, ApiError> {
    Ok(Json(List { data: state.datasets.list().await?.to_vec() }))
}
