//! What users change about a job: cancel, pause, resume, retry.

use sqlx::{PgConnection, PgPool};

use super::create::{need_checkpoints, needed_checkpoints};
use super::{Change, Job, Refusal, Status};
use crate::db::declined;
use crate::db::events::{self, NewEvent};
use crate::db::queue::fail_dependents;
use crate::db::sweeps;
use crate::spec::{JobSpec, TeacherSpec};
use crate::text::counted;

/// Makes a change that a user asked for. Requests for one job are made in the order in which they lock its row.
pub async fn change(pool: &PgPool, id: &str, change: Change) -> sqlx::Result<Result<Job, Refusal>> {
    let mut transaction = pool.begin().await?;
    match change_in(&mut transaction, id, change).await? {
        Ok(()) => transaction.commit().await?,
        Err(refusal) => {
            // At once: a claim skips a locked job.
            transaction.rollback().await?;
            return Ok(Err(refusal));
        }
    }
    Ok(super::get(pool, id).await?.ok_or(Refusal::Missing))
}

async fn change_in(connection: &mut PgConnection, id: &str, change: Change) -> sqlx::Result<Result<(), Refusal>> {
    let Some(before) = lock(connection, id).await? else { return Ok(Err(Refusal::Missing)) };
    let Some(after) = before.after(change) else { return Ok(Err(Refusal::NotWhile(before))) };
    if after == before {
        return Ok(Ok(()));
    }
    if change == Change::Retry
        && let Some(reason) = need_again(connection, id).await?
    {
        return Ok(Err(Refusal::Because(reason)));
    }
    if change == Change::Resume
        && let Some(reason) = waits_at_rung(connection, id).await?
    {
        return Ok(Err(Refusal::Because(reason)));
    }
    set_status(connection, id, after, change == Change::Retry).await?;
    if after == Status::Queued {
        declined::forget_job(connection, id).await?;
    }
    let event = NewEvent::status(after, format!("{} on request", after.name()));
    events::append(connection, id, &[event]).await?;
    sweeps::settle(connection, id).await?;
    if after.is_final() && fail_dependents(connection).await? > 0 {
        sweeps::settle_free(connection).await?;
    }
    Ok(Ok(()))
}

/// Why a paused job is not for its user to resume: it waits for the others of its sweep.
async fn waits_at_rung(connection: &mut PgConnection, id: &str) -> sqlx::Result<Option<String>> {
    let query = sqlx::query!(
        r#"select pause_after as "epochs!", sweep_id as "sweep!" from jobs
           where id = $1 and sweep_id is not null and has_reached_rung(jobs)"#,
        id,
    );
    let found = query.fetch_optional(connection).await?;
    Ok(found.map(|row| {
        format!(
            "after {} it waits to be compared with the other jobs of sweep {}, which resumes or drops it. Once it \
             is dropped, a retry trains it to its end",
            counted(row.epochs.unsigned_abs(), "epoch", "epochs"),
            row.sweep
        )
    }))
}

/// The job's status, which stays as it is until the transaction ends.
async fn lock(connection: &mut PgConnection, id: &str) -> sqlx::Result<Option<Status>> {
    sqlx::query_scalar!(r#"select status as "status: Status" from jobs where id = $1 for no key update"#, id)
        .fetch_optional(connection)
        .await
}

/// The lease stays as it is: no user gives a job to a worker or takes it away. A job that is retried may be started as
/// many times as a new one, with its directory of data as it is now. It is compared again with the others of its sweep,
/// unless that has dropped it: it then trains to its end.
pub(in crate::db) async fn set_status(
    connection: &mut PgConnection,
    id: &str,
    status: Status,
    is_retry: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update jobs set
            status = $2,
            finished_at = case when $3 then now() end,
            run_after = case when $2 = 'queued' then now() else run_after end,
            error = case when $2 = 'queued' then null else error end,
            max_attempts = case when $4
                then least(attempt + coalesce(whole_number(spec -> 'max_attempts'), 1), 2147483647)::integer
                else max_attempts end,
            uncounted = case when $4 then 0 else uncounted end,
            dataset_fingerprint = case when $4 then null else dataset_fingerprint end,
            pause_after = case when $4 then (
                select sweeps.rungs[sweeps.rung + 1]
                from sweeps join sweep_combinations as own on own.sweep_id = sweeps.id
                where sweeps.id = jobs.sweep_id and own.number = jobs.combination and own.dropped_rung is null
                    and sweeps.status in ('running', 'paused') and sweeps.rung + 1 < cardinality(sweeps.rungs))
                else pause_after end
        where id = $1
        "#,
        id,
        status as Status,
        status.is_final(),
        is_retry,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes again what a job needs, since it may have been deleted while the job was finished. Returns what is missing.
async fn need_again(connection: &mut PgConnection, id: &str) -> sqlx::Result<Option<String>> {
    let stored = sqlx::query_scalar!(r#"select readable(spec) as "spec!" from jobs where id = $1"#, id);
    let stored = stored.fetch_one(&mut *connection).await?;
    let spec = match JobSpec::from_stored(&stored) {
        Ok(spec) => spec,
        Err(reason) => {
            return Ok(Some(format!("this version of the server cannot read its specification ({reason}): update it")));
        }
    };
    let needed = needed_checkpoints(connection, &spec).await?;
    let query = sqlx::query_scalar!("select id from checkpoints where id = any($1) for key share", &needed);
    let found = query.fetch_all(&mut *connection).await?;
    if let Some(gone) = needed.iter().find(|id| !found.contains(id)) {
        return Ok(Some(format!("its checkpoint {gone} has been deleted: upload it again first")));
    }
    need_checkpoints(connection, id, &needed).await?;
    if let Some(gone) = need_dataset_again(connection, id).await? {
        return Ok(Some(format!("its data set {gone} has been deleted: upload it again first")));
    }
    let Some(teacher) = spec.teacher.as_ref().and_then(TeacherSpec::job) else { return Ok(None) };
    let query =
        sqlx::query_scalar!(r#"select status as "status: Status" from jobs where id = $1 for key share"#, teacher);
    match query.fetch_optional(&mut *connection).await? {
        None => return Ok(Some(format!("its teacher's job {teacher} has been deleted"))),
        Some(status @ (Status::Failed | Status::Cancelled)) => {
            return Ok(Some(format!("its teacher's job {teacher} is {}: retry that one first", status.name())));
        }
        Some(_) => {}
    }
    sqlx::query!("update jobs set teacher_job = $2 where id = $1", id, teacher).execute(connection).await?;
    Ok(None)
}

/// Links a job to its uploaded data set again. Returns the id of the data set if it has been deleted.
async fn need_dataset_again(connection: &mut PgConnection, id: &str) -> sqlx::Result<Option<String>> {
    let query = sqlx::query!("select dataset, dataset_bytes from jobs where id = $1", id);
    let row = query.fetch_one(&mut *connection).await?;
    let (Some(dataset), Some(_)) = (row.dataset, row.dataset_bytes) else { return Ok(None) };
    let query = sqlx::query_scalar!("select id from datasets where id = $1 for key share", dataset);
    if query.fetch_optional(&mut *connection).await?.is_none() {
        return Ok(Some(dataset));
    }
    sqlx::query!("update jobs set dataset_id = dataset where id = $1", id).execute(connection).await?;
    Ok(None)
}
