//! `/v1/jobs/{id}/artifacts`

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::Response;

use super::published::{download, find, published};
use crate::db::artifacts::Artifact;
use crate::http::answers::AnswerClient;
use crate::http::error::ApiError;
use crate::http::extract::{JobId, Name};
use crate::http::v1::jobs;
use crate::http::v1::jobs::{student, tensorboard};
use crate::http::{AppState, List};

/// The event file, which is written for each request.
const EVENT_FILE: &str = "tensorboard";

/// List a job's artifacts
///
/// The files that the job has published. Empty until it has succeeded. Images with which exports are checked are not
/// among them: they are the server's own.
#[utoipa::path(get, path = "/v1/jobs/{id}/artifacts", tag = "artifacts", operation_id = "list_artifacts",
    params(("id" = String, Path, description = "Id of the job")), responses((status = 200, body = List<Artifact>)))]
pub async fn list(State(state): State<AppState>, id: JobId) -> Result<Json<List<Artifact>>, ApiError> {
    jobs::find(&state, &id).await?;
    Ok(Json(List { data: published(&state, &id).await? }))
}

/// Download an artifact
///
/// With `ETag` (the SHA-256), ranges and conditional requests, as for the student. `export-onnx.json`,
/// `export-int8.json`, `export-pt2.json` and `export-bundle.json` are the reports on the best student's exports, and
/// `export-onnx-last.json` and so on those on the last student's. The exports are written for that if they have not
/// been. `tensorboard` is the event file of `GET /v1/jobs/{id}/tensorboard`, also before the job has ended: each
/// request gets the points so far, without a hash or ranges.
#[utoipa::path(get, path = "/v1/jobs/{id}/artifacts/{name}", tag = "artifacts", operation_id = "get_artifact",
    params(("id" = String, Path, description = "Id of the job"), ("name" = String, Path, description = "Name of the file"),
        ("Range" = Option<String>, Header, description = "A single byte range")),
    responses((status = 200, description = "The file", content((Vec<u8> = "application/octet-stream"),
            (serde_json::Value = "application/json"), (String = "application/x-ndjson")),
        headers(("ETag" = String, description = "The file's SHA-256"),
                ("Repr-Digest" = String, description = "The SHA-256 in the format of RFC 9530"),
                ("Content-Disposition" = String, description = "The suggested file name"),
                ("Accept-Ranges" = String, description = "bytes"))),
        (status = 206, description = "The requested range", content((Vec<u8> = "application/octet-stream"),
            (String = "application/json"), (String = "application/x-ndjson")),
            headers(("Content-Range" = String, description = "The range, and the file's size in bytes"))),
        (status = 304, description = "The client's copy is current")))]
pub async fn get(
    State(state): State<AppState>,
    id: JobId,
    Name(name): Name,
    client: AnswerClient,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if name == EVENT_FILE {
        return tensorboard::get(State(state), id, client).await;
    }
    if let Some(export) = student::reported(&name) {
        return student::report(&state, &id, export).await;
    }
    let artifact = find(&state, &id, &name).await?;
    let file_name = format!("{id}-{}", name.replace('/', "-"));
    download(artifact, file_name, client).respond(&state, &method, &headers).await
}
