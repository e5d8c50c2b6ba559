//! Deletes versions of data sets.

use sqlx::{PgConnection, PgPool};

use super::superseded;
use crate::db::errors::past_deadlock;
use crate::db::file_deletions::{self, FileDeletion};
use crate::db::jobs::{Refusal, Status};

/// Deletes a version if it is still [`superseded`] for this many days. Returns the files that are left to remove.
pub async fn delete_superseded(pool: &PgPool, id: &str, days: u32) -> sqlx::Result<Result<Vec<FileDeletion>, Refusal>> {
    past_deadlock(move || try_delete_superseded(pool, id, days)).await
}

async fn try_delete_superseded(pool: &PgPool, id: &str, days: u32) -> sqlx::Result<Result<Vec<FileDeletion>, Refusal>> {
    let mut transaction = pool.begin().await?;
    let ids = [id.to_owned()];
    // An upload of the same files waits for this, and then stores them again.
    lock_versions(&mut transaction, &ids).await?;
    if !superseded(&mut *transaction, days, &[]).await?.iter().any(|version| version.id == id) {
        return Ok(Err(Refusal::Missing));
    }
    let deleted = delete_in(&mut transaction, &ids).await?;
    match &deleted {
        Ok(_) => transaction.commit().await?,
        Err(_) => transaction.rollback().await?,
    }
    Ok(deleted)
}

/// Locks versions, and returns the keys of their tars.
async fn lock_versions(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<String>> {
    // In one order, so that two deletions cannot deadlock.
    let query = sqlx::query_scalar!("select key from datasets where id = any($1) order by id for update", ids);
    query.fetch_all(connection).await
}

/// Deletes versions that no unfinished job needs. Returns the files that are left to remove.
pub async fn delete(pool: &PgPool, ids: &[String]) -> sqlx::Result<Result<Vec<FileDeletion>, Refusal>> {
    past_deadlock(move || try_delete(pool, ids)).await
}

async fn try_delete(pool: &PgPool, ids: &[String]) -> sqlx::Result<Result<Vec<FileDeletion>, Refusal>> {
    let mut transaction = pool.begin().await?;
    let deleted = delete_in(&mut transaction, ids).await?;
    match &deleted {
        Ok(_) => transaction.commit().await?,
        Err(_) => transaction.rollback().await?,
    }
    Ok(deleted)
}

async fn delete_in(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Result<Vec<FileDeletion>, Refusal>> {
    // The jobs first, which will be without a data set: a change of a job's row also locks the row of its data set.
    sqlx::query!(
        "select id from jobs where dataset_id = any($1) and status = any($2) order by id for no key update",
        ids,
        &Status::FINAL as &[Status],
    )
    .fetch_all(&mut *connection)
    .await?;
    let keys = lock_versions(&mut *connection, ids).await?;
    if keys.is_empty() {
        return Ok(Err(Refusal::Missing));
    }
    let query = sqlx::query!(
        r#"
        select id, dataset_id as "dataset!" from jobs where dataset_id = any($1) and status <> all($2)
        order by id limit 1
        "#,
        ids,
        &Status::FINAL as &[Status],
    );
    if let Some(job) = query.fetch_optional(&mut *connection).await? {
        return Ok(Err(Refusal::Because(format!("job {}, which is not finished, needs {}", job.id, job.dataset))));
    }
    sqlx::query!("delete from datasets where id = any($1)", ids).execute(&mut *connection).await?;
    Ok(Ok(file_deletions::decide_files(connection, keys).await?))
}
