//! New jobs.

use std::sync::{Mutex, PoisonError};

use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::{Job, Status};
use crate::db::datasets::StoredDataset;
use crate::db::events::{self, EventKind, NewEvent};
use crate::spec::{JobSpec, TeacherSource, TeacherSpec};

/// What a new job is made of.
#[derive(Debug)]
pub struct NewJob<'a> {
    /// The specification, resolved.
    pub spec: &'a JobSpec,
    /// The JSON document that was sent.
    pub submitted: &'a str,
    /// The idempotency key, and the SHA-256 of the bytes that were sent with it, in hexadecimal.
    pub idempotency: Option<(&'a str, &'a str)>,
    /// Warnings that the history begins with.
    pub warnings: &'a [String],
    /// Lines that it begins with, too.
    pub notes: &'a [String],
    /// The [fingerprint](crate::dataset::fingerprint) of the data set, which a worker's copy must have; `None` if any
    /// will do.
    pub dataset_fingerprint: Option<&'a str>,
    /// The data set, if it was uploaded.
    pub dataset: Option<&'a StoredDataset>,
    /// What lists call networks without an architecture.
    pub networks: NetworkNames<'a>,
    /// Names of the webhooks that are told when the job has ended.
    pub webhooks: &'a [String],
}

/// Names of exported networks, for people.
#[derive(Debug, Clone, Copy, Default)]
pub struct NetworkNames<'a> {
    pub teacher: Option<&'a str>,
    pub student: Option<&'a str>,
}

/// The place of a new job in a sweep.
#[derive(Debug)]
pub struct SweepMember<'a> {
    pub sweep: &'a str,
    pub combination: i32,
    /// Epochs after which it is compared with the others; `None` if it trains to its end.
    pub pause_after: Option<i32>,
}

/// The outcome of a request for a new job.
#[derive(Debug)]
pub enum Created {
    /// The job is queued.
    New(Job),
    /// The key came with these bytes before: this is its job.
    Replay(Job),
    /// The key came with other bytes before, for the job of this id.
    KeyTaken(String),
    /// A checkpoint, a data set or a teacher's job that it names was deleted while the job was stored.
    NeedsGone,
}

/// A new id. The ids of one process ascend even within a millisecond, so that jobs posted one after the other run and
/// are listed in that order.
fn new_id() -> String {
    static GENERATOR: Mutex<ulid::Generator> = Mutex::new(ulid::Generator::new());
    let mut generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    let ulid = match generator.generate() {
        Ok(ulid) => ulid,
        Err(overflow) => overflow.commit_overflow_increment(),
    };
    format!("job_{ulid}")
}

/// Stores a job, with the checkpoints that it needs and the first events of its history.
pub async fn create(pool: &PgPool, new: &NewJob<'_>) -> sqlx::Result<Created> {
    loop {
        let mut transaction = pool.begin().await?;
        match insert(&mut transaction, new, None).await {
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

/// None if the idempotency key is taken.
pub(in crate::db) async fn insert(
    connection: &mut PgConnection,
    new: &NewJob<'_>,
    member: Option<&SweepMember<'_>>,
) -> sqlx::Result<Option<Job>> {
    let NewJob { spec, submitted, idempotency, warnings, notes, dataset_fingerprint, dataset, networks, webhooks } =
        *new;
    let max_attempts = i32::try_from(spec.max_attempts).unwrap_or(i32::MAX);
    let teacher_job = spec.teacher.as_ref().and_then(TeacherSpec::job);
    let job = sqlx::query_as!(
        Job,
        r#"
        insert into jobs (id, name, spec, priority, labels, max_attempts, teacher_job, idempotency_key, request_sha256,
            submitted, spec_version, dataset_fingerprint, teacher_network, student_network, webhooks, dataset_id,
            dataset_bytes, sweep_id, combination, pause_after)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::json, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
        on conflict (idempotency_key) do nothing
        returning id, name, status as "status: Status", spec, priority, labels, attempt, max_attempts, progress,
            teacher, result, error, worker, created_at, started_at, finished_at, teacher_network, student_network,
            notes, webhooks, sweep_id as sweep
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
        spec.version(),
        dataset_fingerprint,
        networks.teacher,
        networks.student,
        webhooks,
        dataset.map(|dataset| dataset.id.as_str()),
        dataset.map(|dataset| dataset.unpacked_bytes),
        member.map(|member| member.sweep),
        member.map(|member| member.combination),
        member.and_then(|member| member.pause_after),
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(job) = job else { return Ok(None) };
    let needed = needed_checkpoints(connection, spec).await?;
    need_checkpoints(connection, &job.id, &needed).await?;
    let line = |kind, message: &String| NewEvent { kind, message: message.clone(), data: None };
    let warnings = warnings.iter().map(|message| line(EventKind::Warning, message));
    let notes = notes.iter().map(|message| line(EventKind::Log, message));
    let queued = NewEvent::status(Status::Queued, "queued");
    let first: Vec<NewEvent> = [queued].into_iter().chain(warnings).chain(notes).collect();
    events::append(connection, &job.id, &first).await?;
    Ok(Some(job))
}

/// The uploaded checkpoints that a job needs: those that its specification names, and that of an exported network which
/// another job has trained for it.
pub(super) async fn needed_checkpoints(connection: &mut PgConnection, spec: &JobSpec) -> sqlx::Result<Vec<String>> {
    let teacher = spec.teacher.as_ref().and_then(TeacherSpec::checkpoint).map(str::to_owned);
    let network = match &spec.teacher {
        Some(TeacherSpec { architecture: None, source: TeacherSource::Job(job), .. }) => {
            network_of(&mut *connection, job).await?
        }
        _ => None,
    };
    let mut needed: Vec<_> = teacher.into_iter().chain(network).chain(spec.student.checkpoint.clone()).collect();
    needed.dedup();
    Ok(needed)
}

/// The checkpoint with the exported network that is the student of a job; `None` if it is another network, or there is
/// no such job.
pub async fn network_of(executor: impl PgExecutor<'_>, job: &str) -> sqlx::Result<Option<String>> {
    let query = sqlx::query_scalar!(
        "select spec #>> '{student,checkpoint}' from jobs where id = $1 and student_architecture is null",
        job,
    );
    Ok(query.fetch_optional(executor).await?.flatten())
}

/// Keeps checkpoints from being deleted as long as the job is not finished.
pub(super) async fn need_checkpoints(connection: &mut PgConnection, job: &str, needed: &[String]) -> sqlx::Result<()> {
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
pub async fn find_by_key(pool: &PgPool, key: &str, sha256: &str) -> sqlx::Result<Option<Created>> {
    let query = sqlx::query!("select id, request_sha256 from jobs where idempotency_key = $1", key);
    let Some(found) = query.fetch_optional(pool).await? else { return Ok(None) };
    if found.request_sha256.as_deref() != Some(sha256) {
        return Ok(Some(Created::KeyTaken(found.id)));
    }
    Ok(super::get(pool, &found.id).await?.map(Created::Replay))
}
