//! The table `dataset_shards`: shards that were uploaded one by one, until they become a version of a data set.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::file_deletions::{self, FileDeletion};

/// A stored shard, which waits for others of its split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredShard {
    pub split: String,
    /// From 0.
    pub shard: i32,
    /// Number of shards of the split.
    pub shards: i32,
    pub key: String,
    /// In hexadecimal.
    pub sha256: String,
    pub size_bytes: i64,
    /// When it is removed unless another one comes.
    pub expires_at: DateTime<Utc>,
}

/// Adds a shard. Its key was announced ([`file_deletions::announce`]), and its file is stored. It replaces the shard
/// with the same number, and shards of the split that are numbered out of another total. Returns the shards of the data
/// set, by split and number, and the files of the replaced ones, which are left to remove.
pub async fn put(pool: &PgPool, name: &str, new: &StoredShard) -> sqlx::Result<(Vec<StoredShard>, Vec<FileDeletion>)> {
    let mut transaction = pool.begin().await?;
    // Of two shards that come at the same time, the later one must see the other.
    lock(&mut transaction, name).await?;
    let query = sqlx::query_scalar!(
        "delete from dataset_shards where name = $1 and split = $2 and (shard = $3 or shards <> $4) returning key",
        name,
        new.split,
        new.shard,
        new.shards,
    );
    let replaced = query.fetch_all(&mut *transaction).await?;
    sqlx::query!(
        "insert into dataset_shards (name, split, shard, shards, key, sha256, size_bytes)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (name, split, shard) do update set
            shards = excluded.shards, key = excluded.key, sha256 = excluded.sha256, size_bytes = excluded.size_bytes",
        name,
        new.split,
        new.shard,
        new.shards,
        new.key,
        new.sha256,
        new.size_bytes,
    )
    .execute(&mut *transaction)
    .await?;
    let files = decide(&mut transaction, replaced).await?;
    let waiting = waiting(&mut transaction, name).await?;
    let keys: Vec<String> = waiting.iter().map(|shard| shard.key.clone()).collect();
    file_deletions::announce_again(&mut transaction, &keys).await?;
    transaction.commit().await?;
    Ok((waiting, files))
}

/// Keeps other transactions from changing the shards of a data set and the pieces of its uploads, or making a version of
/// them, until this one ends. Without it two that change several rows could wait for each other.
pub(super) async fn lock(connection: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    let what = format!("shards of {name}");
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", what).execute(connection).await?;
    Ok(())
}

/// The shards of a data set that wait for others, by split and number.
pub async fn of_dataset(pool: &PgPool, name: &str) -> sqlx::Result<Vec<StoredShard>> {
    let mut connection = pool.acquire().await?;
    waiting(&mut connection, name).await
}

async fn waiting(connection: &mut PgConnection, name: &str) -> sqlx::Result<Vec<StoredShard>> {
    sqlx::query_as!(
        StoredShard,
        "select split, shard, shards, dataset_shards.key, sha256, size_bytes, due_at as expires_at
         from dataset_shards join file_deletions on file_deletions.key = dataset_shards.key and not is_decided
         where name = $1 order by split, shard",
        name,
    )
    .fetch_all(connection)
    .await
}

/// Which shards of a data set.
#[derive(Debug, Clone, Copy)]
pub enum Shards<'a> {
    All,
    /// Those whose files have these keys.
    Under(&'a [String]),
}

/// Deletes shards of a data set. Returns the files that are left to remove.
pub async fn forget(pool: &PgPool, name: &str, which: Shards<'_>) -> sqlx::Result<Vec<FileDeletion>> {
    let (is_all, keys) = match which {
        Shards::All => (true, [].as_slice()),
        Shards::Under(keys) => (false, keys),
    };
    let mut transaction = pool.begin().await?;
    lock(&mut transaction, name).await?;
    let query = sqlx::query_scalar!(
        "delete from dataset_shards where name = $1 and ($2 or key = any($3)) returning key",
        name,
        is_all,
        keys,
    );
    let gone = query.fetch_all(&mut *transaction).await?;
    let files = decide(&mut transaction, gone).await?;
    transaction.commit().await?;
    Ok(files)
}

async fn decide(connection: &mut PgConnection, keys: Vec<String>) -> sqlx::Result<Vec<FileDeletion>> {
    let files: Vec<_> = keys.into_iter().map(|key| FileDeletion { key, is_directory: false }).collect();
    for file in &files {
        file_deletions::decide(connection, file).await?;
    }
    Ok(files)
}
