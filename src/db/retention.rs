//! Which jobs and stored files are still needed, for housekeeping.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::artifacts::keys::{self, Owner};

/// A job that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Its id.
    pub id: String,
    /// The specification's name.
    pub name: String,
    /// Name of the data set.
    pub dataset: Option<String>,
    /// Its student's best top-1 accuracy in percent.
    pub best_top1: Option<f64>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// Whether it has the label `keep`.
    pub is_kept: bool,
}

/// Every job that has ended, the latest first.
pub async fn finished(pool: &PgPool) -> sqlx::Result<Vec<Finished>> {
    sqlx::query_as!(
        Finished,
        r#"
        select id, name, spec #>> '{dataset,name}' as dataset, (result ->> 'best_top1')::float8 as best_top1,
            finished_at as "finished_at!", labels ? 'keep' as "is_kept!"
        from jobs where finished_at is not null order by finished_at desc, id desc
        "#,
    )
    .fetch_all(pool)
    .await
}

/// The stored files that jobs and checkpoints need.
#[derive(Debug, Default)]
pub struct Named {
    keys: HashSet<String>,
    /// Directories of attempts that write now, or that a later attempt can resume from.
    attempts: HashSet<String>,
}

impl Named {
    /// Whether a stored file is needed.
    #[must_use]
    pub fn needs(&self, key: &str) -> bool {
        let is_of_attempt =
            || matches!(Owner::of(key), Some(Owner::Job { attempt, .. }) if self.attempts.contains(attempt));
        self.keys.contains(key) || is_of_attempt()
    }
}

/// Reads which files are needed.
pub async fn named(pool: &PgPool) -> sqlx::Result<Named> {
    let mut named = Named::default();
    named.keys.extend(sqlx::query_scalar!("select key from artifacts").fetch_all(pool).await?);
    let uploads = sqlx::query_scalar!("select sha256 from checkpoints").fetch_all(pool).await?;
    named.keys.extend(uploads.iter().map(|sha256| keys::checkpoint(sha256)));
    let attempts = sqlx::query!(
        r#"
        select id as "job!", concat_ws('-', attempt, claim) as "attempt!" from jobs where lease_expires_at is not null
        union
        select id, split_part(checkpoint ->> 'key', '/', 4) from jobs where checkpoint is not null
        "#
    )
    .fetch_all(pool)
    .await?;
    named.attempts.extend(attempts.iter().map(|row| keys::attempt(&row.job, &row.attempt)));
    Ok(named)
}
