//! Jobs as a list shows them: searched, sorted and cut into pages by the database, each with its curve and what it is
//! compared with.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::types::Json;
use utoipa::ToSchema;

use super::state::Status;
use super::store::status_named;
use super::thin::Thinned;
use crate::protocol::{ErrorClass, Progress};
use crate::spec::Method;

/// Points of a curve.
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
    /// The architectures of its teacher and its student.
    Pair,
    /// The share of its training that is done.
    Progress,
    /// Its best top-1 accuracy up to now.
    BestTop1,
    /// That, above its baseline.
    Gain,
    /// How long it will go on training.
    Eta,
    /// The worker that holds it.
    Worker,
}

impl Sort {
    fn name(self) -> &'static str {
        match self {
            // The gain is not in the database.
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
pub struct Query {
    /// Those of any of these statuses; of any status where empty.
    pub statuses: Vec<Status>,
    /// Those with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Those in which every one of these words occurs: in the id, name, method, architectures, data set or labels.
    pub words: Vec<String>,
    /// Those of these ids; any where none.
    pub ids: Option<Vec<String>>,
    /// What to sort by. Jobs of which that is not known come last; of equals the newest comes first.
    pub sort: Sort,
    /// Whether the largest comes first.
    pub is_descending: bool,
    /// How many to leave out at the start.
    pub offset: i64,
    /// How many at most.
    pub limit: i64,
}

/// Part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The jobs.
    pub data: Vec<Summary>,
    /// How many jobs of each status there would be, if every status were asked for.
    pub statuses: Vec<(Status, i64)>,
}

/// A job as a list shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = JobSummary)]
pub struct Summary {
    /// `job_` and a ULID: sorts by age.
    #[schema(example = "job_01KB3Z6V0Q2M5K8N1R4T7W9XYZ")]
    pub id: String,
    /// As in the specification.
    pub name: String,
    /// Where it is in its life.
    pub status: Status,
    /// How the student learns.
    pub method: Method,
    /// Architecture of the teacher; null without one.
    pub teacher: Option<String>,
    /// Architecture of the student.
    pub student: String,
    /// Name of the data set.
    pub dataset: Option<String>,
    /// For filtering.
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: Value,
    /// Decides the initial weights and the order of the images.
    pub seed: u64,
    /// How often it was started.
    pub attempt: i32,
    /// How often it may be.
    pub max_attempts: i32,
    /// Where training is; null before the first step.
    #[schema(value_type = Option<Progress>)]
    pub progress: Option<Value>,
    /// Best top-1 accuracy of the evaluations up to now, in percent; null before the first.
    pub best_top1: Option<f64>,
    /// The teacher's top-1 accuracy, in percent, once it is known.
    pub teacher_top1: Option<f64>,
    /// Top-1 accuracy by step, `[step, percent]`, thinned so that no peak is lost.
    #[schema(value_type = Vec<Vec<f64>>)]
    pub curve: Vec<(i64, f64)>,
    /// What its accuracy is compared with; null where there is nothing.
    pub baseline: Option<Baseline>,
    /// Best top-1 accuracy less that of the baseline, in percentage points.
    pub gain: Option<f64>,
    /// Why the last attempt failed.
    pub error: Option<ErrorClass>,
    /// Name of the worker that holds it.
    pub worker: Option<String>,
    /// When it was posted.
    pub created_at: DateTime<Utc>,
    /// When its first attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it came to its end.
    pub finished_at: Option<DateTime<Utc>>,
}

/// What a job's accuracy is compared with: the mean over the succeeded jobs of a simpler method that share its student,
/// data set and training, apart from the seed, and, if the method has a teacher, its teacher.
///
/// That method is the one without scales for a scale-decoupled method (`dkd` for `sdd_dkd`), or else `kd`, or else `none`:
/// the first of which a job has succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Baseline {
    /// The simpler method.
    pub method: Method,
    /// Mean of the best top-1 accuracies of its jobs, in percent.
    pub top1: f64,
    /// Their standard deviation (of the sample); null for a single job.
    pub deviation: Option<f64>,
    /// How many there are.
    pub jobs: i64,
}

/// The simpler methods that a method is compared with, the best comparison first.
fn simpler(method: Method) -> &'static [Method] {
    match method {
        Method::None => &[],
        Method::Kd => &[Method::None],
        Method::Dkd | Method::Nkd | Method::SddKd => &[Method::Kd, Method::None],
        Method::SddDkd => &[Method::Dkd, Method::Kd, Method::None],
        Method::SddNkd => &[Method::Nkd, Method::Kd, Method::None],
    }
}

fn method_named(name: Option<&str>) -> Method {
    let method = name.and_then(|name| serde_json::from_value(name.into()).ok());
    method.expect("a stored specification has a method")
}

/// What jobs share that may be compared, and with which method.
type Setting = (Option<String>, Option<String>, Method);

/// Means of all settings in question.
struct Baselines(HashMap<Setting, Baseline>);

impl Baselines {
    /// Of these recipes, or of all.
    async fn read(pool: &PgPool, recipes: Option<&[String]>) -> sqlx::Result<Self> {
        let rows = sqlx::query!(
            r#"
            select recipe, teacher_key, method, avg(best_top1) as "top1!", stddev_samp(best_top1) as deviation,
                count(*) as "jobs!"
            from jobs
            where status = 'succeeded' and best_top1 is not null and ($1::text[] is null or recipe = any($1))
            group by recipe, teacher_key, method
            "#,
            recipes,
        )
        .fetch_all(pool)
        .await?;
        let baselines = rows.into_iter().map(|row| {
            let method = method_named(row.method.as_deref());
            let baseline = Baseline { method, top1: row.top1, deviation: row.deviation, jobs: row.jobs };
            ((row.recipe, row.teacher_key, method), baseline)
        });
        Ok(Self(baselines.collect()))
    }

    fn of(&self, method: Method, recipe: Option<&str>, teacher: Option<&str>) -> Option<&Baseline> {
        simpler(method).iter().find_map(|&simpler| {
            let teacher = teacher.filter(|_| simpler != Method::None);
            self.0.get(&(recipe.map(str::to_owned), teacher.map(str::to_owned), simpler))
        })
    }
}

/// Looks for jobs.
///
/// # Errors
/// Those of the database.
pub async fn find(pool: &PgPool, query: &Query) -> sqlx::Result<Found> {
    // What the database cannot sort by is sorted here.
    let is_by_gain = query.sort == Sort::Gain;
    let (offset, limit) = if is_by_gain { (0, None) } else { (query.offset, Some(query.limit)) };
    let statuses: Vec<String> = query.statuses.iter().map(|status| status.name().to_owned()).collect();
    let row = sqlx::query!(
        r#"
        with matching as materialized (
            select id, status,
                case $6::text
                    when 'name' then lower(name)
                    when 'method' then method
                    when 'pair' then concat(teacher_architecture, ' ', student_architecture)
                    when 'worker' then coalesce((select workers.name from workers where workers.id = worker), worker)
                end as text_key,
                case $6::text
                    when 'status' then array_position(array['running', 'pausing', 'cancelling', 'queued', 'paused',
                        'failed', 'cancelled', 'succeeded'], status)::float8
                    when 'progress' then case status when 'succeeded' then 1
                        else (progress ->> 'fraction')::float8 end
                    when 'best_top1' then best_top1
                    when 'eta' then case status when 'running' then (progress ->> 'eta_seconds')::float8 end
                end as number_key
            from jobs
            where ($2::jsonb = '{}' or labels @> $2) and ($3::text[] is null or id = any($3))
                and (cardinality($4::text[]) = 0 or concat_ws(' ', id, name, method, teacher_architecture,
                    student_architecture, dataset, labels::text) ilike all($4))),
        page as (
            select id, row_number() over (order by
                number_key * case when $5 then -1 else 1 end nulls last,
                case when not $5 then text_key end nulls last,
                case when $5 then text_key end desc nulls last,
                case when $6 = 'created' and not $5 then id end nulls last,
                id desc) as place
            from matching where cardinality($1::text[]) = 0 or status = any($1)
            order by place offset $7 limit $8)
        select
            (select coalesce(array_agg(id order by place), '{}') from page) as "ids!",
            (select coalesce(jsonb_object_agg(status, jobs), '{}')
                from (select status, count(*) as jobs from matching group by status) as counted)
                as "statuses!: Json<HashMap<String, i64>>"
        "#,
        &statuses,
        Json(&query.labels) as _,
        query.ids.as_deref(),
        &patterns(&query.words),
        query.is_descending,
        query.sort.name(),
        offset,
        limit,
    )
    .fetch_one(pool)
    .await?;
    let ids = if is_by_gain { by_gain(pool, row.ids, query).await? } else { row.ids };
    let statuses =
        Status::ALL.into_iter().map(|status| (status, row.statuses.get(status.name()).copied().unwrap_or(0)));
    Ok(Found { data: summaries(pool, &ids).await?, statuses: statuses.collect() })
}

/// What `ilike` takes to find texts in which each of these words occurs.
pub(super) fn patterns(words: &[String]) -> Vec<String> {
    words.iter().map(|word| format!("%{}%", escape(word))).collect()
}

/// `%`, `_` and `\` stand for themselves.
fn escape(word: &str) -> String {
    word.chars().flat_map(|letter| ['\\', letter].into_iter().skip(usize::from(!r"%_\".contains(letter)))).collect()
}

/// A page of the jobs, newest first as they come, by their gain.
async fn by_gain(pool: &PgPool, ids: Vec<String>, query: &Query) -> sqlx::Result<Vec<String>> {
    let baselines = Baselines::read(pool, None).await?;
    let rows = sqlx::query!(
        "select id, method, recipe, teacher_key, best_top1 from jobs where id = any($1) order by id desc",
        &ids
    )
    .fetch_all(pool)
    .await?;
    let mut gains: Vec<(Option<f64>, String)> = rows
        .into_iter()
        .map(|row| {
            let method = method_named(row.method.as_deref());
            let baseline = baselines.of(method, row.recipe.as_deref(), row.teacher_key.as_deref());
            (gain(row.best_top1, baseline), row.id)
        })
        .collect();
    gains.sort_by(|(one, _), (other, _)| match (one, other) {
        (Some(one), Some(other)) if query.is_descending => other.total_cmp(one),
        (Some(one), Some(other)) => one.total_cmp(other),
        _ => other.is_some().cmp(&one.is_some()),
    });
    let place = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
    Ok(gains.into_iter().map(|(_, id)| id).skip(place(query.offset)).take(place(query.limit)).collect())
}

fn gain(best_top1: Option<f64>, baseline: Option<&Baseline>) -> Option<f64> {
    Some(best_top1? - baseline?.top1)
}

/// The jobs of these ids that there are, in their order.
async fn summaries(pool: &PgPool, ids: &[String]) -> sqlx::Result<Vec<Summary>> {
    let rows = sqlx::query!(
        r#"
        select job.id, job.name, job.status, job.method, job.student_architecture, job.dataset, job.labels,
            job.teacher_architecture as teacher, job.spec #> '{training,seed}' as "seed: Json<u64>", job.attempt,
            job.max_attempts, job.progress, job.best_top1,
            coalesce(job.result ->> 'teacher_top1', job.teacher ->> 'top1')::float8 as teacher_top1,
            job.error -> 'class' as "error: Json<ErrorClass>", job.recipe, job.teacher_key,
            coalesce((select workers.name from workers where workers.id = job.worker), job.worker) as worker,
            job.created_at, job.started_at, job.finished_at
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
    let summaries = rows.into_iter().map(|row| {
        let method = method_named(row.method.as_deref());
        let baseline = baselines.of(method, row.recipe.as_deref(), row.teacher_key.as_deref());
        Summary {
            curve: curves.remove(&row.id).unwrap_or_default(),
            id: row.id,
            name: row.name,
            status: status_named(&row.status),
            method,
            teacher: row.teacher,
            student: row.student_architecture.unwrap_or_default(),
            dataset: row.dataset,
            labels: row.labels,
            seed: row.seed.map_or(0, |seed| seed.0),
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            progress: row.progress,
            best_top1: row.best_top1,
            teacher_top1: row.teacher_top1,
            gain: gain(row.best_top1, baseline),
            baseline: baseline.cloned(),
            error: row.error.map(|class| class.0),
            worker: row.worker,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        }
    });
    Ok(summaries.collect())
}

/// The evaluations of these jobs, to a hundredth of a percent.
async fn curves(pool: &PgPool, ids: &[String]) -> sqlx::Result<HashMap<String, Vec<(i64, f64)>>> {
    let mut rows = sqlx::query!(
        "select job_id, step, value from metrics where job_id = any($1) and name = 'eval/top1' order by job_id, step",
        ids,
    )
    .fetch(pool);
    let mut curves: HashMap<String, Thinned<(i64, f64)>> = HashMap::new();
    while let Some(row) = rows.try_next().await? {
        let point = (row.step, (row.value * 100.0).round() / 100.0);
        curves.entry(row.job_id).or_insert_with(|| Thinned::new(CURVE)).push(row.step, row.value, point);
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

    #[test]
    fn a_scale_decoupled_method_is_compared_with_its_own_base_first() {
        for method in [Method::SddKd, Method::SddDkd, Method::SddNkd] {
            let first = simpler(method)[0];
            assert_eq!((first.base(), first.is_scale_decoupled()), (method.base(), false));
        }
        for method in [Method::Kd, Method::Dkd, Method::Nkd, Method::SddKd, Method::SddDkd, Method::SddNkd] {
            assert_eq!(simpler(method).last(), Some(&Method::None));
            assert!(!simpler(method).contains(&method));
        }
    }
}
