//! The results of a sweep: its combinations with the accuracies of their jobs.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgPool;
use utoipa::ToSchema;

use crate::db::downsample::Downsampled;
use crate::db::foreign_json::ForeignJson;
use crate::db::jobs::Status;
use crate::protocol::Failure;

/// Combinations whose curves are read.
const CURVES: usize = 12;
/// Most points of a curve.
const POINTS: usize = 60;

/// A combination of settings, over all of its seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CombinationResult {
    /// Number within the sweep, from 1.
    pub number: i32,
    /// The value of each axis, by the axis' pointer.
    #[schema(value_type = std::collections::BTreeMap<String, Value>)]
    pub settings: Value,
    /// Place among the combinations, from 1: first those that were not dropped, then those that were dropped later; by
    /// mean top-1 among these. Null before the first evaluation.
    pub rank: Option<i64>,
    /// Mean over the seeds of the best top-1 accuracy so far, in percent. Jobs that failed do not count.
    pub top1: Option<f64>,
    /// Its standard deviation (of the sample); null for a single seed.
    pub deviation: Option<f64>,
    /// Number of jobs in the mean, without copies.
    pub n: i64,
    /// How many more there are that have the seed and the student of one of these, byte for byte: they count once.
    pub copies: i64,
    /// The best of these accuracies, in percent.
    pub best: Option<f64>,
    /// Seconds for which devices were held for its jobs.
    pub cost_seconds: f64,
    /// Epochs after which it was dropped; null while it was not.
    pub dropped_after: Option<i32>,
    /// Mean over the jobs that did not fail of the top-1 accuracy by epoch, `[epoch, percent]`, thinned so that no peak
    /// is lost; only of the first 12 combinations.
    #[schema(value_type = Vec<Vec<f64>>)]
    pub curve: Vec<(f64, f64)>,
    /// Its accuracy at each rung.
    pub rungs: Vec<RungResult>,
    /// Its jobs, by seed.
    pub jobs: Vec<MemberJob>,
}

/// A combination at a rung.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RungResult {
    /// Epochs after which it was compared.
    pub epochs: i32,
    /// Mean over the seeds of the best top-1 accuracy up to there, in percent; null if no job reached it.
    pub top1: Option<f64>,
    /// Its standard deviation (of the sample); null for fewer than two seeds.
    pub deviation: Option<f64>,
    /// Number of jobs that reached it.
    pub jobs: i32,
    /// Whether it continued.
    pub kept: bool,
}

/// A job of a combination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberJob {
    /// The job.
    pub id: String,
    /// Its seed; 0 if this version of the program cannot read it.
    pub seed: u64,
    /// Its status.
    pub status: Status,
    /// Best top-1 accuracy of its evaluations so far, in percent.
    pub best_top1: Option<f64>,
    /// Part of its training that is done, from 0 to 1.
    pub fraction: Option<f64>,
}

/// A job that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailedJob {
    /// The job.
    pub id: String,
    /// Why its last attempt failed.
    #[schema(value_type = Failure)]
    pub error: Value,
}

/// The job of a sweep that failed first.
pub async fn first_failure(pool: &PgPool, sweep: &str) -> sqlx::Result<Option<FailedJob>> {
    let query = sqlx::query_as!(
        FailedJob,
        r#"select id, readable(error) as "error!" from jobs
           where sweep_id = $1 and status = 'failed' and error is not null order by finished_at, id limit 1"#,
        sweep,
    );
    query.fetch_optional(pool).await
}

/// The combinations of a sweep, the best first. `rungs` are its epochs.
pub async fn results(pool: &PgPool, sweep: &str, rungs: &[i32]) -> sqlx::Result<Vec<CombinationResult>> {
    let rows = sqlx::query!(
        r#"
        with costs as (
            select jobs.combination, sum(jobs.devices
                * extract(epoch from coalesce(attempts.ended_at, now()) - attempts.started_at))::float8 as seconds
            from jobs join attempts on attempts.job_id = jobs.id where jobs.sweep_id = $1 group by jobs.combination)
        select number, settings::text as "settings!: ForeignJson", dropped_rung, pooled.top1 as "top1?",
            pooled.deviation as "deviation?", coalesce(pooled.n, 0) as "n!", coalesce(pooled.copies, 0) as "copies!", pooled.best as "best?",
            coalesce(costs.seconds, 0) as "cost_seconds!"
        from sweep_combinations left join pooled_accuracies($1) as pooled on pooled.combination = number
            left join costs on costs.combination = number
        where sweep_id = $1
        order by dropped_rung desc nulls first, pooled.top1 desc nulls last, number
        "#,
        sweep,
    )
    .fetch_all(pool)
    .await?;
    let (mut jobs, mut decisions) = (members(pool, sweep).await?, decisions(pool, sweep, rungs).await?);
    let first: Vec<i32> = rows.iter().map(|row| row.number).take(CURVES).collect();
    let mut curves = curves(pool, sweep, &first).await?;
    let epochs_of = |rung: i32| usize::try_from(rung).ok().and_then(|rung| rungs.get(rung).copied());
    let results = (1..).zip(rows).map(|(place, row)| CombinationResult {
        number: row.number,
        settings: Some(Value::from(row.settings)).filter(Value::is_object).unwrap_or_else(|| json!({})),
        rank: row.top1.map(|_| place),
        top1: row.top1,
        deviation: row.deviation,
        n: row.n,
        copies: row.copies,
        best: row.best,
        cost_seconds: row.cost_seconds,
        dropped_after: row.dropped_rung.and_then(epochs_of),
        curve: curves.remove(&row.number).unwrap_or_default(),
        rungs: decisions.remove(&row.number).unwrap_or_default(),
        jobs: jobs.remove(&row.number).unwrap_or_default(),
    });
    Ok(results.collect())
}

/// The mean accuracies of these combinations by epoch, to a hundredth of a percent.
async fn curves(pool: &PgPool, sweep: &str, combinations: &[i32]) -> sqlx::Result<HashMap<i32, Vec<(f64, f64)>>> {
    let rows = sqlx::query!(
        r#"
        select jobs.combination as "combination!", metrics.epoch, avg(metrics.value) as "top1!"
        from jobs join metrics on metrics.job_id = jobs.id and metrics.name = 'eval/top1'
        where jobs.sweep_id = $1 and jobs.combination = any($2) and jobs.status <> 'failed'
        group by jobs.combination, metrics.epoch order by jobs.combination, metrics.epoch
        "#,
        sweep,
        combinations,
    )
    .fetch_all(pool)
    .await?;
    let mut curves: HashMap<i32, Downsampled<(f64, f64)>> = HashMap::new();
    for (place, row) in (0..).zip(rows) {
        let point = (row.epoch, (row.top1 * 100.0).round() / 100.0);
        curves.entry(row.combination).or_insert_with(|| Downsampled::new(POINTS)).push(place, row.top1, point);
    }
    Ok(curves.into_iter().map(|(combination, curve)| (combination, curve.finish())).collect())
}

/// The jobs of each combination, by seed.
async fn members(pool: &PgPool, sweep: &str) -> sqlx::Result<HashMap<i32, Vec<MemberJob>>> {
    let rows = sqlx::query!(
        r#"
        select combination as "combination!", id, status as "status: Status", best_top1,
            greatest(coalesce(whole_number(spec #> '{training,seed}'), 0), 0) as "seed!",
            case when status = 'succeeded' then 1 else finite_number(progress -> 'fraction') end as fraction
        from jobs where sweep_id = $1 and combination is not null
        order by combination, "seed!", id
        "#,
        sweep,
    )
    .fetch_all(pool)
    .await?;
    let mut members: HashMap<i32, Vec<MemberJob>> = HashMap::new();
    for row in rows {
        let seed = row.seed.unsigned_abs();
        // Another version may have stored a number that is no part.
        let fraction = row.fraction.map(|fraction| fraction.clamp(0.0, 1.0));
        let job = MemberJob { id: row.id, seed, status: row.status, best_top1: row.best_top1, fraction };
        members.entry(row.combination).or_default().push(job);
    }
    Ok(members)
}

/// What each combination was compared by, rung by rung.
async fn decisions(pool: &PgPool, sweep: &str, rungs: &[i32]) -> sqlx::Result<HashMap<i32, Vec<RungResult>>> {
    let rows = sqlx::query!(
        "select rung, combination, top1, deviation, jobs, kept from sweep_rungs where sweep_id = $1 order by rung",
        sweep,
    )
    .fetch_all(pool)
    .await?;
    let mut decisions: HashMap<i32, Vec<RungResult>> = HashMap::new();
    for row in rows {
        let Some(epochs) = usize::try_from(row.rung).ok().and_then(|rung| rungs.get(rung)) else { continue };
        let result =
            RungResult { epochs: *epochs, top1: row.top1, deviation: row.deviation, jobs: row.jobs, kept: row.kept };
        decisions.entry(row.combination).or_default().push(result);
    }
    Ok(decisions)
}
