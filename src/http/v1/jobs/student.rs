//! `/v1/jobs/{id}/student`

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use distillery_core::export::ExportFormat;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::published::{download, find};
use crate::db;
use crate::db::artifacts::Artifact;
use crate::db::jobs::Job;
use crate::http::AppState;
use crate::http::answers::AnswerClient;
use crate::http::download::Download;
use crate::http::error::ApiError;
use crate::http::exports::{ExportRequest, export, network_of};
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

impl StudentChoice {
    /// The artifact, and what names of files end with.
    fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::Best => (files::BEST_STUDENT, ""),
            Self::Last => (files::LAST_STUDENT, "-last"),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StudentParameters {
    /// The best student, or the one after the last epoch.
    #[serde(default)]
    #[param(inline, default = "best")]
    which: StudentChoice,
    /// File format: `safetensors`; `pt2` for students that came as exported networks; `onnx`; `int8`, which needs ONNX
    /// Runtime on the server; `bundle`, a zip of several with labels, preprocessing and a model card.
    #[serde(default)]
    #[param(inline, default = "safetensors")]
    format: ExportFormat,
    /// ONNX: normalise images in the graph, whose input is then RGB pixels in [0, 1].
    #[serde(default)]
    #[param(default = false)]
    preprocess: bool,
    /// Bundle: a format in it. Can be repeated. Default: safetensors, onnx and, for exported networks, pt2.
    #[serde(default)]
    #[param(inline)]
    with: Vec<ExportFormat>,
}

/// Download the student
///
/// As safetensors, its keys are those of PyTorch's state dict. Other formats are written when they are asked for, and
/// their logits are compared with the student's if the server has ONNX Runtime: see `export-<format>.json` of its
/// artifacts. `ETag` and `Repr-Digest` are the file's SHA-256. A single byte range can be requested, with `If-Range`.
/// 404 until the job has succeeded; 422 if the student has no such form.
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
            headers(("Content-Range" = String, description = "The range, and the file's size in bytes"))),
        (status = 304, description = "The client's copy is current")))]
pub async fn get(
    State(state): State<AppState>,
    id: JobId,
    client: AnswerClient,
    Query(parameters): Query<StudentParameters>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    parameters.check()?;
    let (name, suffix) = parameters.which.file();
    let artifact = find(&state, &id, name).await?;
    let job = jobs::find(&state, &id).await?;
    let title = format!("{}-{id}{suffix}", job.spec["student"]["architecture"].as_str().unwrap_or("student"));
    let file_name = format!("{title}{}", parameters.format.suffix());
    if parameters.format == ExportFormat::Safetensors {
        return download(artifact, file_name, client).respond(&state, &method, &headers).await;
    }
    let request = request(&state, &job, &artifact, &parameters, title).await?;
    let exported = export(&state, request).await?;
    let (size, sha256, local) = (exported.size, exported.sha256.clone(), Some(exported.file.clone()));
    Download { key: String::new(), size, sha256, file_name, local, client }.respond(&state, &method, &headers).await
}

impl StudentParameters {
    /// With nothing else asked for.
    fn of(which: StudentChoice, format: ExportFormat) -> Self {
        Self { which, format, preprocess: false, with: Vec::new() }
    }

    fn check(&self) -> Result<(), ApiError> {
        let format = self.format.name();
        let has_graph = match self.format {
            ExportFormat::Bundle => self.with.is_empty() || self.with.iter().any(|format| format.is_onnx()),
            format => format.is_onnx(),
        };
        if self.preprocess && !has_graph {
            return Err(ApiError::malformed(format!(
                "query parameters: preprocess: {format} has no graph to normalise in: use onnx, int8, or a bundle with one of \
                 them"
            )));
        }
        if !self.with.is_empty() && self.format != ExportFormat::Bundle {
            return Err(ApiError::malformed(format!("query parameters: with: is for a bundle, not for {format}")));
        }
        let places = |wanted: &ExportFormat| self.with.iter().filter(|format| *format == wanted).count();
        if self.with.iter().any(|format| *format == ExportFormat::Bundle || places(format) > 1) {
            return Err(ApiError::malformed(
                "query parameters: with: name each of safetensors, pt2, onnx and int8 at most once",
            ));
        }
        Ok(())
    }
}

/// What an export needs of a job.
async fn request(
    state: &AppState,
    job: &Job,
    student: &Artifact,
    parameters: &StudentParameters,
    title: String,
) -> Result<ExportRequest, ApiError> {
    let artifact = async |name: &str| db::artifacts::get(&state.pool, &job.id, name).await;
    let is_bundle = parameters.format == ExportFormat::Bundle;
    let manifest = if is_bundle { artifact(files::MANIFEST).await? } else { None };
    let samples = artifact(files::SAMPLES).await?;
    Ok(ExportRequest {
        format: parameters.format,
        preprocess: parameters.preprocess,
        with: parameters.with.clone(),
        title,
        teacher: job.teacher_network.clone().filter(|_| is_bundle),
        network_name: job.student_network.clone().filter(|_| is_bundle),
        student: student.into(),
        is_last: student.name == files::LAST_STUDENT,
        network: network_of(state, job).await?,
        manifest: manifest.as_ref().map(Into::into),
        samples: samples.as_ref().map(Into::into),
    })
}

/// The student and the format whose report an artifact's name asks for: `export-onnx.json`, `export-onnx-last.json`.
pub fn reported(name: &str) -> Option<(StudentChoice, ExportFormat)> {
    let rest = name.strip_prefix("export-")?.strip_suffix(".json")?;
    let (which, format) = match rest.strip_suffix("-last") {
        Some(format) => (StudentChoice::Last, format),
        None => (StudentChoice::Best, rest),
    };
    let formats = [ExportFormat::Pt2, ExportFormat::Onnx, ExportFormat::Int8, ExportFormat::Bundle];
    Some((which, formats.into_iter().find(|known| known.name() == format)?))
}

/// The report on an export.
pub async fn report(
    state: &AppState,
    id: &JobId,
    (which, format): (StudentChoice, ExportFormat),
) -> Result<Response, ApiError> {
    let parameters = StudentParameters::of(which, format);
    let (name, suffix) = parameters.which.file();
    let artifact = find(state, id, name).await?;
    let job = jobs::find(state, id).await?;
    let title = format!("{}-{id}{suffix}", job.spec["student"]["architecture"].as_str().unwrap_or("student"));
    let exported = export(state, request(state, &job, &artifact, &parameters, title).await?).await?;
    Ok(Json(exported.report.clone()).into_response())
}
