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

/// StudentChoice state of the student.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StudentChoice {
    /// With the best evaluation accuracy.
    #[default]
    Best,
    /// After the last epoch.
    Last,
}

/// How the file is written.
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
    /// StudentChoice state of the student.
    #[serde(default)]
    #[param(inline, default = "best")]
    which: StudentChoice,
    /// How the file is written.
    #[serde(default)]
    #[param(inline, default = "safetensors")]
    format: StudentFormat,
}

/// The trained student
///
/// Its keys are those of PyTorch's state dict. `ETag` is its SHA-256 and `Repr-Digest` too; one range of bytes can be
/// asked for, with `If-Range`. 404 until the job has succeeded.
#[utoipa::path(get, path = "/v1/jobs/{id}/student", tag = "artifacts", operation_id = "get_student",
    params(("id" = String, Path, description = "Id of the job"), StudentParameters,
        ("Range" = Option<String>, Header, description = "One range of bytes")),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream",
        headers(("ETag" = String, description = "The file's SHA-256"),
                ("Repr-Digest" = String, description = "The same, as RFC 9530 writes it"),
                ("Content-Disposition" = String, description = "A name for the file"),
                ("Accept-Ranges" = String, description = "bytes"))),
        (status = 206, description = "The part that was asked for", body = Vec<u8>,
            content_type = "application/octet-stream",
            headers(("Content-Range" = String, description = "StudentChoice part, and of how many bytes"))),
        (status = 304, description = "The client has it")))]
pub async fn get(
    State(state): State<AppState>,
    id: JobId,
    Query(parameters): Query<StudentParameters>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let StudentFormat::Safetensors = parameters.format;
    let (name, mark) = match parameters.which {
        StudentChoice::Best => (files::BEST_STUDENT, ""),
        StudentChoice::Last => (files::LAST_STUDENT, "-last"),
    };
    let artifact = find(&state, &id, name).await?;
    let job = jobs::find(&state, &id).await?;
    let architecture = job.spec["student"]["architecture"].as_str().unwrap_or("student");
    let file_name = format!("{architecture}-{id}{mark}.safetensors");
    download(artifact, file_name).respond(&state, &method, &headers).await
}
