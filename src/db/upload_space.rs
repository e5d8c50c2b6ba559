//! The space that uploads take together: checkpoints and data sets, shards and pieces that wait for others, and files
//! that are being stored.

use sqlx::{PgExecutor, PgPool};

use super::file_deletions;

/// Bytes of uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedSpace {
    /// Taken by checkpoints and data sets.
    pub stored: i64,
    /// Taken by shards and pieces that wait for others.
    pub waiting: i64,
    /// Reserved for files that are being stored.
    pub arriving: i64,
}

/// What all uploads take but the checkpoint or data set with that id. In one statement, because a file that has arrived
/// is counted elsewhere from then on.
pub async fn used(database: impl PgExecutor<'_>, id: &str) -> sqlx::Result<UsedSpace> {
    sqlx::query_as!(
        UsedSpace,
        r#"
        with uploads as (select id, size_bytes from checkpoints union all select id, size_bytes from datasets),
            parts as (select key, size_bytes from dataset_shards union all select key, size_bytes from dataset_pieces)
        select
            (select coalesce(sum(size_bytes), 0) from uploads where id <> $1)::bigint as "stored!",
            (select coalesce(sum(size_bytes), 0) from parts join file_deletions using (key)
                where not is_decided)::bigint as "waiting!",
            (select coalesce(sum(reserved_bytes), 0) from file_deletions
                where not is_decided and reserved_until > now())::bigint as "arriving!"
        "#,
        id,
    )
    .fetch_one(database)
    .await
}

/// Announces a file ([`file_deletions::announce`]) that takes this many bytes from now on, if there is space for it
/// beside the others. Otherwise returns what they take. `id` as for [`used`]. The file takes them for a minute, unless
/// somebody [keeps](crate::removals::keep_space) them.
pub async fn reserve(
    pool: &PgPool,
    key: &str,
    bytes: u64,
    id: &str,
    is_space: impl FnOnce(UsedSpace) -> bool,
) -> sqlx::Result<Result<(), UsedSpace>> {
    let mut transaction = pool.begin().await?;
    // Whoever reserves at the same time waits, and then sees this.
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('space of uploads', 0))")
        .execute(&mut *transaction)
        .await?;
    let used = used(&mut *transaction, id).await?;
    if !is_space(used) {
        transaction.rollback().await?;
        return Ok(Err(used));
    }
    file_deletions::announce_with(&mut transaction, key, i64::try_from(bytes).unwrap_or(i64::MAX)).await?;
    transaction.commit().await?;
    Ok(Ok(()))
}
