//! The table `file_deletions`: stored files that no other row names, because what they belong to was deleted, or
//! because their upload has not ended. [`crate::removals`] removes them.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::interval;

/// How long a server may take for a deletion before another one begins with it too.
const TURN: Duration = Duration::from_secs(60);
/// How long an upload may take to store its file. After that the file is deleted.
const LONGEST_UPLOAD: Duration = Duration::from_secs(24 * 3600);
/// How long the bytes that a file has reserved count unless that is renewed.
const RESERVED: Duration = Duration::from_secs(60);
/// Most deletions that a server takes on at once.
const BATCH: i64 = 16;

/// Files to remove from storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDeletion {
    /// Key of a file or of a directory.
    pub key: String,
    /// Whether everything below the key goes.
    pub is_directory: bool,
}

/// Announces a file that an upload is about to store, so that it is removed if the upload never ends.
pub async fn announce(pool: &PgPool, key: &str) -> sqlx::Result<()> {
    let mut connection = pool.acquire().await?;
    announce_with(&mut connection, key, 0).await
}

/// The same for a file that takes this many bytes of the space for uploads until it has arrived, as long as that is
/// renewed.
pub(super) async fn announce_with(connection: &mut PgConnection, key: &str, bytes: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into file_deletions (key, is_directory, is_decided, due_at, reserved_bytes, reserved_until)
         values ($1, false, false, now() + $2, $3, now() + $4)",
        key,
        interval(LONGEST_UPLOAD),
        bytes,
        interval(RESERVED),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Renews what an announced file has reserved.
pub async fn reserve_again(pool: &PgPool, key: &str) -> sqlx::Result<()> {
    let renewed = sqlx::query!(
        "update file_deletions set reserved_until = now() + $2 where key = $1 and reserved_bytes > 0",
        key,
        interval(RESERVED),
    );
    renewed.execute(pool).await?;
    Ok(())
}

/// Notes that an announced file has arrived: it is counted elsewhere, and kept longer than a new one, by `longer`.
/// False if its deletion was decided.
pub(super) async fn arrived(connection: &mut PgConnection, key: &str, longer: Duration) -> sqlx::Result<bool> {
    let arrived = sqlx::query!(
        "update file_deletions set reserved_bytes = 0, due_at = now() + $2 where key = $1 and not is_decided",
        key,
        interval(LONGEST_UPLOAD + longer),
    );
    Ok(arrived.execute(connection).await?.rows_affected() == 1)
}

/// Announces files again that no row names yet, so that they are kept longer than a new one, by `longer`.
pub(super) async fn announce_again(
    connection: &mut PgConnection,
    keys: &[String],
    longer: Duration,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update file_deletions set due_at = now() + $2 where key = any($1) and not is_decided",
        keys,
        interval(LONGEST_UPLOAD + longer),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes over an announced file: another row names it from now on. False if its deletion was decided.
pub(super) async fn take_over(connection: &mut PgConnection, key: &str) -> sqlx::Result<bool> {
    let taken = sqlx::query!("delete from file_deletions where key = $1 and not is_decided", key);
    Ok(taken.execute(connection).await?.rows_affected() == 1)
}

/// Gives up an announced file.
pub async fn give_up(pool: &PgPool, key: &str) -> sqlx::Result<()> {
    sqlx::query!("update file_deletions set is_decided = true, due_at = now() where key = $1", key)
        .execute(pool)
        .await?;
    Ok(())
}

/// Decides on a deletion. Whoever commits that carries it out first; others take it on only when it is due, a moment
/// later, even if it was announced and would have been kept for a day.
pub(super) async fn decide(connection: &mut PgConnection, deletion: &FileDeletion) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into file_deletions (key, is_directory, is_decided, due_at) values ($1, $2, true, now() + $3)
         on conflict (key) do update set
            is_directory = excluded.is_directory, is_decided = true, due_at = excluded.due_at",
        deletion.key,
        deletion.is_directory,
        interval(TURN),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The same of several files, of which there may be as many as a split has shards.
pub(super) async fn decide_files(connection: &mut PgConnection, keys: Vec<String>) -> sqlx::Result<Vec<FileDeletion>> {
    sqlx::query!(
        "insert into file_deletions (key, is_directory, is_decided, due_at)
         select key, false, true, now() + $2::interval from unnest($1::text[]) as key
         on conflict (key) do update set is_directory = false, is_decided = true, due_at = excluded.due_at",
        &keys,
        interval(TURN),
    )
    .execute(connection)
    .await?;
    Ok(keys.into_iter().map(|key| FileDeletion { key, is_directory: false }).collect())
}

/// The database's time.
pub async fn now(pool: &PgPool) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(r#"select now() as "now!""#).fetch_one(pool).await
}

/// Takes on deletions that nobody carried out at that time. What fails is due again later than that.
pub async fn take_due(pool: &PgPool, at: DateTime<Utc>) -> sqlx::Result<Vec<FileDeletion>> {
    sqlx::query_as!(
        FileDeletion,
        "update file_deletions set is_decided = true, due_at = now() + $1
         where key in (
            select key from file_deletions where due_at <= $3 order by due_at limit $2 for update skip locked)
         returning key, is_directory",
        interval(TURN),
        BATCH,
        at,
    )
    .fetch_all(pool)
    .await
}

/// Notes that storage has removed the files.
pub async fn done(pool: &PgPool, deletion: &FileDeletion) -> sqlx::Result<()> {
    sqlx::query!("delete from file_deletions where key = $1 and is_decided", deletion.key).execute(pool).await?;
    Ok(())
}

/// The keys of all files and directories that are to be removed or that uploads are storing.
pub async fn keys(pool: &PgPool) -> sqlx::Result<HashSet<String>> {
    let keys = sqlx::query_scalar!("select key from file_deletions").fetch_all(pool).await?;
    Ok(keys.into_iter().collect())
}
