//! Deletes finished jobs.

use sqlx::{PgConnection, PgPool};

use super::{Refusal, Status};
use crate::artifacts::keys;
use crate::db::errors::past_deadlock;
use crate::db::file_deletions::{self, FileDeletion};
use crate::db::listen;

/// Deletes a finished job. Returns what is left to do: to remove its files. Its events and points are left to
/// [`deleted_jobs`](crate::db::deleted_jobs).
pub async fn delete(pool: &PgPool, id: &str) -> sqlx::Result<Result<FileDeletion, Refusal>> {
    // A student that becomes final after the locks on the others can be amended meanwhile.
    past_deadlock(move || try_delete(pool, id)).await
}

async fn try_delete(pool: &PgPool, id: &str) -> sqlx::Result<Result<FileDeletion, Refusal>> {
    let mut transaction = pool.begin().await?;
    if let Err(refusal) = delete_in(&mut transaction, id).await? {
        transaction.rollback().await?;
        return Ok(Err(refusal));
    }
    let files = FileDeletion { key: keys::job(id), is_directory: true };
    file_deletions::decide(&mut transaction, &files).await?;
    transaction.commit().await?;
    Ok(Ok(files))
}

pub(in crate::db) async fn delete_in(connection: &mut PgConnection, id: &str) -> sqlx::Result<Result<(), Refusal>> {
    // Students before their teacher: a change of a student's row also locks the row of its teacher.
    sqlx::query!(
        "select id from jobs where teacher_job = $1 and status = any($2) order by id for no key update",
        id,
        &Status::FINAL as &[Status],
    )
    .fetch_all(&mut *connection)
    .await?;
    // No other job can come to refer to it from here on.
    let query = sqlx::query_scalar!(r#"select status as "status: Status" from jobs where id = $1 for update"#, id);
    let Some(status) = query.fetch_optional(&mut *connection).await? else { return Ok(Err(Refusal::Missing)) };
    if !status.is_final() {
        return Ok(Err(Refusal::NotWhile(status)));
    }
    let query = sqlx::query_scalar!(
        "select id from jobs where teacher_job = $1 and status <> all($2) limit 1",
        id,
        &Status::FINAL as &[Status],
    );
    if let Some(student) = query.fetch_optional(&mut *connection).await? {
        return Ok(Err(Refusal::Because(format!(
            "job {student}, which is not finished, needs its student as a teacher"
        ))));
    }
    // Finished jobs keep the name of their teacher in their specification.
    sqlx::query!("update jobs set teacher_job = null where teacher_job = $1", id).execute(&mut *connection).await?;
    sqlx::query!("delete from jobs where id = $1", id).execute(&mut *connection).await?;
    // No trigger tells of it.
    sqlx::query!("select pg_notify($1, $2) as sent", listen::JOB, id).execute(&mut *connection).await?;
    Ok(Ok(()))
}
