//! The table `storage`: which storage has the files that this database names.

use sqlx::PgPool;

/// The storage of this database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageId {
    /// What the storage's own file says.
    pub id: String,
    /// Where it was when it got the id, as the process that gave it was told. None until then.
    pub address: Option<String>,
}

/// The storage of this database; the first caller chooses the id.
pub async fn get_or_choose(pool: &PgPool, id: &str) -> sqlx::Result<StorageId> {
    sqlx::query!("insert into storage (id) values ($1) on conflict do nothing", id).execute(pool).await?;
    get(pool).await
}

/// The storage of this database, which was chosen.
pub async fn get(pool: &PgPool) -> sqlx::Result<StorageId> {
    sqlx::query_as!(StorageId, "select id, address from storage").fetch_one(pool).await
}

/// Decides which storage gets the id. False if that is decided already.
pub async fn decide(pool: &PgPool, address: &str) -> sqlx::Result<bool> {
    let decided = sqlx::query!("update storage set address = $1 where address is null", address).execute(pool).await?;
    Ok(decided.rows_affected() == 1)
}

/// Takes a decision back, because the storage could not be written.
pub async fn undo(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::query!("update storage set address = null").execute(pool).await?;
    Ok(())
}

/// Whether there is any job.
pub async fn has_jobs(pool: &PgPool) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select from jobs) as "has_jobs!""#).fetch_one(pool).await
}

/// Keys of the files that were named last, of each kind.
pub async fn newest_files(pool: &PgPool) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        (select key as "key!" from artifacts order by created_at desc limit 3)
        union all
        (select checkpoint_key(key, sha256) from checkpoints order by created_at desc limit 3)
        union all
        (select key from datasets order by created_at desc limit 3)
        union all
        (select checkpoint ->> 'key' from jobs where checkpoint is not null and checkpoint ->> 'key' is not null
            order by id desc limit 3)
        "#
    )
    .fetch_all(pool)
    .await
}
