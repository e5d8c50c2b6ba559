//! `PATCH /v1/jobs/{id}`

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::db;
use crate::db::jobs::Job;
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{JobId, JsonBody};
use crate::http::v1::jobs;
use crate::spec::Amendment;

/// Changes of a job, as a JSON merge patch (RFC 7396). What is left out stays as it is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobChanges {
    /// New name.
    #[schema(nullable = false, min_length = 1, max_length = 200)]
    pub name: Option<String>,
    /// Labels to set and, with null as their value, to remove; others stay. Null removes all.
    pub labels: Option<BTreeMap<String, Option<String>>>,
    /// New priority, from -1000 to 1000: jobs with a higher one run first. Not for a job that has succeeded.
    #[schema(nullable = false)]
    pub priority: Option<i32>,
    /// Notes, which may have line breaks; null removes them.
    #[schema(max_length = 10_000)]
    pub notes: Option<String>,
}

/// Change a job's name, labels, priority or notes
///
/// A JSON merge patch: what it leaves out stays as it is. All changes are made or none, and the job's history says
/// which. Name, labels and notes can be changed in every status, the priority in every one but `succeeded` (409). An
/// attempt that runs already keeps the name and labels that it began with in its manifest. What is trained cannot be
/// changed: post another job.
#[utoipa::path(patch, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "change_job",
    params(("id" = String, Path, description = "Id of the job")), request_body = JobChanges,
    responses((status = 200, body = Job)))]
pub async fn patch(State(state): State<AppState>, id: JobId, body: JsonBody) -> Result<Json<Job>, ApiError> {
    let amendment = Amendment::read(&body.value).map_err(ApiError::faults)?;
    let amended = db::jobs::amend(&state.pool, &id.0, &amendment).await?;
    amended.map(Json).map_err(|refusal| jobs::refused(refusal, &id, "changed"))
}
