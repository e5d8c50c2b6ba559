//! The table `dataset_pieces`: the pieces of unfinished uploads.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::dataset_shards::lock;
use super::file_deletions::{self, FileDeletion};

/// A stored piece, which waits for the others of its upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPiece {
    /// Offset of its first byte in the upload.
    pub start_at: i64,
    pub size_bytes: i64,
    /// Size of the whole upload.
    pub total_bytes: i64,
    pub key: String,
    /// In hexadecimal.
    pub sha256: String,
    /// When it is removed unless another one comes.
    pub expires_at: DateTime<Utc>,
}

/// An upload that has pieces, and waits for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedPieces {
    /// Of the data set.
    pub name: String,
    pub upload: String,
    /// Bytes of its pieces.
    pub received_bytes: i64,
    /// Size of the whole upload.
    pub size_bytes: i64,
    /// When its pieces are removed unless another one comes.
    pub expires_at: DateTime<Utc>,
}

/// All unfinished uploads, or those of a name, or the first ones of very many.
pub async fn unfinished(pool: &PgPool, name: Option<&str>, most: i64) -> sqlx::Result<Vec<UnfinishedPieces>> {
    sqlx::query_as!(
        UnfinishedPieces,
        r#"
        select name, upload, sum(size_bytes)::bigint as "received_bytes!", max(total_bytes) as "size_bytes!",
            min(due_at) as "expires_at!"
        from dataset_pieces join file_deletions on file_deletions.key = dataset_pieces.key and not is_decided
        where $2::text is null or name = $2
        group by name, upload order by name, upload limit $1
        "#,
        most,
        name,
    )
    .fetch_all(pool)
    .await
}

/// The pieces of an upload, in order.
pub async fn of_upload(pool: &PgPool, name: &str, upload: &str) -> sqlx::Result<Vec<StoredPiece>> {
    let mut connection = pool.acquire().await?;
    waiting(&mut connection, name, upload).await
}

async fn waiting(connection: &mut PgConnection, name: &str, upload: &str) -> sqlx::Result<Vec<StoredPiece>> {
    sqlx::query_as!(
        StoredPiece,
        "select start_at, size_bytes, total_bytes, dataset_pieces.key, sha256, due_at as expires_at
         from dataset_pieces join file_deletions on file_deletions.key = dataset_pieces.key and not is_decided
         where name = $1 and upload = $2 order by start_at",
        name,
        upload,
    )
    .fetch_all(connection)
    .await
}

/// Adds a piece. Its key was announced ([`file_deletions::announce`]), and its file is stored. Returns all pieces of
/// the upload; `None` if another request has added one at the same offset.
pub async fn add(pool: &PgPool, name: &str, upload: &str, new: &StoredPiece) -> sqlx::Result<Option<Vec<StoredPiece>>> {
    let mut transaction = pool.begin().await?;
    lock(&mut transaction, name).await?;
    // Pieces of an earlier upload of the name, whose files have been deleted.
    sqlx::query!(
        "delete from dataset_pieces where name = $1 and upload = $2 and not exists (
            select from file_deletions where file_deletions.key = dataset_pieces.key and not is_decided)",
        name,
        upload,
    )
    .execute(&mut *transaction)
    .await?;
    let added = sqlx::query!(
        "insert into dataset_pieces (name, upload, start_at, size_bytes, total_bytes, key, sha256)
         values ($1, $2, $3, $4, $5, $6, $7) on conflict (name, upload, start_at) do nothing",
        name,
        upload,
        new.start_at,
        new.size_bytes,
        new.total_bytes,
        new.key,
        new.sha256,
    )
    .execute(&mut *transaction)
    .await?;
    if added.rows_affected() == 0 {
        return Ok(None);
    }
    let pieces = waiting(&mut transaction, name, upload).await?;
    let keys: Vec<String> = pieces.iter().map(|piece| piece.key.clone()).collect();
    file_deletions::arrived(&mut transaction, &new.key, Duration::ZERO).await?;
    file_deletions::announce_again(&mut transaction, &keys, Duration::ZERO).await?;
    transaction.commit().await?;
    Ok(Some(pieces))
}

/// Deletes the pieces of a data set: of all uploads or of the one named, all of them or the one that begins at `start`.
/// Returns the files that are left to remove.
pub async fn forget(
    pool: &PgPool,
    name: &str,
    upload: Option<&str>,
    start_at: Option<i64>,
) -> sqlx::Result<Vec<FileDeletion>> {
    let mut transaction = pool.begin().await?;
    lock(&mut transaction, name).await?;
    let query = sqlx::query_scalar!(
        "delete from dataset_pieces
         where name = $1 and ($2::text is null or upload = $2) and ($3::bigint is null or start_at = $3) returning key",
        name,
        upload,
        start_at,
    );
    let keys = query.fetch_all(&mut *transaction).await?;
    let files = file_deletions::decide_files(&mut transaction, keys).await?;
    transaction.commit().await?;
    Ok(files)
}
