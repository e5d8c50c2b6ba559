//! What the API does to jobs: create, read, change on request, delete.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use utoipa::ToSchema;

use super::queue::fail_dependents;
use super::state::{Change, Status};
use super::{EventKind, NewEvent, append_events};
use crate::protocol::{Evaluation, Failure, Outcome, Progress};
use crate::spec::JobSpec;

/// A job as its user sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// `job_` and a ULID: sorts by age.
    #[schema(example = "job_01KB3Z6V0Q2M5K8N1R4T7W9XYZ")]
    pub id: String,
    /// As in the specification.
    pub name: String,
    /// Where it is in its life.
    pub status: Status,
    /// The specification with every default filled in.
    #[schema(value_type = JobSpec)]
    pub spec: Value,
    /// Higher runs first.
    pub priority: i32,
    /// For filtering.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub labels: Value,
    /// How often it was started.
    pub attempt: i32,
    /// How often it may be.
    pub max_attempts: i32,
    /// Where training is; null before the first step.
    #[schema(value_type = Option<Progress>)]
    pub progress: Option<Value>,
    /// The teacher's evaluation, known before the result.
    #[schema(value_type = Option<Evaluation>)]
    pub teacher: Option<Value>,
    /// What training came to; null until the job has succeeded.
    #[schema(value_type = Option<Outcome>)]
    pub result: Option<Value>,
    /// Why the last attempt failed.
    #[schema(value_type = Option<Failure>)]
    pub error: Option<Value>,
    /// Name of the worker that holds it.
    pub worker: Option<String>,
    /// When it was posted.
    pub created_at: DateTime<Utc>,
    /// When its first attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it came to its end.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A new job's parts.
#[derive(Debug)]
pub struct NewJob<'a> {
    /// The specification, resolved.
    pub spec: &'a JobSpec,
    /// The JSON document that was sent.
    pub submitted: &'a str,
    /// The key under which it was sent, and the SHA-256 of what was sent, in hexadecimal.
    pub idempotency: Option<(&'a str, &'a str)>,
    /// What its history begins with that somebody should look at.
    pub warning: Option<&'a str>,
}

/// What became of a new job.
#[derive(Debug)]
pub enum Created {
    /// It is queued.
    New(Job),
    /// The key was used before, with these bytes: this is its job.
    Replay(Job),
    /// The key was used before, with other bytes, for the job of this id.
    KeyTaken(String),
    /// A checkpoint or a teacher's job that it names was deleted just now.
    NeedsGone,
}

/// What became of a request to change something.
#[derive(Debug)]
pub enum Answer<T> {
    /// It is done.
    Done(T),
    /// There is no such thing.
    Missing,
    /// A job of this status cannot.
    NotWhile(Status),
    /// It cannot, for this reason.
    Not(String),
}

impl<T> Answer<T> {
    /// The same refusal, where something else would have been done.
    pub(super) fn instead<U>(self) -> Answer<U> {
        match self {
            Self::Done(_) => unreachable!("what is done is no refusal"),
            Self::Missing => Answer::Missing,
            Self::NotWhile(status) => Answer::NotWhile(status),
            Self::Not(reason) => Answer::Not(reason),
        }
    }
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those of any of these statuses; of any status where empty.
    pub statuses: Vec<Status>,
    /// Those with all of these labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Those older than this one.
    pub after: Option<String>,
}

/// A job's row as every query here reads it.
struct Row {
    id: String,
    name: String,
    status: String,
    spec: Value,
    priority: i32,
    labels: Value,
    attempt: i32,
    max_attempts: i32,
    progress: Option<Value>,
    teacher: Option<Value>,
    result: Option<Value>,
    error: Option<Value>,
    worker: Option<String>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

impl From<Row> for Job {
    fn from(row: Row) -> Self {
        let status = status_named(&row.status);
        let Row { id, name, spec, priority, labels, attempt, max_attempts, .. } = row;
        let Row { progress, teacher, result, error, worker, created_at, started_at, finished_at, .. } = row;
        Self {
            id,
            name,
            status,
            spec,
            priority,
            labels,
            attempt,
            max_attempts,
            progress,
            teacher,
            result,
            error,
            worker,
            created_at,
            started_at,
            finished_at,
        }
    }
}

pub(super) fn status_named(name: &str) -> Status {
    Status::from_name(name).expect("the column's check allows only names of statuses")
}

/// A fresh id. Those of one process ascend even within a millisecond, so that jobs posted one after the other run and
/// list in that order.
fn new_id() -> String {
    static GENERATOR: Mutex<ulid::Generator> = Mutex::new(ulid::Generator::new());
    let mut generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    let ulid = match generator.generate() {
        Ok(ulid) => ulid,
        Err(overflow) => overflow.commit_overflow_increment(),
    };
    format!("job_{ulid}")
}

/// Stores a job with the checkpoints that it needs and the first entry of its history.
///
/// # Errors
/// Those of the database.
pub async fn create(pool: &PgPool, new: &NewJob<'_>) -> sqlx::Result<Created> {
    loop {
        let mut transaction = pool.begin().await?;
        match insert(&mut transaction, new).await {
            Ok(Some(job)) => {
                transaction.commit().await?;
                return Ok(Created::New(job));
            }
            Ok(None) => {}
            Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => return Ok(Created::NeedsGone),
            Err(error) => return Err(error),
        }
        drop(transaction);
        // The key's job was committed before the insertion gave up, so it is there, unless it was deleted since.
        let (key, sha256) = new.idempotency.expect("only a key can be taken");
        if let Some(created) = find_by_key(pool, key, sha256).await? {
            return Ok(created);
        }
    }
}

/// None where the idempotency key is taken.
async fn insert(connection: &mut PgConnection, new: &NewJob<'_>) -> sqlx::Result<Option<Job>> {
    let NewJob { spec, submitted, idempotency, warning } = *new;
    let max_attempts = i32::try_from(spec.max_attempts).unwrap_or(i32::MAX);
    let teacher_job = spec.teacher.as_ref().and_then(|teacher| teacher.job.as_deref());
    let row = sqlx::query_as!(
        Row,
        r#"
        insert into jobs (id, name, spec, priority, labels, max_attempts, teacher_job, idempotency_key, request_sha256,
            submitted)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::json)
        on conflict (idempotency_key) do nothing
        returning id, name, status, spec, priority, labels, attempt, max_attempts, progress, teacher, result, error,
            worker, created_at, started_at, finished_at
        "#,
        new_id(),
        spec.name,
        Json(spec) as _,
        spec.priority,
        Json(&spec.labels) as _,
        max_attempts,
        teacher_job,
        idempotency.map(|(key, _)| key),
        idempotency.map(|(_, sha256)| sha256),
        submitted,
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(job) = row.map(Job::from) else { return Ok(None) };
    need_checkpoints(connection, &job.id, &needed_checkpoints(spec)).await?;
    let warning = warning.map(|message| NewEvent { kind: EventKind::Warning, message: message.to_owned(), data: None });
    let events: Vec<NewEvent> = [NewEvent::status(Status::Queued, "queued")].into_iter().chain(warning).collect();
    append_events(connection, &job.id, &events).await?;
    Ok(Some(job))
}

/// The uploaded checkpoints that a specification names.
fn needed_checkpoints(spec: &JobSpec) -> Vec<String> {
    let teacher = spec.teacher.as_ref().and_then(|teacher| teacher.checkpoint.clone());
    let mut needed: Vec<String> = teacher.into_iter().chain(spec.student.checkpoint.clone()).collect();
    needed.dedup();
    needed
}

async fn need_checkpoints(connection: &mut PgConnection, job: &str, needed: &[String]) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into job_checkpoints (job_id, checkpoint_id) select $1, unnest($2::text[]) on conflict do nothing",
        job,
        needed,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What an idempotency key was used for, if it was.
///
/// # Errors
/// Those of the database.
pub async fn find_by_key(pool: &PgPool, key: &str, sha256: &str) -> sqlx::Result<Option<Created>> {
    let query = sqlx::query!("select id, request_sha256 from jobs where idempotency_key = $1", key);
    let Some(found) = query.fetch_optional(pool).await? else { return Ok(None) };
    if found.request_sha256.as_deref() != Some(sha256) {
        return Ok(Some(Created::KeyTaken(found.id)));
    }
    Ok(get(pool, &found.id).await?.map(Created::Replay))
}

/// One job.
///
/// # Errors
/// Those of the database.
pub async fn get(pool: &PgPool, id: &str) -> sqlx::Result<Option<Job>> {
    Ok(list_where(pool, &[id.to_owned()]).await?.pop())
}

/// The document that a job was posted with, as it was sent. None where there is no such job or it was not kept.
///
/// # Errors
/// Those of the database.
pub async fn submitted(pool: &PgPool, id: &str) -> sqlx::Result<Option<String>> {
    let query = sqlx::query_scalar!("select submitted::text from jobs where id = $1", id);
    Ok(query.fetch_optional(pool).await?.flatten())
}

/// Those of the jobs that there are, newest first.
///
/// # Errors
/// Those of the database.
pub async fn list_where(pool: &PgPool, ids: &[String]) -> sqlx::Result<Vec<Job>> {
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, name, status, spec, priority, labels, attempt, max_attempts, progress, teacher, result, error,
            coalesce((select workers.name from workers where workers.id = worker), worker) as worker, created_at,
            started_at, finished_at
        from jobs where id = any($1) order by id desc
        "#,
        ids,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Job::from).collect())
}

/// Jobs, newest first.
///
/// # Errors
/// Those of the database.
pub async fn list(pool: &PgPool, filter: &Filter, limit: i64) -> sqlx::Result<Vec<Job>> {
    let statuses: Vec<String> = filter.statuses.iter().map(|status| status.name().to_owned()).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, name, status, spec, priority, labels, attempt, max_attempts, progress, teacher, result, error,
            coalesce((select workers.name from workers where workers.id = worker), worker) as worker, created_at,
            started_at, finished_at
        from jobs
        where (cardinality($1::text[]) = 0 or status = any($1)) and ($2::jsonb = '{}' or labels @> $2)
            and ($3::text is null or id < $3)
        order by id desc limit $4
        "#,
        &statuses,
        Json(&filter.labels) as _,
        filter.after,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Job::from).collect())
}

/// The database's clock, and the ids of the jobs that are under way or ended since a time on it.
///
/// # Errors
/// Those of the database.
pub async fn current(pool: &PgPool, since: Option<DateTime<Utc>>) -> sqlx::Result<(DateTime<Utc>, Vec<String>)> {
    let row = sqlx::query!(
        r#"
        select now() as "now!", coalesce(array_agg(id order by id desc) filter (where id is not null), '{}') as "ids!"
        from jobs where finished_at is null or finished_at >= $1
        "#,
        since,
    )
    .fetch_one(pool)
    .await?;
    Ok((row.now, row.ids))
}

/// Makes the change that a user asked for, in the order in which such requests come to the job's row.
///
/// # Errors
/// Those of the database.
pub async fn change(pool: &PgPool, id: &str, change: Change) -> sqlx::Result<Answer<Job>> {
    let mut transaction = pool.begin().await?;
    match change_in(&mut transaction, id, change).await? {
        Answer::Done(()) => transaction.commit().await?,
        refused => {
            // At once: a worker passes over a locked job.
            transaction.rollback().await?;
            return Ok(refused.instead());
        }
    }
    Ok(get(pool, id).await?.map_or(Answer::Missing, Answer::Done))
}

async fn change_in(connection: &mut PgConnection, id: &str, change: Change) -> sqlx::Result<Answer<()>> {
    let Some(before) = lock(connection, id).await? else { return Ok(Answer::Missing) };
    let Some(after) = before.after(change) else { return Ok(Answer::NotWhile(before)) };
    if after == before {
        return Ok(Answer::Done(()));
    }
    if change == Change::Retry
        && let Some(reason) = need_again(connection, id).await?
    {
        return Ok(Answer::Not(reason));
    }
    set_status(connection, id, after, change == Change::Retry).await?;
    let event = NewEvent::status(after, format!("{} on request", after.name()));
    append_events(connection, id, &[event]).await?;
    if after.is_final() {
        fail_dependents(connection).await?;
    }
    Ok(Answer::Done(()))
}

async fn lock(connection: &mut PgConnection, id: &str) -> sqlx::Result<Option<Status>> {
    let query = sqlx::query_scalar!("select status from jobs where id = $1 for update", id);
    Ok(query.fetch_optional(connection).await?.map(|name| status_named(&name)))
}

/// A lease stays as it is: none of these changes gives a job to a worker or takes it away. A job that is tried again
/// may be started as often as a new one.
async fn set_status(connection: &mut PgConnection, id: &str, status: Status, again: bool) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update jobs set
            status = $2,
            finished_at = case when $3 then now() end,
            run_after = case when $2 = 'queued' then now() else run_after end,
            error = case when $2 = 'queued' then null else error end,
            max_attempts = case when $4 then attempt + (spec ->> 'max_attempts')::integer else max_attempts end
        where id = $1
        "#,
        id,
        status.name(),
        status.is_final(),
        again,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What a finished job needed may have been deleted since; what is still there is needed again. Says what is not.
async fn need_again(connection: &mut PgConnection, id: &str) -> sqlx::Result<Option<String>> {
    let query = sqlx::query_scalar!(r#"select spec as "spec: Json<JobSpec>" from jobs where id = $1"#, id);
    let spec = query.fetch_one(&mut *connection).await?.0;
    let needed = needed_checkpoints(&spec);
    let query = sqlx::query_scalar!("select id from checkpoints where id = any($1) for key share", &needed);
    let found = query.fetch_all(&mut *connection).await?;
    if let Some(gone) = needed.iter().find(|id| !found.contains(id)) {
        return Ok(Some(format!("its checkpoint {gone} has been deleted: upload it again first")));
    }
    need_checkpoints(connection, id, &needed).await?;
    let Some(teacher) = spec.teacher.and_then(|teacher| teacher.job) else { return Ok(None) };
    let query = sqlx::query_scalar!("select status from jobs where id = $1 for key share", teacher);
    match query.fetch_optional(&mut *connection).await?.map(|name| status_named(&name)) {
        None => return Ok(Some(format!("its teacher's job {teacher} has been deleted"))),
        Some(status @ (Status::Failed | Status::Cancelled)) => {
            return Ok(Some(format!("its teacher's job {teacher} is {}: retry that one first", status.name())));
        }
        Some(_) => {}
    }
    sqlx::query!("update jobs set teacher_job = $2 where id = $1", id, teacher).execute(connection).await?;
    Ok(None)
}

/// A job that is being deleted: nobody else can change it, and dropping this leaves it as it was.
#[derive(Debug)]
pub struct Deletion {
    transaction: Transaction<'static, Postgres>,
}

impl Deletion {
    /// Makes it so.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn commit(self) -> sqlx::Result<()> {
        self.transaction.commit().await
    }
}

/// Begins to delete a finished job, so that its files can be deleted before its row is gone for good.
///
/// # Errors
/// Those of the database.
pub async fn delete(pool: &PgPool, id: &str) -> sqlx::Result<Answer<Deletion>> {
    let mut transaction = pool.begin().await?;
    match delete_in(&mut transaction, id).await? {
        Answer::Done(()) => Ok(Answer::Done(Deletion { transaction })),
        refused => {
            transaction.rollback().await?;
            Ok(refused.instead())
        }
    }
}

async fn delete_in(connection: &mut PgConnection, id: &str) -> sqlx::Result<Answer<()>> {
    let Some(status) = lock(connection, id).await? else { return Ok(Answer::Missing) };
    if !status.is_final() {
        return Ok(Answer::NotWhile(status));
    }
    let query = sqlx::query_scalar!(
        "select id from jobs where teacher_job = $1 and status not in ('succeeded', 'failed', 'cancelled') limit 1",
        id,
    );
    if let Some(student) = query.fetch_optional(&mut *connection).await? {
        return Ok(Answer::Not(format!("job {student}, which is not finished, needs its student as a teacher")));
    }
    // Finished jobs keep the name of their teacher in their specification.
    sqlx::query!("update jobs set teacher_job = null where teacher_job = $1", id).execute(&mut *connection).await?;
    sqlx::query!("delete from jobs where id = $1", id).execute(&mut *connection).await?;
    sqlx::query!("select pg_notify('distillery_job', $1) as sent", id).execute(&mut *connection).await?;
    Ok(Answer::Done(()))
}

/// Numbers for an overview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Jobs of each status.
    pub jobs: Vec<(Status, i64)>,
    /// Queued jobs that a worker could take now.
    pub ready: i64,
    /// Workers that are alive and hold a job.
    pub busy_workers: i64,
    /// Workers that are alive and hold none.
    pub idle_workers: i64,
}

/// Counts jobs and workers.
///
/// # Errors
/// Those of the database.
pub async fn totals(pool: &PgPool) -> sqlx::Result<Totals> {
    let counted =
        sqlx::query!(r#"select status, count(*) as "jobs!" from jobs group by status"#).fetch_all(pool).await?;
    let jobs_of = |status: Status| counted.iter().find(|row| row.status == status.name()).map_or(0, |row| row.jobs);
    let row = sqlx::query!(
        r#"
        select
            (select count(*) from jobs left join jobs as teachers on teachers.id = jobs.teacher_job
                where jobs.status = 'queued' and jobs.run_after <= now()
                    and (jobs.teacher_job is null or teachers.status = 'succeeded')) as "ready!",
            count(*) as "alive!",
            count(*) filter (where exists (
                select from jobs where lease_expires_at is not null and worker = workers.id)) as "busy!"
        from workers where heartbeat_at > now() - interval '1 minute'
        "#,
    )
    .fetch_one(pool)
    .await?;
    Ok(Totals {
        jobs: Status::ALL.into_iter().map(|status| (status, jobs_of(status))).collect(),
        ready: row.ready,
        busy_workers: row.busy,
        idle_workers: row.alive - row.busy,
    })
}

/// Asks the database for anything.
///
/// # Errors
/// When it does not answer.
pub async fn ping(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::query!("select 1 as one").fetch_one(pool).await?;
    Ok(())
}

/// A file that a job wrote and published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Artifact {
    /// Its name.
    #[schema(example = "student.safetensors")]
    pub name: String,
    /// Size in bytes.
    pub size_bytes: i64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
    /// Where storage has it.
    #[serde(skip)]
    pub key: String,
}

/// The files that a job has published, by name.
///
/// # Errors
/// Those of the database.
pub async fn artifacts(pool: &PgPool, job: &str) -> sqlx::Result<Vec<Artifact>> {
    sqlx::query_as!(
        Artifact,
        r#"
        select artifacts.name, size_bytes, sha256, artifacts.created_at, key
        from artifacts join jobs on jobs.id = job_id and published_attempt = artifacts.attempt
        where job_id = $1 order by artifacts.name
        "#,
        job,
    )
    .fetch_all(pool)
    .await
}
