//! What a worker does to jobs.
//!
//! A claim raises the job's attempt number and sets a lease on the database's clock. Every later write names the
//! attempt and changes nothing unless it is still the one that holds the job (the fence): such a function answers
//! `false` or `None`. A [`Write`] that comes again, since the answer was lost with a connection, counts once. Which status follows which is for [`Status::after`] alone to say.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::postgres::types::PgInterval;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::state::{Change, Status};
use super::{EventKind, NewEvent, append_events, storable};
use crate::protocol::{ErrorClass, Evaluation, Failure, Level, Outcome, Point, Progress, Started};
use crate::spec::JobSpec;

/// The right to write about a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The job.
    pub job: String,
    /// The attempt that holds it.
    pub attempt: i32,
}

impl Hold {
    /// A new write, to be sent until there is an answer.
    #[must_use]
    pub fn write(&self) -> Write {
        Write { hold: self.clone(), id: ulid::Ulid::generate().to_string() }
    }
}

/// One write of an attempt. An attempt makes one after the other, so that it is enough to know the last to know one that
/// comes again.
#[derive(Debug, Clone)]
pub struct Write {
    hold: Hold,
    id: String,
}

/// A job that was taken from the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The right to write about it.
    pub hold: Hold,
    /// What to do.
    pub spec: JobSpec,
    /// Where an earlier attempt got to.
    pub checkpoint: Option<SavedCheckpoint>,
}

/// A stored state to resume from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedCheckpoint {
    /// The attempt that wrote it.
    pub attempt: i32,
    /// Epochs done.
    pub epoch: u32,
    /// Steps done.
    pub step: u64,
    /// Where storage has it.
    pub key: String,
    /// Its SHA-256, in hexadecimal; unknown for what an earlier version stored.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Its size; unknown for what an earlier version stored.
    #[serde(default)]
    pub size_bytes: Option<u64>,
}

/// A stored file of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its name for users.
    pub name: String,
    /// Where storage has it.
    pub key: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// What a trainer reported in a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// The latest progress.
    pub progress: Option<Progress>,
    /// New points, in order.
    pub points: Vec<Point>,
    /// Lines for the history.
    pub logs: Vec<(Level, String)>,
}

/// A worker's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// All of them.
    pub devices: i32,
    /// Those that no job uses now.
    pub free: i32,
}

impl Room {
    /// A worker with one device and nothing to do.
    pub const ONE: Self = Self { devices: 1, free: 1 };
}

fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}

/// Takes the most urgent job whose time has come and for which the worker has devices, if there is one. Two workers never
/// get the same.
///
/// Jobs start in the order of the queue. Where the next one needs more devices than are free, but not more than the
/// worker has, the free ones are kept for it until it has enough, and nothing less urgent starts here meanwhile; another
/// worker keeps none for the same job, but takes it where it has enough. A job gets all its devices at once, so that no
/// two jobs wait for each other's.
///
/// # Errors
/// Those of the database.
pub async fn claim(pool: &PgPool, worker: &str, room: Room, lease: Duration) -> sqlx::Result<Option<Claim>> {
    // In the order of the queue's index up to the first job that can be had. With statistics from before the queue grew
    // the planner would rather sort all of it: at 12,000 jobs 6 ms instead of 0.03.
    let mut transaction =
        pool.begin_with("begin; set local enable_sort = off; set local enable_bitmapscan = off").await?;
    let claimed = sqlx::query!(
        r#"
        with next as (
            select job.id, job.devices <= $4 as fits
            from jobs as job left join jobs as teacher on teacher.id = job.teacher_job
            where job.status = 'queued' and job.run_after <= now()
                and (job.teacher_job is null or teacher.status = 'succeeded')
                and job.devices <= $3
                and (job.devices <= $4 or not exists (
                    select from workers as other
                    where other.waits_for = job.id and other.id <> $1
                        and other.heartbeat_at > now() - interval '1 minute'))
            order by job.priority desc, job.id
            limit 1
            for update of job skip locked),
        kept as (
            update workers set waits_for = (select id from next where not fits)
            where id = $1 and waits_for is distinct from (select id from next where not fits))
        update jobs set status = 'running', attempt = attempt + 1, worker = $1,
            lease_expires_at = now() + $2, lease_renewed_at = now(), started_at = coalesce(started_at, now()),
            error = null
        from next where jobs.id = next.id and next.fits
        returning jobs.id, attempt, run_after, teacher_job, spec as "spec: Json<JobSpec>",
            checkpoint as "checkpoint: Json<SavedCheckpoint>"
        "#,
        worker,
        interval(lease),
        room.devices,
        room.free,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(job) = claimed else {
        transaction.commit().await?;
        return Ok(None);
    };
    sqlx::query!(
        "insert into attempts (job_id, attempt, runnable_at, worker)
         select $1, $2, greatest($3, (select finished_at from jobs where id = $4)), $5",
        job.id,
        job.attempt,
        job.run_after,
        job.teacher_job,
        worker,
    )
    .execute(&mut *transaction)
    .await?;
    let name = sqlx::query_scalar!("select name from workers where id = $1", worker)
        .fetch_optional(&mut *transaction)
        .await?
        .unwrap_or_else(|| worker.to_owned());
    let event = NewEvent {
        data: Some(json!({"status": Status::Running.name(), "worker": name})),
        ..NewEvent::status(Status::Running, format!("attempt {} started on {name}", job.attempt))
    };
    append_events(&mut transaction, &job.id, &[event]).await?;
    transaction.commit().await?;
    Ok(Some(Claim {
        hold: Hold { job: job.id, attempt: job.attempt },
        spec: job.spec.0,
        checkpoint: job.checkpoint.map(|checkpoint| checkpoint.0),
    }))
}

/// Extends the lease, and says what the job's status is by now; none if the job is held no longer.
///
/// # Errors
/// Those of the database.
pub async fn heartbeat(pool: &PgPool, hold: &Hold, lease: Duration) -> sqlx::Result<Option<Status>> {
    // A lease that has run out is not renewed, even if nobody has noticed yet.
    let status = sqlx::query_scalar!(
        "update jobs set lease_expires_at = now() + $3, lease_renewed_at = now()
         where id = $1 and attempt = $2 and lease_expires_at > now() returning status",
        hold.job,
        hold.attempt,
        interval(lease),
    )
    .fetch_optional(pool)
    .await?;
    Ok(status.as_deref().and_then(Status::from_name))
}

/// The jobs that are held now.
///
/// # Errors
/// Those of the database.
pub async fn all_held(pool: &PgPool) -> sqlx::Result<Vec<Hold>> {
    sqlx::query_as!(Hold, "select id as job, attempt from jobs where lease_expires_at is not null")
        .fetch_all(pool)
        .await
}

/// What stands between a write and the job.
enum Fence {
    /// The attempt holds the job, whose row is locked now; with its status.
    Open(Status),
    /// Nothing is to be written: the job is held no longer, or (then with its status) this very write has been made, and
    /// its answer was lost on the way.
    Shut(Option<Status>),
}

/// Locks the job's row if the attempt still holds it, and notes the write there.
async fn fenced(connection: &mut PgConnection, write: &Write) -> sqlx::Result<Fence> {
    let held = sqlx::query_scalar!(
        "update jobs set last_write = $3, written_at = now()
         where id = $1 and attempt = $2 and lease_expires_at is not null and last_write is distinct from $3
         returning status",
        write.hold.job,
        write.hold.attempt,
        write.id,
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(status) = held.as_deref().and_then(Status::from_name) {
        return Ok(Fence::Open(status));
    }
    let done = sqlx::query_scalar!(
        "select status from jobs where id = $1 and attempt = $2 and last_write = $3",
        write.hold.job,
        write.hold.attempt,
        write.id,
    )
    .fetch_optional(connection)
    .await?;
    Ok(Fence::Shut(done.as_deref().and_then(Status::from_name)))
}

/// Notes that training began. Points that a lost attempt recorded after the state that this one resumed from are void.
///
/// # Errors
/// Those of the database.
pub async fn started(pool: &PgPool, write: &Write, started: &Started) -> sqlx::Result<bool> {
    let mut transaction = pool.begin().await?;
    let hold = match fenced(&mut transaction, write).await? {
        Fence::Open(_) => &write.hold,
        Fence::Shut(done) => return Ok(done.is_some()),
    };
    sqlx::query!(
        "delete from metrics where job_id = $1 and step > $2",
        hold.job,
        i64::try_from(started.resumed_step).unwrap_or(i64::MAX),
    )
    .execute(&mut *transaction)
    .await?;
    note_best(&mut transaction, &hold.job).await?;
    let resumed = match started.resumed_epochs {
        0 if started.resumed_step == 0 => String::new(),
        epochs => format!(", resumed after epoch {epochs} (step {})", started.resumed_step),
    };
    let message = format!(
        "training on {} in {}: {} images, {} classes, {} epochs of {} steps{resumed}",
        started.device,
        started.precision,
        started.train_images,
        started.classes,
        started.epochs,
        started.steps_per_epoch
    );
    let event = NewEvent { kind: EventKind::Log, message, data: Some(json!(started)) };
    append_events(&mut transaction, &hold.job, &[event]).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Notes the teacher's accuracy.
///
/// # Errors
/// Those of the database.
pub async fn teacher_evaluated(pool: &PgPool, write: &Write, evaluation: &Evaluation) -> sqlx::Result<bool> {
    let mut transaction = pool.begin().await?;
    let hold = match fenced(&mut transaction, write).await? {
        Fence::Open(_) => &write.hold,
        Fence::Shut(done) => return Ok(done.is_some()),
    };
    sqlx::query!("update jobs set teacher = $2 where id = $1", hold.job, json!(evaluation))
        .execute(&mut *transaction)
        .await?;
    let message = format!("the teacher's top-1 accuracy is {:.2} % of {} images", evaluation.top1, evaluation.images);
    let event = NewEvent { kind: EventKind::Teacher, message, data: Some(json!(evaluation)) };
    append_events(&mut transaction, &hold.job, &[event]).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Writes a moment's reports.
///
/// # Errors
/// Those of the database.
pub async fn record(pool: &PgPool, write: &Write, batch: &Batch) -> sqlx::Result<bool> {
    let mut transaction = pool.begin().await?;
    let hold = match fenced(&mut transaction, write).await? {
        Fence::Open(_) => &write.hold,
        Fence::Shut(done) => return Ok(done.is_some()),
    };
    if let Some(progress) = &batch.progress {
        sqlx::query!("update jobs set progress = $2 where id = $1", hold.job, json!(progress))
            .execute(&mut *transaction)
            .await?;
    }
    insert_points(&mut transaction, &hold.job, hold.attempt, &batch.points).await?;
    let events: Vec<NewEvent> = batch.logs.iter().map(|(level, message)| log_event(*level, message)).collect();
    append_events(&mut transaction, &hold.job, &events).await?;
    transaction.commit().await?;
    Ok(true)
}

fn log_event(level: Level, message: &str) -> NewEvent {
    let kind = match level {
        Level::Info => EventKind::Log,
        Level::Warning => EventKind::Warning,
    };
    NewEvent { kind, message: message.to_owned(), data: None }
}

/// A step has one point of a name: a batch whose commit was lost on the way back is written again, and counts once.
async fn insert_points(connection: &mut PgConnection, job: &str, attempt: i32, points: &[Point]) -> sqlx::Result<()> {
    if points.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = points.iter().map(|point| storable(&point.name)).collect();
    let steps: Vec<i64> = points.iter().map(|point| i64::try_from(point.step).unwrap_or(i64::MAX)).collect();
    let epochs: Vec<f64> = points.iter().map(|point| point.epoch).collect();
    let times: Vec<DateTime<Utc>> = points.iter().map(|point| point.time).collect();
    let values: Vec<f64> = points.iter().map(|point| point.value).collect();
    sqlx::query!(
        "insert into metrics (job_id, attempt, name, step, epoch, time, value)
         select $1, $2, name, step, epoch, time, value
         from unnest($3::text[], $4::bigint[], $5::float8[], $6::timestamptz[], $7::float8[])
            with ordinality as point (name, step, epoch, time, value, place)
         where not exists (
            select from metrics as known
            where known.job_id = $1 and known.name = point.name and known.step = point.step)
         order by place",
        job,
        attempt,
        &names,
        &steps,
        &epochs,
        &times,
        &values,
    )
    .execute(&mut *connection)
    .await?;
    if points.iter().any(|point| point.name == "eval/top1") {
        note_best(connection, job).await?;
    }
    Ok(())
}

/// Notes the best of the job's evaluations that count.
async fn note_best(connection: &mut PgConnection, job: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update jobs set best_top1 = (select max(value) from metrics where job_id = $1 and name = 'eval/top1')
         where id = $1",
        job,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The last step of which any point is known; 0 where there is none.
///
/// # Errors
/// Those of the database.
pub async fn newest_step(pool: &PgPool, job: &str) -> sqlx::Result<u64> {
    let step = sqlx::query_scalar!(r#"select coalesce(max(step), 0) as "step!" from metrics where job_id = $1"#, job,);
    Ok(step.fetch_one(pool).await?.unsigned_abs())
}

/// Writes points that an earlier attempt made and could not write.
///
/// # Errors
/// Those of the database.
pub async fn adopt(pool: &PgPool, write: &Write, earlier: i32, points: &[Point]) -> sqlx::Result<bool> {
    let mut transaction = pool.begin().await?;
    let hold = match fenced(&mut transaction, write).await? {
        Fence::Open(_) => &write.hold,
        Fence::Shut(done) => return Ok(done.is_some()),
    };
    insert_points(&mut transaction, &hold.job, earlier, points).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Notes where the next attempt can go on.
///
/// # Errors
/// Those of the database.
pub async fn checkpoint_saved(pool: &PgPool, write: &Write, saved: &SavedCheckpoint) -> sqlx::Result<bool> {
    let mut transaction = pool.begin().await?;
    let hold = match fenced(&mut transaction, write).await? {
        Fence::Open(_) => &write.hold,
        Fence::Shut(done) => return Ok(done.is_some()),
    };
    sqlx::query!("update jobs set checkpoint = $2 where id = $1", hold.job, json!(saved))
        .execute(&mut *transaction)
        .await?;
    sqlx::query!("update attempts set saved_at = now() where job_id = $1 and attempt = $2", hold.job, hold.attempt)
        .execute(&mut *transaction)
        .await?;
    let message = format!("checkpoint after epoch {} (step {})", saved.epoch, saved.step);
    let data = Some(json!({"epoch": saved.epoch, "step": saved.step}));
    append_events(&mut transaction, &hold.job, &[NewEvent { kind: EventKind::Checkpoint, message, data }]).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Makes the attempt's files the job's, and ends it: all of it or nothing.
///
/// # Errors
/// Those of the database.
pub async fn publish(pool: &PgPool, write: &Write, outcome: &Outcome, artifacts: &[Artifact]) -> sqlx::Result<bool> {
    let mut transaction = pool.begin().await?;
    let (hold, status) = match fenced(&mut transaction, write).await? {
        Fence::Open(status) => (&write.hold, status),
        Fence::Shut(done) => return Ok(done.is_some()),
    };
    let Some(next) = status.after(Change::Succeed) else { return Ok(false) };
    for artifact in artifacts {
        sqlx::query!(
            "insert into artifacts (job_id, attempt, name, key, size_bytes, sha256) values ($1, $2, $3, $4, $5, $6)
             on conflict (job_id, attempt, name) do nothing",
            hold.job,
            hold.attempt,
            artifact.name,
            artifact.key,
            i64::try_from(artifact.size_bytes).unwrap_or(i64::MAX),
            artifact.sha256,
        )
        .execute(&mut *transaction)
        .await?;
    }
    sqlx::query!(
        "update jobs set published_attempt = attempt, result = $2, best_top1 = $3, checkpoint = null where id = $1",
        hold.job,
        json!(outcome),
        outcome.best_top1,
    )
    .execute(&mut *transaction)
    .await?;
    let message =
        format!("the student's best top-1 accuracy is {:.2} % (epoch {})", outcome.best_top1, outcome.best_epoch);
    settle(&mut transaction, &hold.job, next, message, None, Duration::ZERO).await?;
    close(&mut transaction, &hold.job, "succeeded").await?;
    transaction.commit().await?;
    Ok(true)
}

/// Ends the attempt with a failure, and the job with it unless another attempt may go better. Answers the job's new
/// status.
///
/// # Errors
/// Those of the database.
pub async fn fail(pool: &PgPool, write: &Write, failure: &Failure) -> sqlx::Result<Option<Status>> {
    let mut transaction = pool.begin().await?;
    let (hold, status) = match fenced(&mut transaction, write).await? {
        Fence::Open(status) => (&write.hold, status),
        Fence::Shut(done) => return Ok(done),
    };
    let next = fail_attempt(&mut transaction, &hold.job, status, hold.attempt, failure).await?;
    if next.is_final() {
        fail_dependents(&mut transaction).await?;
    }
    transaction.commit().await?;
    Ok(Some(next))
}

async fn fail_attempt(
    connection: &mut PgConnection,
    job: &str,
    status: Status,
    attempt: i32,
    failure: &Failure,
) -> sqlx::Result<Status> {
    let most =
        sqlx::query_scalar!("select max_attempts from jobs where id = $1", job).fetch_one(&mut *connection).await?;
    let again = failure.class.is_retried() && attempt < most;
    let change = match (again, failure.class) {
        (false, _) => Change::FailForGood,
        (true, ErrorClass::WorkerLost) => Change::LeaseExpired,
        (true, _) => Change::FailForNow,
    };
    let next = status.after(change).unwrap_or(Status::Failed);
    let consequence = match next {
        Status::Queued => format!("; attempt {} of {most} follows", attempt + 1),
        _ => String::new(),
    };
    let message = format!("attempt {attempt} failed: {}{consequence}", failure.message);
    let error = (next != Status::Cancelled).then_some(failure);
    close(connection, job, failure.class.name()).await?;
    let pause = match failure.class {
        // Says nothing about the job, which goes on at once.
        ErrorClass::WorkerLost => Duration::ZERO,
        _ => back_off(failures_in_a_row(connection, job).await?),
    };
    settle(connection, job, next, message, error, pause).await?;
    Ok(next)
}

/// Closes the job's open attempt in the ledger.
async fn close(connection: &mut PgConnection, job: &str, outcome: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update attempts set ended_at = now(), outcome = $2,
            heard_at = (select greatest(lease_renewed_at, written_at) from jobs where id = $1)
         where job_id = $1 and ended_at is null",
        job,
        outcome,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Counts a write that was refused because its attempt had lost the job. A heartbeat that crosses the attempt's own end
/// is none.
///
/// # Errors
/// Those of the database.
pub async fn count_refused(pool: &PgPool, hold: &Hold) -> sqlx::Result<()> {
    sqlx::query!(
        "update attempts set refused_writes = refused_writes + 1
         where job_id = $1 and attempt = $2 and (outcome is null or outcome = 'worker_lost')",
        hold.job,
        hold.attempt,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// How many of the job's last attempts ended in a failure that another attempt may mend; attempts whose worker was lost
/// end the row, as those do that were stopped in order.
async fn failures_in_a_row(connection: &mut PgConnection, job: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from attempts
           where job_id = $1 and attempt > (
              select coalesce(max(attempt), 0) from attempts
              where job_id = $1 and outcome not in ('storage', 'internal'))"#,
        job,
    )
    .fetch_one(connection)
    .await
}

/// A pause before the next attempt: it doubles with each failure in a row, from one second to about four minutes, with
/// jitter so that jobs which failed together do not all come back together.
fn back_off(failures: i64) -> Duration {
    let doublings = u32::try_from(failures.clamp(1, 9)).expect("between 1 and 9");
    let doubled = Duration::from_millis(500) * 2_u32.pow(doublings);
    doubled.mul_f64(0.75 + f64::from(Utc::now().timestamp_subsec_micros() % 1000) / 2000.0)
}

/// Gives the job its next status, frees it from its worker, and tells the history.
async fn settle(
    connection: &mut PgConnection,
    job: &str,
    next: Status,
    message: String,
    failure: Option<&Failure>,
    pause: Duration,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update jobs set status = $2, worker = null, lease_expires_at = null, error = $3, run_after = now() + $4,
            finished_at = case when $5 then now() end
         where id = $1",
        job,
        next.name(),
        failure.map(|failure| json!({"class": failure.class, "message": storable(&failure.message)})),
        interval(pause),
        next.is_final(),
    )
    .execute(&mut *connection)
    .await?;
    append_events(connection, job, &[NewEvent::status(next, message)]).await
}

/// Sets the job down: its trainer stopped as asked, or its worker is about to end.
///
/// # Errors
/// Those of the database.
pub async fn stopped(pool: &PgPool, write: &Write) -> sqlx::Result<Option<Status>> {
    let mut transaction = pool.begin().await?;
    let (hold, status) = match fenced(&mut transaction, write).await? {
        Fence::Open(status) => (&write.hold, status),
        Fence::Shut(done) => return Ok(done),
    };
    let Some(next) = status.after(Change::Stopped) else { return Ok(None) };
    let message = match next {
        Status::Queued => "the worker was stopped; the job goes on from its checkpoint",
        Status::Paused => "paused",
        _ => "cancelled",
    };
    settle(&mut transaction, &hold.job, next, message.to_owned(), None, Duration::ZERO).await?;
    close(&mut transaction, &hold.job, "stopped").await?;
    // Giving a job back in order is no failed attempt: the next claim counts the same one up again.
    if next == Status::Queued || next == Status::Paused {
        sqlx::query!("update jobs set max_attempts = max_attempts + 1 where id = $1", hold.job)
            .execute(&mut *transaction)
            .await?;
    }
    if next.is_final() {
        fail_dependents(&mut transaction).await?;
    }
    transaction.commit().await?;
    Ok(Some(next))
}

/// Returns jobs whose lease has run out to the queue, or fails them after their last attempt; fails jobs whose teacher
/// will never come. Answers how many there were.
///
/// # Errors
/// Those of the database.
pub async fn rescue_expired(pool: &PgPool) -> sqlx::Result<u64> {
    let mut transaction = pool.begin().await?;
    let expired = sqlx::query!(
        "select job.id, job.status, job.attempt, coalesce(workers.name, job.worker, 'its worker') as \"worker!\"
         from jobs as job left join workers on workers.id = job.worker
         where job.lease_expires_at < now() for update of job skip locked",
    )
    .fetch_all(&mut *transaction)
    .await?;
    for job in &expired {
        let Some(status) = Status::from_name(&job.status) else { continue };
        let message = format!("{} stopped answering while it held the job", job.worker);
        let failure = Failure { class: ErrorClass::WorkerLost, message };
        fail_attempt(&mut transaction, &job.id, status, job.attempt, &failure).await?;
    }
    let orphans = fail_dependents(&mut transaction).await?;
    // A worker that says nothing for so long is gone.
    sqlx::query!("delete from workers where heartbeat_at < now() - interval '1 minute'")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(expired.len() as u64 + orphans)
}

/// How long until the first lease runs out, unless it is renewed; none if no job is held.
///
/// # Errors
/// Those of the database.
pub async fn until_next_expiry(pool: &PgPool) -> sqlx::Result<Option<Duration>> {
    let seconds = sqlx::query_scalar!(
        "select extract(epoch from min(lease_expires_at) - now())::float8 from jobs where lease_expires_at is not null",
    )
    .fetch_one(pool)
    .await?;
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 3600.0))))
}

/// Fails waiting jobs whose teacher's job ended without a student.
pub(super) async fn fail_dependents(connection: &mut PgConnection) -> sqlx::Result<u64> {
    let mut failed = 0;
    loop {
        let orphans = sqlx::query!(
            "select job.id, job.status, teacher.id as teacher, teacher.status as teacher_status
             from jobs as job join jobs as teacher on teacher.id = job.teacher_job
             where job.status in ('queued', 'paused') and teacher.status in ('failed', 'cancelled')
             for update of job skip locked",
        )
        .fetch_all(&mut *connection)
        .await?;
        if orphans.is_empty() {
            return Ok(failed);
        }
        failed += orphans.len() as u64;
        for job in orphans {
            let message = format!(
                "the teacher's job {} {}: there is no student of it to learn from",
                job.teacher,
                if job.teacher_status == "failed" { "failed" } else { "was cancelled" }
            );
            let failure = Failure { class: ErrorClass::User, message: message.clone() };
            settle(connection, &job.id, Status::Failed, message, Some(&failure), Duration::ZERO).await?;
        }
    }
}

/// How long until a job that waits for its time may run; none if there is no such job.
///
/// # Errors
/// Those of the database.
pub async fn until_next(pool: &PgPool) -> sqlx::Result<Option<Duration>> {
    let seconds = sqlx::query_scalar!(
        "select extract(epoch from min(run_after) - now())::float8 from jobs
         where status = 'queued' and run_after > now()",
    )
    .fetch_one(pool)
    .await?;
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 3600.0))))
}

/// The SHA-256 of an uploaded checkpoint.
///
/// # Errors
/// Those of the database.
pub async fn checkpoint_sha256(pool: &PgPool, id: &str) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!("select sha256 from checkpoints where id = $1", id).fetch_optional(pool).await
}

/// A file that a finished job made.
///
/// # Errors
/// Those of the database.
pub async fn published_artifact(pool: &PgPool, job: &str, name: &str) -> sqlx::Result<Option<Artifact>> {
    let found = sqlx::query!(
        "select artifacts.key, artifacts.size_bytes, artifacts.sha256 from jobs
         join artifacts on artifacts.job_id = jobs.id and artifacts.attempt = jobs.published_attempt
         where jobs.id = $1 and artifacts.name = $2",
        job,
        name,
    )
    .fetch_optional(pool)
    .await?;
    Ok(found.map(|found| Artifact {
        name: name.to_owned(),
        key: found.key,
        size_bytes: found.size_bytes.unsigned_abs(),
        sha256: found.sha256,
    }))
}
