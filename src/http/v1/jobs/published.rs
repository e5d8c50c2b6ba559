//! The files that a job has published.

use crate::db;
use crate::db::artifacts::Artifact;
use crate::http::AppState;
use crate::http::answers::AnswerClient;
use crate::http::download::Download;
use crate::http::error::ApiError;
use crate::http::extract::JobId;
use crate::http::v1::jobs;
use crate::protocol::files;
use crate::text::quoted;

/// The job's files but for its samples, which are images of the data set: no scope permits to download those.
pub async fn published(state: &AppState, id: &JobId) -> Result<Vec<Artifact>, ApiError> {
    let mut artifacts = db::artifacts::list(&state.pool, &id.0).await?;
    artifacts.retain(|artifact| artifact.name != files::SAMPLES);
    Ok(artifacts)
}

/// The artifact with that name. If there is none, the error lists the artifacts or says why there are none yet.
pub async fn find(state: &AppState, id: &JobId, name: &str) -> Result<Artifact, ApiError> {
    let job = jobs::find(state, id).await?;
    let artifacts = published(state, id).await?;
    let names: Vec<_> = artifacts.iter().map(|artifact| artifact.name.as_str()).collect();
    if names.is_empty() {
        let status = job.status.name();
        return Err(ApiError::not_found(format!(
            "job {id} is {status}: its files are published once it has succeeded"
        )));
    }
    let shown: String = name.chars().take(64).collect();
    let missing = format!("job {id} has no artifact {shown}; it has {}", names.join(", "), shown = quoted(&shown));
    artifacts.into_iter().find(|artifact| artifact.name == name).ok_or(ApiError::not_found(missing))
}

/// Its download under a name.
pub fn download(artifact: Artifact, file_name: String, client: AnswerClient) -> Download {
    let Artifact { key, size_bytes, sha256, .. } = artifact;
    Download { key, size: size_bytes.unsigned_abs(), sha256, file_name, local: None, client }
}
