//! Which jobs and stored files are still needed, for housekeeping.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::file_deletions;
use crate::artifacts::keys::{self, Owner};

/// A job that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    pub id: String,
    /// The specification's name.
    pub name: String,
    /// Name of the data set.
    pub dataset: Option<String>,
    /// Its student's best top-1 accuracy in percent.
    pub best_top1: Option<f64>,
    pub finished_at: DateTime<Utc>,
    /// Whether it has the label `keep`.
    pub is_kept: bool,
}

/// Every job that has ended, the latest first.
pub async fn finished(pool: &PgPool) -> sqlx::Result<Vec<Finished>> {
    sqlx::query_as!(
        Finished,
        r#"
        select id, name, spec #>> '{dataset,name}' as dataset,
            case when result is not null then best_top1 end as best_top1,
            calendar_time(finished_at) as "finished_at!", labels ? 'keep' as "is_kept!"
        from jobs where finished_at is not null order by finished_at desc, id desc
        "#,
    )
    .fetch_all(pool)
    .await
}

/// The stored files that are needed.
#[derive(Debug, Default)]
pub struct NeededFiles {
    keys: HashSet<String>,
    /// Directories of attempts that a later attempt can resume from.
    resumable: HashSet<String>,
    /// Jobs whose state to resume from is stored in a form that this program does not know: any file of theirs may be
    /// part of it.
    opaque: HashSet<String>,
    writing: Writing,
}

/// The files that are being written, or that are being deleted by whoever began with that.
#[derive(Debug, Default)]
pub struct Writing {
    /// Keys of uploads and of deletions.
    keys: HashSet<String>,
    /// Directories of attempts that hold their job.
    attempts: HashSet<String>,
}

impl NeededFiles {
    /// Whether a stored file is needed, or left to somebody else.
    #[must_use]
    pub fn needs(&self, key: &str) -> bool {
        let is_of_state = || match Owner::of(key) {
            Some(Owner::Job { job, attempt }) => self.resumable.contains(attempt) || self.opaque.contains(job),
            _ => false,
        };
        self.keys.contains(key) || self.writing.includes(key) || is_of_state()
    }

    /// Whether a half-written file may still become whole, or is left to somebody else.
    #[must_use]
    pub fn is_writing(&self, key: &str) -> bool {
        self.writing.includes(key)
    }
}

impl Writing {
    fn includes(&self, key: &str) -> bool {
        match Owner::of(key) {
            Some(Owner::Job { job, attempt }) => self.attempts.contains(attempt) || self.keys.contains(&keys::job(job)),
            _ => self.keys.contains(key),
        }
    }
}

/// Reads which files are needed. A file that was listed before and is not needed now never will be.
pub async fn named(pool: &PgPool) -> sqlx::Result<NeededFiles> {
    let mut named = NeededFiles::default();
    // Read first: an upload's file is named here until a checkpoint or a data set names it.
    named.writing.keys = file_deletions::keys(pool).await?;
    named.keys.extend(sqlx::query_scalar!("select key from artifacts").fetch_all(pool).await?);
    let uploads = sqlx::query_scalar!(r#"select checkpoint_key(key, sha256) as "key!" from checkpoints"#);
    named.keys.extend(uploads.fetch_all(pool).await?);
    named.keys.extend(sqlx::query_scalar!("select key from datasets").fetch_all(pool).await?);
    let jobs = sqlx::query!(
        r#"
        select id, case when lease_expires_at is not null then concat_ws('-', attempt, claim) end as attempt,
            checkpoint is not null as "has_state!", checkpoint ->> 'key' as state
        from jobs where lease_expires_at is not null or checkpoint is not null
        "#
    )
    .fetch_all(pool)
    .await?;
    for row in jobs {
        if let Some(attempt) = row.attempt {
            named.writing.attempts.insert(keys::attempt(&row.id, &attempt));
        }
        if row.has_state {
            named.need_state(row.id, row.state);
        }
    }
    Ok(named)
}

impl NeededFiles {
    /// Notes what a job resumes from: the directory of the attempt with that key, or what another program knows.
    fn need_state(&mut self, job: String, key: Option<String>) {
        let attempts = keys::attempt(&job, "");
        let directory = match key.as_deref().filter(|key| key.starts_with(&attempts)).and_then(Owner::of) {
            Some(Owner::Job { attempt, .. }) => Some(attempt.to_owned()),
            _ => None,
        };
        if let Some(directory) = directory {
            self.resumable.insert(directory);
            return;
        }
        tracing::warn!(job, "keeping all files of a job: another version of the program stored its state");
        self.opaque.insert(job);
        self.keys.extend(key);
    }
}
