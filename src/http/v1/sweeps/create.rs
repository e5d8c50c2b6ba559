//! `POST /v1/sweeps`

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::{SweepDetails, details};
use crate::db::jobs::NewJob;
use crate::db::sweeps::{self, CreatedSweep, NewSweep};
use crate::http::AppState;
use crate::http::constraints::{Constraints, Qualification};
use crate::http::error::ApiError;
use crate::http::estimate::{Memory, Time};
use crate::http::extract::{IdempotencyKey, JsonBody, Query, decimal, fault};
use crate::http::sweep_plan::{PlannedCombination, SweepPlan};
use crate::http::v1::jobs::webhooks;
use crate::http::v1::webhooks::fault_of;
use crate::sweep::SweepRequest;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CreateSweepParameters {
    /// Check every job, and estimate memory and time of all together, but create nothing.
    #[serde(default)]
    #[param(default = false)]
    dry_run: bool,
    /// Tell this webhook of `GET /v1/webhooks` of the end of every job of the sweep. Can be repeated, up to 10 times.
    /// Those that are told of the sweep's end are `webhooks` of the document.
    #[serde(default)]
    webhook: Vec<String>,
    /// Constraint: most milliseconds that a student may take for one image on the server's CPU. Warns of combinations
    /// whose untrained networks take longer.
    #[serde(default, deserialize_with = "decimal")]
    #[param(exclusive_minimum = 0)]
    latency_ms: Option<f64>,
    /// Constraint: most milliseconds for 64 images at a time.
    #[serde(default, deserialize_with = "decimal")]
    #[param(exclusive_minimum = 0)]
    latency_64_ms: Option<f64>,
    /// Constraint: most megabytes of 1,000,000 bytes that a student's weights may have.
    #[serde(default, deserialize_with = "decimal")]
    #[param(exclusive_minimum = 0)]
    size_mb: Option<f64>,
    /// Constraint: most parameters of a student.
    #[serde(default, deserialize_with = "decimal")]
    #[param(exclusive_minimum = 0)]
    parameters: Option<f64>,
}

/// The response to a request that creates no new sweep.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum NotNewSweep {
    /// The sweep that was created earlier with the same idempotency key.
    Replay(Box<SweepDetails>),
    /// The result of a dry run.
    DryRun(Box<SweepDryRun>),
}

/// What a sweep would be.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SweepDryRun {
    /// Its name.
    pub name: String,
    /// Number of jobs.
    pub jobs: u64,
    /// Number of jobs that each combination has.
    pub seeds: u32,
    /// Its combinations.
    pub combinations: Vec<CombinationEstimate>,
    /// Part of the epochs of all jobs that is trained: less than 1 with halving.
    pub trained_part: f64,
    /// Hours for which devices train all jobs, from the training images per second of earlier jobs, without waiting;
    /// with halving, as if the combinations that continue were as fast as the others. Null before a job has been
    /// measured.
    pub device_hours: Option<f64>,
    /// Kinds of device that the estimate is for: `cpu`, `cuda`, or both with a comma between them.
    pub device: Option<String>,
    /// Memory of a device: that of the combination that takes most.
    pub memory: Memory,
    /// What is left out or may not be intended; and, as for a job, what was decided where the documents leave it open.
    /// The sweep itself has only the former.
    pub warnings: Vec<String>,
}

/// A combination, and what a job of it would take.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CombinationEstimate {
    /// Number within the sweep, from 1.
    pub number: u32,
    /// The value of each axis, by the axis' pointer.
    #[schema(value_type = BTreeMap<String, Value>)]
    pub settings: Value,
    /// A rough estimate of the memory that a job takes on each device, in bytes.
    pub memory_bytes: u64,
    /// Time from a job's first step to the end of its last epoch; null before a job has been measured.
    pub time: Option<Time>,
    /// Whether its student can keep the constraints of the request; null without constraints.
    pub qualification: Option<Qualification>,
}

/// Create a sweep
///
/// A set of jobs that differ in a few settings: every combination of the values of `axes`, or some of them, each with
/// several seeds. All of the jobs are created or none; a fault of any job is a fault of the sweep, with its place in
/// this document. With the strategy `halving`, jobs pause at each rung until all have reached it; then the best
/// combinations continue from their checkpoints and the others are cancelled.
#[utoipa::path(post, path = "/v1/sweeps", tag = "sweeps", operation_id = "create_sweep",
    params(CreateSweepParameters, ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$",
        description = "The same key with the same body returns the same sweep; with a different body, 422")),
    request_body = SweepRequest,
    responses((status = 201, body = SweepDetails, headers(("Location" = String, description = "The sweep's URL"))),
        (status = 200, description = "The sweep that the key created earlier, or the result of a dry run", body = NotNewSweep)))]
pub async fn create(
    State(state): State<AppState>,
    Query(parameters): Query<CreateSweepParameters>,
    key: Option<IdempotencyKey>,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let CreateSweepParameters { dry_run: is_dry_run, webhook, latency_ms, latency_64_ms, size_mb, parameters } =
        parameters;
    let webhooks = &webhooks::chosen(&state, webhook)?;
    let constraints = Constraints { latency_ms, latency_64_ms, size_mb, parameters }.checked()?;
    if is_dry_run {
        let plan = plan(&state, &body.value, constraints).await?;
        return Ok(Json(NotNewSweep::DryRun(Box::new(dry_run(&state, &plan).await?))).into_response());
    }
    let sha256 = hex::encode(Sha256::digest(&body.bytes));
    let idempotency = key.as_ref().map(|key| (key.0.as_str(), sha256.as_str()));
    // First, because what the jobs needed may have been deleted since they were created.
    let known = match idempotency {
        Some((key, sha256)) => sweeps::find_by_key(&state.pool, key, sha256).await?,
        None => None,
    };
    let created = match known {
        Some(created) => created,
        None => {
            let plan = plan(&state, &body.value, constraints).await?;
            let submitted = std::str::from_utf8(&body.bytes).map_err(anyhow::Error::from)?;
            store(&state, &plan, submitted, idempotency, webhooks).await?
        }
    };
    let location = |id: &str| [(LOCATION, format!("/v1/sweeps/{id}"))];
    match created {
        CreatedSweep::New(id) => {
            Ok((StatusCode::CREATED, location(&id), Json(details(&state, &id).await?)).into_response())
        }
        CreatedSweep::Replay(id) => {
            let sweep = NotNewSweep::Replay(Box::new(details(&state, &id).await?));
            Ok((location(&id), Json(sweep)).into_response())
        }
        CreatedSweep::KeyTaken(id) => Err(ApiError::invalid(format!(
            "this Idempotency-Key was used with a different body, for sweep {id}: use a new key"
        ))),
        CreatedSweep::NeedsGone => Err(ApiError::conflict(
            "a checkpoint, data set or job that the sweep refers to was deleted in the meantime",
        )),
    }
}

/// A sweep whose jobs can all run, and whose webhooks are known.
async fn plan(state: &AppState, document: &Value, constraints: Constraints) -> Result<SweepPlan, ApiError> {
    let mut plan = SweepPlan::new(state, document).await?;
    let named = plan.sweep.webhooks.iter().enumerate();
    let unknown = named.filter_map(|(place, name)| Some(fault(&format!("/webhooks/{place}"), fault_of(state, name)?)));
    let unknown: Vec<_> = unknown.collect();
    if !unknown.is_empty() {
        return Err(ApiError::faults(unknown));
    }
    plan.qualify(state, constraints).await?;
    Ok(plan)
}

async fn store(
    state: &AppState,
    plan: &SweepPlan,
    submitted: &str,
    idempotency: Option<(&str, &str)>,
    webhooks: &[String],
) -> Result<CreatedSweep, ApiError> {
    let documents = plan.documents()?;
    // Jobs of a combination share what is known of it.
    let warnings_of = |planned: &PlannedCombination| [planned.resolved.warnings(), planned.misses()].concat();
    let warnings: BTreeMap<u32, Vec<String>> =
        plan.combinations.iter().map(|planned| (planned.combination.number, warnings_of(planned))).collect();
    let jobs = documents.iter().map(|(planned, job)| {
        let resolved = &planned.resolved;
        let new = NewJob {
            spec: &job.spec,
            submitted: &job.submitted,
            idempotency: None,
            warnings: &warnings[&planned.combination.number],
            notes: resolved.chosen(),
            dataset_fingerprint: resolved.fingerprint.as_deref(),
            dataset: resolved.uploaded.as_ref(),
            networks: resolved.network_names(),
            webhooks,
        };
        (number(planned.combination.number), new)
    });
    let combinations = plan.combinations.iter().map(|planned| {
        let combination = &planned.combination;
        (number(combination.number), plan.settings(combination))
    });
    let sweep = &plan.sweep;
    let new = NewSweep {
        name: &sweep.name,
        submitted,
        axes: &sweep.axes,
        seeds: sweep.seeds,
        strategy: &sweep.strategy,
        max_parallel: sweep.max_parallel,
        warnings: &plan.warnings,
        webhooks: &sweep.webhooks,
        idempotency,
        combinations: combinations.collect(),
        jobs: jobs.collect(),
    };
    Ok(sweeps::create(&state.pool, &new).await?)
}

fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

async fn dry_run(state: &AppState, plan: &SweepPlan) -> Result<SweepDryRun, ApiError> {
    let estimates = plan.estimates(state).await?;
    let seeds = plan.sweep.seeds;
    let trained_part = plan.trained_part();
    let hours = plan.combinations.iter().zip(&estimates).map(|(planned, (_, time))| {
        let devices = f64::from(planned.resolved.spec.training.devices);
        time.as_ref().map(|time| time.seconds / 3600.0 * devices * f64::from(seeds))
    });
    let device_hours = hours.sum::<Option<f64>>().map(|hours| hours * trained_part);
    let mut devices: Vec<String> =
        estimates.iter().filter_map(|(_, time)| Some(time.as_ref()?.device.clone())).collect();
    devices.sort_unstable();
    devices.dedup();
    let combinations = plan.combinations.iter().zip(&estimates).map(|(planned, (memory, time))| CombinationEstimate {
        number: planned.combination.number,
        settings: plan.settings(&planned.combination),
        memory_bytes: memory.total_bytes,
        time: time.clone(),
        qualification: planned.qualification.clone(),
    });
    let combinations = combinations.collect();
    let found = plan.look_at_images(state).await;
    let lacks: BTreeSet<String> = plan.combinations.iter().filter_map(|planned| planned.resolved.lack()).collect();
    let memory = estimates.into_iter().map(|(memory, _)| memory).max_by_key(|memory| memory.total_bytes);
    Ok(SweepDryRun {
        name: plan.sweep.name.clone(),
        jobs: plan.jobs() as u64,
        seeds,
        combinations,
        trained_part,
        device_hours,
        device: device_hours.map(|_| devices.join(",")),
        memory: memory.ok_or_else(|| anyhow::anyhow!("a sweep without faults has no combination"))?,
        warnings: plan.warnings.iter().chain(&found).chain(&plan.remarks).cloned().chain(lacks).collect(),
    })
}
