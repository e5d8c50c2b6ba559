//! The table `finished_uploads`: what uploads of data sets became.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::interval;

/// How long an upload is remembered: as long as pieces wait for others.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// An upload that has become a version, with the part of it that came last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedUpload {
    pub upload: String,
    /// The split that its shard belongs to.
    pub split: Option<String>,
    /// Which shard it is; empty for the whole data set.
    pub place: String,
    /// Offset of the last part in the upload.
    pub start_at: i64,
    /// Size of the last part.
    pub size_bytes: i64,
    /// Size of the whole upload.
    pub total_bytes: i64,
    /// Of the last part, in hexadecimal.
    pub sha256: String,
    /// `name@version`
    pub dataset_id: String,
    /// Until when it is remembered.
    pub expires_at: DateTime<Utc>,
}

/// Remembers an upload, and forgets old ones.
pub async fn remember(pool: &PgPool, name: &str, new: &FinishedUpload) -> sqlx::Result<()> {
    sqlx::query!("delete from finished_uploads where finished_at < now() - $1::interval", interval(REMEMBERED))
        .execute(pool)
        .await?;
    sqlx::query!(
        "insert into finished_uploads
            (name, upload, split, place, start_at, size_bytes, total_bytes, sha256, dataset_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (name, upload) do update set
            split = excluded.split, place = excluded.place, start_at = excluded.start_at,
            size_bytes = excluded.size_bytes, total_bytes = excluded.total_bytes, sha256 = excluded.sha256,
            dataset_id = excluded.dataset_id, finished_at = now()",
        name,
        new.upload,
        new.split,
        new.place,
        new.start_at,
        new.size_bytes,
        new.total_bytes,
        new.sha256,
        new.dataset_id,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// What an upload became, while that is the latest version of the name: later, the same files make it the latest again.
/// While shards of a split wait, another set of them has been begun, and what comes belongs to that.
pub async fn find(pool: &PgPool, name: &str, upload: &str) -> sqlx::Result<Option<FinishedUpload>> {
    sqlx::query_as!(
        FinishedUpload,
        r#"
        select upload, split, place, start_at, size_bytes, total_bytes, sha256, dataset_id,
            finished_at + $3::interval as "expires_at!"
        from finished_uploads as finished
        where name = $1 and upload = $2 and finished_at > now() - $3::interval
            and dataset_id = (select id from datasets where name = $1 order by uploaded_at desc, id limit 1)
            and not exists (
                select from dataset_shards
                    join file_deletions on file_deletions.key = dataset_shards.key and not is_decided
                where dataset_shards.name = $1 and dataset_shards.split = finished.split)
        "#,
        name,
        upload,
        interval(REMEMBERED),
    )
    .fetch_optional(pool)
    .await
}

/// Forgets an upload.
pub async fn forget(pool: &PgPool, name: &str, upload: &str) -> sqlx::Result<()> {
    sqlx::query!("delete from finished_uploads where name = $1 and upload = $2", name, upload).execute(pool).await?;
    Ok(())
}
