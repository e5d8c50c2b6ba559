//! Jobs as a list shows them: searched, sorted and cut into pages by the database, each with its curve and its
//! baseline.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::types::Json;
use utoipa::ToSchema;

use super::Status;
use super::around::around;
use super::baselines::{Baseline, Baselines, gain};
use super::settings::{self, SpecSetting};
use super::waiting::{self, Waiting};
use crate::db::downsample::Downsampled;
use crate::protocol::Progress;

/// Most points of a curve.
const CURVE: usize = 48;

/// What a list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// When the job was posted.
    #[default]
    Created,
    /// Its name.
    Name,
    /// Its status, in the order: running, pausing, cancelling, queued, paused, failed, cancelled, succeeded.
    Status,
    /// Its method.
    Method,
    /// The names of its teacher and its student.
    Pair,
    /// The share of its training that is done.
    Progress,
    /// Its best top-1 accuracy so far.
    BestTop1,
    /// Its best top-1 accuracy less its baseline.
    Gain,
    /// The time that is left of its training.
    Eta,
    /// The worker that holds it.
    Worker,
}

impl Sort {
    fn name(self) -> &'static str {
        match self {
            // Gains are not in the database: these jobs come newest first, and are sorted afterwards.
            Self::Created | Self::Gain => "created",
            Self::Name => "name",
            Self::Status => "status",
            Self::Method => "method",
            Self::Pair => "pair",
            Self::Progress => "progress",
            Self::BestTop1 => "best_top1",
            Self::Eta => "eta",
            Self::Worker => "worker",
        }
    }
}

/// Which jobs, and in which order.
#[derive(Debug, Clone, Default)]
pub struct SummaryQuery {
    /// Jobs with any of these statuses; every status if empty.
    pub statuses: Vec<Status>,
    /// Jobs with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Jobs in whose id, name, method, networks, data set or labels each of these words occurs.
    pub words: Vec<String>,
    /// Jobs with any of these ids; every job if none.
    pub ids: Option<Vec<String>>,
    /// Jobs of this sweep.
    pub sweep: Option<String>,
    /// Settings that each job comes with.
    pub columns: Vec<SpecSetting>,
    /// What to sort by. Jobs without such a value come last; of equals the newest comes first.
    pub sort: Sort,
    /// Whether the largest value comes first.
    pub is_descending: bool,
    /// How many to skip.
    pub offset: i64,
    /// How many at most; no limit if none.
    pub limit: Option<i64>,
}

/// A page of jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub data: Vec<Summary>,
    /// How many jobs of each status match, whatever statuses are asked for; [`Status::Unknown`] only if there are any.
    pub statuses: Vec<(Status, i64)>,
}

/// A job as a list shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = JobSummary)]
pub struct Summary {
    /// `job_` and a ULID: sorts by age.
    #[schema(example = "job_01KB3Z6V0Q2M5K8N1R4T7W9XYZ")]
    pub id: String,
    /// The specification's name.
    pub name: String,
    /// Which part of its life it is in.
    pub status: Status,
    /// How the student learns; a newer version of the program may know more methods than the specification's schema.
    #[schema(example = "sdd_dkd")]
    pub method: String,
    /// Architecture of the teacher, or name of an exported network; null without one.
    pub teacher: Option<String>,
    /// Architecture of the student, or name of an exported network.
    pub student: String,
    /// Name of the data set.
    pub dataset: Option<String>,
    /// For filtering.
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: Value,
    /// Decides the initial weights and the order of the images.
    pub seed: u64,
    /// How many times it was started.
    pub attempt: i32,
    /// How many times it may be started. This grows with each attempt that does not count against the `max_attempts` of
    /// the specification, and with a retry.
    pub max_attempts: i32,
    /// Where training is; null before the first step.
    #[schema(value_type = Option<Progress>)]
    pub progress: Option<Value>,
    /// Best top-1 accuracy of the evaluations so far, in percent; null before the first.
    pub best_top1: Option<f64>,
    /// The teacher's top-1 accuracy, in percent, once it is known.
    pub teacher_top1: Option<f64>,
    /// Top-1 accuracy by step, `[step, percent]`, thinned so that no peak is lost.
    #[schema(value_type = Vec<Vec<f64>>)]
    pub curve: Vec<(i64, f64)>,
    /// What its accuracy is compared with; null if there is nothing.
    pub baseline: Option<Baseline>,
    /// Best top-1 accuracy less that of the baseline, in percentage points.
    pub gain: Option<f64>,
    /// Class of the last attempt's failure.
    #[schema(example = "worker_lost")]
    pub error: Option<String>,
    /// Name of the worker that holds it.
    pub worker: Option<String>,
    /// The sweep that it belongs to; null for a job of its own.
    pub sweep: Option<String>,
    /// Values of the settings that `column` names, by their pointers; null where the specification has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Value>,
    /// When it was posted.
    pub created_at: DateTime<Utc>,
    /// When its first attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Why it does not run yet; null unless it is queued.
    pub waiting: Option<Waiting>,
    /// Seconds for which workers held it, in all of its attempts; null before the first.
    pub ran_seconds: Option<f64>,
    /// Number of jobs with its student as their teacher.
    pub students: i64,
    /// Names of up to five of them, newest first.
    pub student_names: Vec<String>,
    /// How many of them are not finished: while there are any, this job cannot be deleted.
    pub unfinished_students: i64,
}

/// Finds jobs.
pub async fn find(pool: &PgPool, query: &SummaryQuery) -> sqlx::Result<Found> {
    let (ids, counts) = match query.sort {
        // The database does not know the gains: all matching jobs are sorted here.
        Sort::Gain => {
            let (all, counts) = page(pool, &SummaryQuery { offset: 0, limit: None, ..query.clone() }).await?;
            (by_gain(pool, all, query).await?, counts)
        }
        _ => page(pool, query).await?,
    };
    let known = Status::ALL.map(|status| (status, counts.get(status.name()).copied().unwrap_or(0)));
    let others = counts.values().sum::<i64>() - known.iter().map(|(_, jobs)| jobs).sum::<i64>();
    let statuses = known.into_iter().chain((others > 0).then_some((Status::Unknown, others)));
    let mut data = summaries(pool, &ids).await?;
    let mut values = settings::values(pool, &ids, &query.columns).await?;
    for job in &mut data {
        job.settings = values.remove(&job.id).unwrap_or_default();
    }
    Ok(Found { data, statuses: statuses.collect() })
}

/// The ids of a page of jobs, and how many jobs of each status match without regard to their status.
async fn page(pool: &PgPool, query: &SummaryQuery) -> sqlx::Result<(Vec<String>, HashMap<String, i64>)> {
    let row = sqlx::query!(
        r#"
        with matching as materialized (
            select id, status,
                case $6::text
                    when 'name' then lower(name)
                    when 'method' then method
                    when 'pair' then concat(coalesce(teacher_architecture, teacher_network), ' ',
                        coalesce(student_architecture, student_network))
                    when 'worker' then coalesce((select workers.name from workers where workers.id = worker), worker)
                end as text_key,
                case $6::text
                    when 'status' then array_position(array['running', 'pausing', 'cancelling', 'queued', 'paused',
                        'failed', 'cancelled', 'succeeded'], status)::float8
                    when 'progress' then case status when 'succeeded' then 1
                        else finite_number(progress -> 'fraction') end
                    when 'best_top1' then best_top1
                    when 'eta' then case status when 'running' then finite_number(progress -> 'eta_seconds') end
                end as number_key
            from jobs
            where ($2::jsonb = '{}' or labels @> $2) and ($3::text[] is null or id = any($3))
                and ($10::text is null or sweep_id = $10)
                and (cardinality($4::text[]) = 0 or concat_ws(' ', id, name, method, teacher_architecture,
                    teacher_network, student_architecture, student_network, dataset, labels::text) ilike all($4))),
        page as (
            select id, row_number() over (order by
                number_key * case when $5 then -1 else 1 end nulls last,
                case when not $5 then text_key end nulls last,
                case when $5 then text_key end desc nulls last,
                case when $6 = 'created' and not $5 then id end nulls last,
                id desc) as place
            from matching where cardinality($1::text[]) = 0 or status = any($1)
                or ('unknown' = any($1) and status <> all($9))
            order by place offset $7 limit $8)
        select
            (select coalesce(array_agg(id order by place), '{}') from page) as "ids!",
            (select coalesce(jsonb_object_agg(status, jobs), '{}')
                from (select status, count(*) as jobs from matching group by status) as counted)
                as "statuses!: Json<HashMap<String, i64>>"
        "#,
        &query.statuses as &[Status],
        Json(&query.labels) as _,
        query.ids.as_deref(),
        &patterns(&query.words),
        query.is_descending,
        query.sort.name(),
        query.offset,
        query.limit,
        &Status::ALL as &[Status],
        query.sweep,
    )
    .fetch_one(pool)
    .await?;
    Ok((row.ids, row.statuses.0))
}

/// Patterns for `ilike all`, which match a text in which each of these words occurs.
pub(super) fn patterns(words: &[String]) -> Vec<String> {
    words.iter().map(|word| format!("%{}%", escape(word))).collect()
}

/// Escapes what `ilike` takes for a pattern.
fn escape(word: &str) -> String {
    word.chars().flat_map(|letter| ['\\', letter].into_iter().skip(usize::from(!r"%_\".contains(letter)))).collect()
}

/// The page of these jobs, which come newest first, by their gain.
async fn by_gain(pool: &PgPool, ids: Vec<String>, query: &SummaryQuery) -> sqlx::Result<Vec<String>> {
    let baselines = Baselines::read(pool, None).await?;
    let rows = sqlx::query!(
        "select id, method, recipe, teacher_key, best_top1 from jobs where id = any($1) order by id desc",
        &ids,
    )
    .fetch_all(pool)
    .await?;
    let mut gains: Vec<(Option<f64>, String)> = rows
        .into_iter()
        .map(|row| {
            let baseline = baselines.of(row.method.as_deref(), row.recipe.as_deref(), row.teacher_key.as_deref());
            (gain(row.best_top1, baseline), row.id)
        })
        .collect();
    gains.sort_by(|(one, _), (other, _)| match (one, other) {
        (Some(one), Some(other)) if query.is_descending => other.total_cmp(one),
        (Some(one), Some(other)) => one.total_cmp(other),
        _ => other.is_some().cmp(&one.is_some()),
    });
    let count = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
    let ids = gains.into_iter().map(|(_, id)| id).skip(count(query.offset));
    Ok(ids.take(query.limit.map_or(usize::MAX, count)).collect())
}

/// The jobs of these ids, in their order, without those that do not exist.
async fn summaries(pool: &PgPool, ids: &[String]) -> sqlx::Result<Vec<Summary>> {
    let rows = sqlx::query!(
        r#"
        select job.id, job.name, job.status as "status: Status", job.method, job.dataset, job.recipe, job.teacher_key,
            readable(job.labels) as "labels!", coalesce(job.student_architecture, job.student_network) as student,
            coalesce(job.teacher_architecture, job.teacher_network) as teacher, job.error ->> 'class' as error,
            readable(job.spec #> '{training,seed}') as seed, job.attempt, job.max_attempts, job.best_top1,
            coalesce(finite_number(result -> 'teacher_top1'), finite_number(job.teacher -> 'top1')) as teacher_top1,
            readable(job.progress) as progress, calendar_time(job.created_at) as "created_at!",
            calendar_time(job.started_at) as started_at, calendar_time(job.finished_at) as finished_at,
            coalesce((select workers.name from workers where workers.id = job.worker), job.worker) as worker, job.sweep_id
        from unnest($1::text[]) with ordinality as wanted (id, place) join jobs as job on job.id = wanted.id
        order by wanted.place
        "#,
        ids,
    )
    .fetch_all(pool)
    .await?;
    let recipes: Vec<String> = rows.iter().filter_map(|row| row.recipe.clone()).collect();
    let baselines = Baselines::read(pool, Some(&recipes)).await?;
    let mut curves = curves(pool, ids).await?;
    let (mut around, mut waiting) = (around(pool, ids).await?, waiting::waiting(pool, ids).await?);
    let summaries = rows.into_iter().map(|row| {
        let method = row.method.unwrap_or_default();
        let baseline = baselines.of(Some(&method), row.recipe.as_deref(), row.teacher_key.as_deref());
        let around = around.remove(&row.id).unwrap_or_default();
        Summary {
            waiting: waiting.remove(&row.id),
            ran_seconds: around.ran_seconds,
            students: around.students,
            student_names: around.student_names,
            unfinished_students: around.unfinished_students,
            curve: curves.remove(&row.id).unwrap_or_default(),
            id: row.id,
            name: row.name,
            status: row.status,
            method,
            teacher: row.teacher,
            student: row.student.unwrap_or_default(),
            dataset: row.dataset,
            labels: row.labels,
            seed: row.seed.and_then(|seed| seed.as_u64()).unwrap_or(0),
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            progress: row.progress,
            best_top1: row.best_top1,
            teacher_top1: row.teacher_top1,
            gain: gain(row.best_top1, baseline),
            baseline: baseline.cloned(),
            error: row.error,
            worker: row.worker,
            sweep: row.sweep_id,
            settings: BTreeMap::new(),
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        }
    });
    Ok(summaries.collect())
}

/// The top-1 accuracies of these jobs by step, to a hundredth of a percent.
async fn curves(pool: &PgPool, ids: &[String]) -> sqlx::Result<HashMap<String, Vec<(i64, f64)>>> {
    let mut rows = sqlx::query!(
        "select job_id, step, value from metrics where job_id = any($1) and name = 'eval/top1' order by job_id, step",
        ids,
    )
    .fetch(pool);
    let mut curves: HashMap<String, Downsampled<(i64, f64)>> = HashMap::new();
    while let Some(row) = rows.try_next().await? {
        let point = (row.step, (row.value * 100.0).round() / 100.0);
        curves.entry(row.job_id).or_insert_with(|| Downsampled::new(CURVE)).push(row.step, row.value, point);
    }
    Ok(curves.into_iter().map(|(job, curve)| (job, curve.finish())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_searched_for_is_no_pattern() {
        assert_eq!(escape(r"50%_\x"), r"50\%\_\\x");
    }
}
