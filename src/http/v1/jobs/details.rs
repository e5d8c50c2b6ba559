//! A job with what is known of its networks that came as files. The others are at `/v1/architectures`.

use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;
use utoipa::ToSchema;

use crate::db;
use crate::db::jobs::{Job, Status};
use crate::db::latencies::{self, MeasuredStudent};
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::latencies::missing;

/// A job, and facts about its exported networks.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobDetails {
    #[serde(flatten)]
    job: Job,
    /// About the exported network that is the teacher; absent for an architecture, and once its checkpoint is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    teacher_facts: Option<NetworkSize>,
    /// About the exported network that is the student; absent for an architecture, and once its checkpoint is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    student_facts: Option<NetworkSize>,
    /// How long the student takes on the server's CPU; absent before it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    student_latency: Option<MeasuredStudent>,
    /// Why this server does not measure how long the student takes, and what to do; absent if it does, once the student
    /// was measured, and before the job has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_not_measured: Option<String>,
}

/// What is known of an exported network.
#[derive(Debug, Serialize, ToSchema)]
pub struct NetworkSize {
    /// Number of trained parameters.
    parameters: u64,
    /// Multiply-accumulate operations per image.
    macs: u64,
}

impl JobDetails {
    pub(super) async fn of(state: &AppState, job: Job) -> Result<Self, ApiError> {
        let [teacher, student] = ["teacher", "student"].map(|role| &job.spec[role]);
        let teacher_facts = facts(&state.pool, teacher).await?;
        let student_facts = facts(&state.pool, student).await?;
        let student_latency = latencies::get(&state.pool, &job.id).await?;
        let is_missing = student_latency.is_none() && job.status == Status::Succeeded;
        let latency_not_measured = if is_missing { missing(state) } else { None };
        Ok(Self { job, teacher_facts, student_facts, student_latency, latency_not_measured })
    }
}

/// Of a role of a specification. A teacher that another job trains is that job's student.
async fn facts(pool: &PgPool, role: &Value) -> Result<Option<NetworkSize>, ApiError> {
    if role["architecture"].is_string() {
        return Ok(None);
    }
    let checkpoint = match (role["checkpoint"].as_str(), role["job"].as_str()) {
        (Some(checkpoint), _) => Some(checkpoint.to_owned()),
        (None, Some(job)) => db::jobs::network_of(pool, job).await?,
        (None, None) => None,
    };
    let Some(checkpoint) = checkpoint else { return Ok(None) };
    let network = db::checkpoints::get(pool, &checkpoint).await?.and_then(|checkpoint| checkpoint.network);
    let facts = |network: Value| {
        Some(NetworkSize { parameters: network["parameters"].as_u64()?, macs: network["macs"].as_u64()? })
    };
    Ok(network.and_then(facts))
}
