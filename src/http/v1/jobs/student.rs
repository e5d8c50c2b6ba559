//! `/v1/jobs/{id}/student`

use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::artifacts::{download, find};
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{JobId, Query};
use crate::http::v1::jobs;
use crate::protocol::files;

/// The best student or the last one.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StudentChoice {
    /// The student with the best evaluation accuracy.
    #[default]
    Best,
    /// The student after the last epoch.
    Last,
}

/// File format.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StudentFormat {
    /// <https://github.com/huggingface/safetensors>
    #[default]
    Safetensors,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StudentParameters {
    /// The best student, or the one after the last epoch.
    #[serde(default)]
    #[param(inline, default = "best")]
    which: StudentChoice,
    /// File format.
    #[serde(default)]
    #[param(inline, default = "safetensors")]
    format: StudentFormat,
}

/// Download the student
///
/// Its keys are those of PyTorch's state dict. `ETag` and `Repr-Digest` are its SHA-256. A single byte range can be
/// requested, with `If-Range`. 404 until the job has succeeded.
#[utoipa::path(get, path = "/v1/jobs/{id}/student", tag = "artifacts", operation_id = "get_student",
    params(("id" = String, Path, description = "Id of the job"), StudentParameters,
        ("Range" = Option<String>, Header, description = "A single byte range")),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream",
        headers(("ETag" = String, description = "The file's SHA-256"),
                ("Repr-Digest" = String, description = "The SHA-256 in the format of RFC 9530"),
                ("Content-Disposition" = String, description = "The suggested file name"),
                ("Accept-Ranges" = String, description = "bytes"))),
        (status = 206, description = "The requested range", body = Vec<u8>,
            content_type = "application/octet-stream",
            headers(("Content-Range" = String, description = "StudentChoice part, and of how many bytes"))),
        (status = 304, description = "The client's copy is current")))]
pub async fn get(
    State(state): State<AppState>,
    id: JobId,
    Query(parameters): Query<StudentParameters>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let StudentFormat::Safetensors = parameters.format;
    let (name, suffix) = match parameters.which {
        StudentChoice::Best => (files::BEST_STUDENT, ""),
        StudentChoice::Last => (files::LAST_STUDENT, "-last"),
    };
    let artifact = find(&state, &id, name).await?;
    let job = jobs::find(&state, &id).await?;
    let architecture = job.spec["student"]["architecture"].as_str().unwrap_or("student");
    let file_name = format!("{architecture}-{id}{suffix}.safetensors");
    download(artifact, file_name).respond(&state, &method, &headers).await
}
