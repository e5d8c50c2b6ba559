//! `/v1/sweeps`

pub mod create;
mod csv;
pub mod webhooks;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::db::sweeps::{self, CombinationResult, FailedJob, StoredSweep, SweepChange, SweepRefusal, SweepStatus};
use crate::http::error::ApiError;
use crate::http::extract::{Query, SweepId, whole};
use crate::http::{AppState, Page};
use crate::removals;
use crate::sweep::{Axis, Strategy};
use crate::text::counted;

/// A sweep.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Sweep {
    /// `swp_` and a ULID: sorts by age.
    #[schema(example = "swp_01KB3Z6V0Q2M5K8N1R4T7W9XYZ")]
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its status.
    pub status: SweepStatus,
    /// What is varied.
    #[schema(value_type = Vec<Axis>)]
    pub axes: Value,
    /// Number of jobs that each combination has.
    pub seeds: i32,
    /// Which combinations are tried, and for how long.
    #[schema(value_type = Strategy)]
    pub strategy: Value,
    /// Most jobs that run at the same time; null for no limit.
    pub max_parallel: Option<i32>,
    /// Number of combinations.
    pub combinations: i64,
    /// Epochs after which combinations are compared next; null without halving, after the last comparison, and once the
    /// sweep has ended.
    pub next_rung: Option<i32>,
    /// Number of jobs with each status that any of them has.
    #[schema(value_type = std::collections::BTreeMap<String, i64>)]
    pub jobs: Value,
    /// What was left out, or may not be intended, how many of its jobs were deleted, and webhooks that could not be
    /// told of its end.
    pub warnings: Vec<String>,
    /// Names of the webhooks that are told of its end.
    #[serde(default)]
    pub webhooks: Vec<String>,
    /// When it was posted.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A sweep with its combinations.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SweepDetails {
    #[serde(flatten)]
    pub sweep: Sweep,
    /// The job that failed first; null while none has failed.
    pub first_failure: Option<FailedJob>,
    /// Its combinations, the best first.
    pub results: Vec<CombinationResult>,
}

impl From<StoredSweep> for Sweep {
    fn from(stored: StoredSweep) -> Self {
        let has_ended = matches!(stored.status, SweepStatus::Finished | SweepStatus::Cancelled);
        let next_rung = stored.rungs.split_last().filter(|_| !has_ended).and_then(|(_, compared)| {
            let place = usize::try_from(stored.rung).ok()?;
            compared.get(place).copied()
        });
        let unread = unread(&stored);
        let warnings = without_deleted(&stored).into_iter().chain(unread.warning()).chain(stored.warnings).collect();
        Self {
            id: stored.id,
            name: stored.name,
            status: stored.status,
            axes: if unread.axes { json!([]) } else { stored.axes },
            seeds: stored.seeds,
            strategy: if unread.strategy { json!({"type": "unknown"}) } else { stored.strategy },
            max_parallel: stored.max_parallel,
            combinations: stored.combinations,
            next_rung,
            jobs: stored.statuses,
            warnings,
            webhooks: stored.webhooks,
            created_at: stored.created_at,
            finished_at: stored.finished_at,
        }
    }
}

/// What another version of the program, or another program, stored of a sweep in a form that this one cannot read.
struct Unread {
    axes: bool,
    strategy: bool,
}

fn unread(sweep: &StoredSweep) -> Unread {
    // A strategy that only a newer version knows has a name all the same.
    let is_known = matches!(sweep.strategy["type"].as_str(), Some("grid" | "random" | "halving"));
    let is_named = sweep.strategy["type"].is_string();
    Unread {
        axes: Vec::<Axis>::deserialize(&sweep.axes).is_err(),
        strategy: !is_named || (is_known && Strategy::deserialize(&sweep.strategy).is_err()),
    }
}

impl Unread {
    fn warning(&self) -> Option<String> {
        let what = match (self.axes, self.strategy) {
            (false, false) => return None,
            (true, false) => "its axes were",
            (false, true) => "its strategy was",
            (true, true) => "its axes and its strategy were",
        };
        Some(format!("{what} stored in a form that this server cannot read: update this server"))
    }
}

/// The warning that the results lack jobs that were deleted: a sweep is made with all seeds of its combinations.
fn without_deleted(sweep: &StoredSweep) -> Option<String> {
    let left: i64 = sweep.statuses.as_object()?.values().filter_map(Value::as_i64).sum();
    let made = sweep.combinations.saturating_mul(i64::from(sweep.seeds));
    let deleted = u64::try_from(made.saturating_sub(left)).ok().filter(|deleted| *deleted > 0)?;
    let deleted = counted(deleted, "job was deleted", "jobs were deleted");
    Some(format!("{deleted}, of {made} that the sweep made: its results are of the others alone"))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SweepsParameters {
    /// Most entries to return. A page that has a mebibyte ends earlier.
    #[serde(default, deserialize_with = "whole::<1, 100, _>")]
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// The `next` of the previous page.
    after: Option<String>,
}

/// List sweeps, newest first
#[utoipa::path(get, path = "/v1/sweeps", tag = "sweeps", operation_id = "list_sweeps", params(SweepsParameters),
    responses((status = 200, body = Page<Sweep>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(SweepsParameters { limit, after }): Query<SweepsParameters>,
) -> Result<Json<Page<Sweep>>, ApiError> {
    if let Some(after) = &after
        && !SweepId::is_id(after)
    {
        return Err(ApiError::malformed("query parameters: after: expected `next` of a page of this list"));
    }
    let limit = limit.unwrap_or(20);
    let found = sweeps::list(&state.pool, None, after.as_deref(), limit + 1).await?;
    let found: Vec<Sweep> = found.into_iter().map(Sweep::from).collect();
    Ok(Json(Page::new(found, limit, |sweep| sweep.id.clone())))
}

/// Format of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResultFormat {
    #[default]
    Json,
    Csv,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SweepParameters {
    /// `csv` returns a table with a row for each combination.
    #[serde(default)]
    #[param(inline, default = "json")]
    format: ResultFormat,
}

/// Get a sweep
///
/// With every combination over its seeds: mean and standard deviation of the best top-1 accuracies so far, their
/// number, the best of them, what they cost, and the rank of the combination.
#[utoipa::path(get, path = "/v1/sweeps/{id}", tag = "sweeps", operation_id = "get_sweep",
    params(("id" = String, Path, description = "Id of the sweep"), SweepParameters),
    responses((status = 200, content((SweepDetails = "application/json"), (String = "text/csv")))))]
pub async fn get(
    State(state): State<AppState>,
    id: SweepId,
    Query(SweepParameters { format }): Query<SweepParameters>,
) -> Result<Response, ApiError> {
    let details = details(&state, &id.0).await?;
    Ok(match format {
        ResultFormat::Json => Json(details).into_response(),
        ResultFormat::Csv => ([(CONTENT_TYPE, "text/csv; charset=utf-8")], csv::table(&details)).into_response(),
    })
}

/// A sweep as it is now.
async fn details(state: &AppState, id: &str) -> Result<SweepDetails, ApiError> {
    let stored = sweeps::get(&state.pool, id).await?.ok_or_else(|| no_such(id))?;
    let results = sweeps::results(&state.pool, id, &stored.rungs).await?;
    let first_failure = sweeps::first_failure(&state.pool, id).await?;
    Ok(SweepDetails { sweep: stored.into(), first_failure, results })
}

fn no_such(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no sweep {id}"))
}

/// Get a sweep's request
///
/// The body that created the sweep.
#[utoipa::path(get, path = "/v1/sweeps/{id}/submitted", tag = "sweeps", operation_id = "get_submitted_sweep",
    params(("id" = String, Path, description = "Id of the sweep")),
    responses((status = 200, description = "The body, byte for byte, without a byte-order mark", body = Value)))]
pub async fn submitted(State(state): State<AppState>, id: SweepId) -> Result<Response, ApiError> {
    let document = sweeps::submitted(&state.pool, &id.0).await?.ok_or_else(|| no_such(&id.0))?;
    Ok(([(CONTENT_TYPE, "application/json")], document).into_response())
}

/// Pause a sweep
///
/// Its running jobs write a checkpoint at their next step and free their devices, and none of its jobs starts.
#[utoipa::path(post, path = "/v1/sweeps/{id}/pause", tag = "sweeps", operation_id = "pause_sweep",
    params(("id" = String, Path, description = "Id of the sweep")), responses((status = 202, body = SweepDetails)))]
pub async fn pause(State(state): State<AppState>, id: SweepId) -> Result<Response, ApiError> {
    change(&state, &id, SweepChange::Pause, "paused").await
}

/// Resume a paused sweep
///
/// All of its paused jobs continue from their checkpoints, including those that were paused one by one. Jobs that wait
/// at a rung keep waiting for the others.
#[utoipa::path(post, path = "/v1/sweeps/{id}/resume", tag = "sweeps", operation_id = "resume_sweep",
    params(("id" = String, Path, description = "Id of the sweep")), responses((status = 202, body = SweepDetails)))]
pub async fn resume(State(state): State<AppState>, id: SweepId) -> Result<Response, ApiError> {
    change(&state, &id, SweepChange::Resume, "resumed").await
}

/// Cancel a sweep
///
/// Its running jobs stop at their next step. Jobs that have succeeded keep their students.
#[utoipa::path(post, path = "/v1/sweeps/{id}/cancel", tag = "sweeps", operation_id = "cancel_sweep",
    params(("id" = String, Path, description = "Id of the sweep")), responses((status = 202, body = SweepDetails)))]
pub async fn cancel(State(state): State<AppState>, id: SweepId) -> Result<Response, ApiError> {
    change(&state, &id, SweepChange::Cancel, "cancelled").await
}

async fn change(state: &AppState, id: &SweepId, change: SweepChange, action: &str) -> Result<Response, ApiError> {
    let changed = sweeps::change(&state.pool, &id.0, change).await?;
    changed.map_err(|refusal| refused(refusal, id, action))?;
    Ok((StatusCode::ACCEPTED, Json(details(state, &id.0).await?)).into_response())
}

fn refused(refusal: SweepRefusal, id: &SweepId, action: &str) -> ApiError {
    match refusal {
        SweepRefusal::Missing => no_such(&id.0),
        SweepRefusal::NotWhile(SweepStatus::Unknown) => ApiError::conflict(format!(
            "sweep {id} has a status that this version of the server does not know: it cannot be {action} before the \
             server is updated"
        )),
        SweepRefusal::NotWhile(status) => {
            ApiError::conflict(format!("sweep {id} is {}: it cannot be {action}", status.name()))
        }
        SweepRefusal::Because(reason) => ApiError::conflict(format!("sweep {id} cannot be {action}: {reason}")),
    }
}

/// Delete a sweep
///
/// Also deletes its jobs with their files, events and metrics. All of them must have ended.
#[utoipa::path(delete, path = "/v1/sweeps/{id}", tag = "sweeps", operation_id = "delete_sweep",
    params(("id" = String, Path, description = "Id of the sweep")), responses((status = 204)))]
pub async fn delete(State(state): State<AppState>, id: SweepId) -> Result<StatusCode, ApiError> {
    let deleted = sweeps::delete(&state.pool, &id.0).await?;
    let jobs = deleted.map_err(|refusal| refused(refusal, &id, "deleted"))?;
    let jobs = jobs.into_iter().map(|job| (job.id, job.files)).collect();
    removals::start_of_jobs(&state.pool, &state.artifacts, jobs).await;
    Ok(StatusCode::NO_CONTENT)
}
