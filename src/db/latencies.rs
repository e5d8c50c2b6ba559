//! The table `student_latencies`: how long the students of jobs take on the CPU of the server that measured them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::types::Json;
use utoipa::ToSchema;

use super::{message, storable_description};

/// How long a network takes on a CPU, with one thread, as ONNX in ONNX Runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    /// The processor's model name. Latencies of different ones cannot be compared.
    #[schema(example = "AMD EPYC 7B13")]
    pub cpu: String,
    /// The runtime and its version.
    #[schema(example = "ONNX Runtime 1.31.1")]
    pub runtime: String,
    /// The machine's load average over the last minute, when this was measured.
    pub load: f64,
    /// Processors of the machine. If the load exceeds their number, medians are longer than on an idle machine.
    pub processors: u32,
    /// One entry for each number of images at a time, by default 1 and 64.
    pub batches: Vec<BatchLatency>,
    /// What could not be measured, such as a batch for which there was not enough memory.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// How long a batch takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchLatency {
    /// Number of images at a time.
    pub batch: u32,
    /// Median of all runs, in milliseconds for the whole batch.
    pub median_ms: f64,
    /// The fastest run, in milliseconds.
    pub fastest_ms: f64,
    /// Number of runs after the first, which warms up.
    pub runs: u32,
}

impl Latency {
    /// The median for this number of images at a time, in milliseconds.
    #[must_use]
    pub fn median_ms(&self, batch: u32) -> Option<f64> {
        self.batches.iter().find(|found| found.batch == batch).map(|found| found.median_ms)
    }
}

/// What is stored of a student: its latency, or why there is none.
fn read(latency: Option<Value>, failure: Option<String>) -> (Option<Latency>, Option<String>) {
    let Some(latency) = latency else { return (None, failure) };
    match serde_json::from_value(latency) {
        Ok(latency) => (Some(latency), failure),
        Err(error) => (
            None,
            Some(format!(
                "another version of the program stored its latency in a form that this one cannot read: {error}"
            )),
        ),
    }
}

/// What is known of a job's student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MeasuredStudent {
    /// When it was measured.
    pub measured_at: DateTime<Utc>,
    /// Null if it cannot be measured.
    pub latency: Option<Latency>,
    /// Why it cannot be measured.
    pub failure: Option<String>,
}

/// The newest job whose student has not been measured.
pub async fn unmeasured(pool: &PgPool) -> sqlx::Result<Option<String>> {
    let query = sqlx::query_scalar!(
        "select id from jobs where status = 'succeeded'
            and not exists (select from student_latencies where job_id = jobs.id)
         order by id desc limit 1"
    );
    query.fetch_optional(pool).await
}

/// Records what was measured, or why nothing can be. The first record of a job stays.
pub async fn insert(pool: &PgPool, job: &str, outcome: Result<&Latency, &str>) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into student_latencies (job_id, latency, failure)
         select id, $2::jsonb, $3::text from jobs where id = $1
         on conflict (job_id) do nothing",
        job,
        outcome.ok().map(storable_description) as _,
        outcome.err().map(message),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// What is known of a job's student; `None` before it was measured.
pub async fn get(pool: &PgPool, job: &str) -> sqlx::Result<Option<MeasuredStudent>> {
    let query = sqlx::query!(
        r#"select measured_at, readable(latency) as latency, failure from student_latencies where job_id = $1"#,
        job,
    );
    Ok(query.fetch_optional(pool).await?.map(|row| {
        let (latency, failure) = read(row.latency, row.failure);
        MeasuredStudent { measured_at: row.measured_at, latency, failure }
    }))
}

/// What the speed of a network depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkKey {
    /// A name of `GET /v1/architectures`.
    pub architecture: Option<String>,
    /// Id of the checkpoint, for an exported network.
    pub checkpoint: Option<String>,
    /// Side of its images in pixels.
    pub image_size: u32,
    /// Number of parameters, those of the classifier included.
    pub parameters: u64,
}

/// The latest measurement of a finished student of the same network on this CPU.
pub async fn of_network(pool: &PgPool, network: &NetworkKey, cpu: &str) -> sqlx::Result<Option<Latency>> {
    let query = sqlx::query_scalar!(
        r#"
        select readable(latency) as "latency!" from student_latencies join jobs on jobs.id = job_id
        where latency ->> 'cpu' = $5 and result #> '{student,parameters}' = to_jsonb($4::bigint)
            and spec #> '{dataset,image_size}' = to_jsonb($3::bigint)
            and student_architecture is not distinct from $1
            and ($1::text is not null or spec #>> '{student,checkpoint}' = $2)
        order by measured_at desc limit 1
        "#,
        network.architecture,
        network.checkpoint,
        i64::from(network.image_size),
        i64::try_from(network.parameters).unwrap_or(i64::MAX),
        cpu,
    );
    Ok(query.fetch_optional(pool).await?.and_then(|latency| read(Some(latency), None).0))
}

/// A finished student.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedStudent {
    pub id: String,
    pub name: String,
    pub method: String,
    pub student: String,
    pub dataset: String,
    /// Best top-1 accuracy in percent.
    pub top1: f64,
    pub parameters: i64,
    pub size_bytes: i64,
    pub latency: Option<Latency>,
    pub failure: Option<String>,
}

/// Which finished students to list.
#[derive(Debug, Clone, Default)]
pub struct StudentFilter {
    /// Only those of jobs with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only those of this data set, with any version of it.
    pub dataset: Option<String>,
    /// Only those of jobs of this sweep.
    pub sweep: Option<String>,
}

/// The newest finished students, and how many there are. Those are left out whose results another version of the
/// program wrote in another form.
pub async fn students(pool: &PgPool, filter: &StudentFilter, limit: i64) -> sqlx::Result<(Vec<FinishedStudent>, i64)> {
    let labels = Json(&filter.labels);
    let found = sqlx::query!(
        r#"
        select id, name, coalesce(method, '') as "method!", coalesce(dataset, '') as "dataset!",
            coalesce(student_architecture, student_network, '') as "student!", failure as "failure?",
            finite_number(result -> 'best_top1') as "top1!",
            whole_number(result #> '{student,parameters}') as "parameters!",
            whole_number(result #> '{student,size_bytes}') as "size_bytes!", readable(latency) as "latency?"
        from jobs left join student_latencies on job_id = id
        where status = 'succeeded' and finite_number(result -> 'best_top1') is not null
            and whole_number(result #> '{student,parameters}') is not null
            and whole_number(result #> '{student,size_bytes}') is not null
            and ($1::jsonb = '{}' or labels @> $1)
            and ($2::text is null or dataset = $2 or split_part(dataset, '@', 1) = $2)
            and ($4::text is null or sweep_id = $4)
        order by id desc limit $3
        "#,
        labels as _,
        filter.dataset,
        limit,
        filter.sweep,
    )
    .fetch_all(pool)
    .await?;
    let found = found.into_iter().map(|row| {
        let (latency, failure) = read(row.latency, row.failure);
        FinishedStudent {
            id: row.id,
            name: row.name,
            method: row.method,
            student: row.student,
            dataset: row.dataset,
            top1: row.top1,
            parameters: row.parameters,
            size_bytes: row.size_bytes,
            latency,
            failure,
        }
    });
    let found = found.collect();
    let labels = Json(&filter.labels);
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "count!" from jobs
        where status = 'succeeded' and finite_number(result -> 'best_top1') is not null
            and whole_number(result #> '{student,parameters}') is not null
            and whole_number(result #> '{student,size_bytes}') is not null
            and ($1::jsonb = '{}' or labels @> $1)
            and ($2::text is null or dataset = $2 or split_part(dataset, '@', 1) = $2)
            and ($3::text is null or sweep_id = $3)
        "#,
        labels as _,
        filter.dataset,
        filter.sweep,
    )
    .fetch_one(pool)
    .await?;
    Ok((found, total))
}
