//! `/v1/jobs`

pub mod amend;
pub mod artifacts;
pub mod attempts;
mod details;
pub mod events;
pub mod metrics;
pub mod predictions;
mod published;
pub mod stream;
pub mod student;
pub mod tensorboard;
pub mod updates;
pub mod webhooks;

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use crate::db;
use crate::db::jobs::{Change, Created, Filter, Job, NewJob, Refusal, Status};
use crate::http::constraints::{self, Constraints, Qualification};
use crate::http::error::ApiError;
use crate::http::extract::{IdempotencyKey, JobId, JsonBody, Query, decimal, whole};
use crate::http::resolve::{self, DryRun};
use crate::http::{AppState, Page};
use crate::removals;
use crate::spec;
use crate::text::quoted;

pub use details::JobDetails;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CreateParameters {
    /// Validate the specification, fill in defaults and estimate memory and time, but create no job.
    #[serde(default)]
    #[param(default = false)]
    dry_run: bool,
    /// Tell this webhook of `GET /v1/webhooks` when the job has ended. Can be repeated, up to 10 times.
    #[serde(default)]
    webhook: Vec<String>,
    /// Constraint: most milliseconds that the student may take for one image on the server's CPU. Warns of a student
    /// whose untrained network takes longer.
    #[serde(default, deserialize_with = "decimal")]
    #[param(exclusive_minimum = 0)]
    latency_ms: Option<f64>,
    /// Constraint: most milliseconds for 64 images at a time.
    #[serde(default, deserialize_with = "decimal")]
    #[param(exclusive_minimum = 0)]
    latency_64_ms: Option<f64>,
    /// Constraint: most megabytes of 1,000,000 bytes that the student's weights may have.
    #[serde(default, deserialize_with = "decimal")]
    #[param(exclusive_minimum = 0)]
    size_mb: Option<f64>,
    /// Constraint: most parameters of the student.
    #[serde(default, deserialize_with = "decimal")]
    #[param(exclusive_minimum = 0)]
    parameters: Option<f64>,
}

/// The response to a request that creates no new job.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum NotNew {
    /// The job that was created earlier with the same idempotency key.
    Replay(Box<Job>),
    /// The result of a dry run.
    DryRun(Box<DryRun>),
}

/// Create a job
///
/// Only `teacher`, `student` and `dataset` are required. Everything else defaults to the published recipe, and the
/// response shows all defaults filled in. All faults of the specification are reported at once.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", operation_id = "create_job",
    params(CreateParameters, ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$",
        description = "The same key with the same body returns the same job; with a different body, 422")),
    request_body = spec::JobSpecRequest,
    responses((status = 201, body = Job, headers(("Location" = String, description = "The job's URL"))),
        (status = 200, description = "The job that the key created earlier, or the result of a dry run", body = NotNew)))]
pub async fn create(
    State(state): State<AppState>,
    Query(parameters): Query<CreateParameters>,
    key: Option<IdempotencyKey>,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let CreateParameters { dry_run, webhook, latency_ms, latency_64_ms, size_mb, parameters } = parameters;
    let webhooks = &webhooks::chosen(&state, webhook)?;
    let constraints = Constraints { latency_ms, latency_64_ms, size_mb, parameters }.checked()?;
    if dry_run {
        let resolved = resolve::resolve(&state, &body.value).await?;
        let (network, classes) = resolved.student_network();
        let qualification = constraints::foresee(&state, (&network, classes), constraints).await?;
        let mut dry_run = resolved.dry_run(&state).await?;
        dry_run.warnings.extend(qualification.iter().flat_map(Qualification::warnings));
        dry_run.qualification = qualification;
        return Ok(Json(NotNew::DryRun(Box::new(dry_run))).into_response());
    }
    let sha256 = hex::encode(Sha256::digest(&body.bytes));
    let idempotency = key.as_ref().map(|key| (key.0.as_str(), sha256.as_str()));
    // First, because what the job needed may have been deleted since it was created.
    let known = match idempotency {
        Some((key, sha256)) => db::jobs::find_by_key(&state.pool, key, sha256).await?,
        None => None,
    };
    let created = match known {
        Some(created) => created,
        None => create_new(&state, &body, idempotency, webhooks, constraints).await?,
    };
    match created {
        Created::New(job) => {
            Ok((StatusCode::CREATED, [(LOCATION, format!("/v1/jobs/{}", job.id))], Json(job)).into_response())
        }
        Created::Replay(job) => {
            Ok(([(LOCATION, format!("/v1/jobs/{}", job.id))], Json(NotNew::Replay(Box::new(job)))).into_response())
        }
        Created::KeyTaken(job) => Err(ApiError::invalid(format!(
            "this Idempotency-Key was used with a different body, for job {job}: use a new key"
        ))),
        Created::NeedsGone => {
            Err(ApiError::conflict("a checkpoint, data set or job that this one refers to was deleted in the meantime"))
        }
    }
}

async fn create_new(
    state: &AppState,
    body: &JsonBody,
    idempotency: Option<(&str, &str)>,
    webhooks: &[String],
    constraints: Constraints,
) -> Result<Created, ApiError> {
    let resolved = resolve::resolve(state, &body.value).await?;
    let submitted = std::str::from_utf8(&body.bytes).map_err(anyhow::Error::from)?;
    let (network, classes) = resolved.student_network();
    let qualification = constraints::foresee(state, (&network, classes), constraints).await?;
    let of_constraints = qualification.iter().flat_map(Qualification::warnings);
    let warnings = &resolved.warnings().into_iter().chain(of_constraints).collect::<Vec<_>>();
    let notes = resolved.chosen();
    let dataset_fingerprint = resolved.fingerprint.as_deref();
    let (spec, networks) = (&resolved.spec, resolved.network_names());
    let dataset = resolved.uploaded.as_ref();
    let new =
        NewJob { spec, submitted, idempotency, warnings, notes, dataset_fingerprint, dataset, networks, webhooks };
    Ok(db::jobs::create(&state.pool, &new).await?)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobsParameters {
    /// Only jobs with this status. Can be repeated.
    #[serde(default)]
    status: Vec<Status>,
    /// Only jobs with this label, as `key:value`. Can be repeated.
    #[serde(default)]
    label: Vec<String>,
    /// Only jobs of this sweep.
    sweep: Option<String>,
    /// Most entries to return. A page that has a mebibyte ends earlier.
    #[serde(default, deserialize_with = "whole::<1, 100, _>")]
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// The `next` of the previous page.
    after: Option<String>,
}

/// List jobs, newest first
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", operation_id = "list_jobs", params(JobsParameters),
    responses((status = 200, body = Page<Job>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(parameters): Query<JobsParameters>,
) -> Result<Json<Page<Job>>, ApiError> {
    let JobsParameters { status: statuses, label, sweep, limit, after } = parameters;
    let Some(labels) = labels(label)? else {
        return Ok(Json(Page::new(Vec::new(), 0, |job: &Job| job.id.clone())));
    };
    if let Some(after) = &after
        && !JobId::is_id(after)
    {
        return Err(ApiError::malformed("query parameters: after: expected `next` of a page of this list"));
    }
    let limit = limit.unwrap_or(20);
    let jobs = db::jobs::list(&state.pool, &Filter { statuses, labels, sweep, after }, limit + 1).await?;
    Ok(Json(Page::new(jobs, limit, |job| job.id.clone())))
}

/// Parses labels from `key:value`. `None` if no job can match, because one key has two values.
///
/// # Errors
/// A label has another form.
pub fn labels(given: Vec<String>) -> Result<Option<BTreeMap<String, String>>, ApiError> {
    let mut labels = BTreeMap::new();
    for label in given {
        let (key, value) = label.split_once(':').filter(|_| !label.contains('\0')).ok_or_else(|| {
            ApiError::malformed(format!(
                "query parameters: label: expected key:value, found {label}",
                label = quoted(&label)
            ))
        })?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some_and(|other| other != value) {
            return Ok(None);
        }
    }
    Ok(Some(labels))
}

/// Get a job
///
/// With what is known of networks that came as files.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "get_job",
    params(("id" = String, Path, description = "Id of the job")), responses((status = 200, body = JobDetails)))]
pub async fn get(State(state): State<AppState>, id: JobId) -> Result<Json<JobDetails>, ApiError> {
    let job = find(&state, &id).await?;
    Ok(Json(JobDetails::of(&state, job).await?))
}

/// Get a job's request
///
/// The body that created the job, without the defaults.
#[utoipa::path(get, path = "/v1/jobs/{id}/submitted", tag = "jobs", operation_id = "get_submitted",
    params(("id" = String, Path, description = "Id of the job")),
    responses((status = 200, description = "The body, byte for byte, without a byte-order mark", body = serde_json::Value)))]
pub async fn submitted(State(state): State<AppState>, id: JobId) -> Result<Response, ApiError> {
    if let Some(document) = db::jobs::submitted(&state.pool, &id.0).await? {
        return Ok(([(CONTENT_TYPE, "application/json")], document).into_response());
    }
    find(&state, &id).await?;
    Err(ApiError::not_found(format!(
        "the request of job {id} was not stored, because the job is older than this feature: its spec has all values"
    )))
}

pub async fn find(state: &AppState, id: &JobId) -> Result<Job, ApiError> {
    db::jobs::get(&state.pool, &id.0).await?.ok_or_else(|| no_such(id))
}

fn no_such(id: &JobId) -> ApiError {
    ApiError::not_found(format!("there is no job {id}"))
}

/// Cancel a job
///
/// A running job stops at its next step.
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel_job",
    params(("id" = String, Path, description = "Id of the job")), responses((status = 202, body = Job)))]
pub async fn cancel(State(state): State<AppState>, id: JobId) -> Result<Response, ApiError> {
    change(&state, &id, Change::Cancel, "cancelled").await
}

/// Pause a job
///
/// A running job writes a checkpoint at its next step and frees its device.
#[utoipa::path(post, path = "/v1/jobs/{id}/pause", tag = "jobs", operation_id = "pause_job",
    params(("id" = String, Path, description = "Id of the job")), responses((status = 202, body = Job)))]
pub async fn pause(State(state): State<AppState>, id: JobId) -> Result<Response, ApiError> {
    change(&state, &id, Change::Pause, "paused").await
}

/// Resume a paused job
///
/// It continues from its checkpoint when a worker is free.
#[utoipa::path(post, path = "/v1/jobs/{id}/resume", tag = "jobs", operation_id = "resume_job",
    params(("id" = String, Path, description = "Id of the job")), responses((status = 202, body = Job)))]
pub async fn resume(State(state): State<AppState>, id: JobId) -> Result<Response, ApiError> {
    change(&state, &id, Change::Resume, "resumed").await
}

/// Retry a failed or cancelled job
///
/// It continues from its last checkpoint, if it has one.
#[utoipa::path(post, path = "/v1/jobs/{id}/retry", tag = "jobs", operation_id = "retry_job",
    params(("id" = String, Path, description = "Id of the job")), responses((status = 202, body = Job)))]
pub async fn retry(State(state): State<AppState>, id: JobId) -> Result<Response, ApiError> {
    change(&state, &id, Change::Retry, "retried").await
}

async fn change(state: &AppState, id: &JobId, change: Change, action: &str) -> Result<Response, ApiError> {
    let changed = db::jobs::change(&state.pool, &id.0, change).await?;
    let job = changed.map_err(|refusal| refused(refusal, id, action))?;
    Ok((StatusCode::ACCEPTED, Json(job)).into_response())
}

pub fn refused(refusal: Refusal, id: &JobId, action: &str) -> ApiError {
    match refusal {
        Refusal::Missing => no_such(id),
        Refusal::NotWhile(status) => ApiError::status(&id.0, status, action),
        Refusal::Because(reason) => ApiError::conflict(format!("job {id} cannot be {action}: {reason}")),
    }
}

/// Delete a finished job
///
/// Also deletes its files, events and metrics. Nobody can read them any more, but the space may become free a little
/// later.
#[utoipa::path(delete, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "delete_job",
    params(("id" = String, Path, description = "Id of the job")), responses((status = 204)))]
pub async fn delete(State(state): State<AppState>, id: JobId) -> Result<StatusCode, ApiError> {
    let deleted = db::jobs::delete(&state.pool, &id.0).await?;
    let files = deleted.map_err(|refusal| refused(refusal, &id, "deleted"))?;
    removals::start_of_job(&state.pool, &state.artifacts, id.0, files).await;
    Ok(StatusCode::NO_CONTENT)
}
