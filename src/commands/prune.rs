//! Removes finished jobs by age, size and accuracy, and unreferenced files: for `distillery prune`, and for the
//! housekeeping of a server that has rules.
//!
//! A job with the label `keep`, whatever its value, is never removed. Neither is a job whose student another job waits
//! for.

use std::collections::{HashMap, HashSet};
use std::io::Write;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::artifacts::keys::{self, Owner};
use crate::artifacts::{ListedFile, Store};
use crate::cli::{PruneArgs, PruneRules};
use crate::db::jobs::Refusal;
use crate::db::retention::{self, Finished};
use crate::db::{self, Database, checkpoints};

/// # Errors
/// The database or the storage fails.
pub async fn run(args: PruneArgs) -> anyhow::Result<()> {
    let storage =
        args.storage.clone().unwrap_or_else(|| args.database.data_dir.join("artifacts").display().to_string());
    let artifacts = Store::open(&storage)?;
    let database = Database::open(&args.database).await?;
    let report = |line: String| Ok(writeln!(std::io::stdout(), "{line}")?);
    let outcome = prune(&database.pool, &artifacts, &args.rules, args.dry_run, report).await;
    database.close().await;
    outcome.map(drop)
}

/// Removes what the rules say. Passes a line to `report` for each removed job or file, and a summary; returns how many
/// were removed.
///
/// # Errors
/// The database or the storage fails, or `report` does.
pub async fn prune(
    pool: &PgPool,
    artifacts: &Store,
    rules: &PruneRules,
    is_dry_run: bool,
    mut report: impl FnMut(String) -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let removed = if is_dry_run { "would remove" } else { "removed" };
    let files = artifacts.list().await.context("cannot list the storage")?;
    let finished = retention::finished(pool).await?;
    let sizes = sizes(&files);
    let (mut removed_jobs, mut job_bytes) = (HashSet::new(), 0);
    for job in select(&finished, &sizes, rules, Utc::now()) {
        if !is_dry_run {
            match db::jobs::delete(pool, &job.id).await? {
                Ok(deletion) => {
                    artifacts.delete_below(&keys::job(&job.id), |_| false).await?;
                    deletion.commit().await?;
                }
                Err(Refusal::Because(reason)) => {
                    report(format!("kept {} ({}): {reason}", job.id, job.name))?;
                    continue;
                }
                // Retried or deleted since it was listed.
                Err(Refusal::NotWhile(_) | Refusal::Missing) => continue,
            }
        }
        let size = sizes.get(job.id.as_str()).copied().unwrap_or(0);
        let when = job.finished_at.format("%Y-%m-%d");
        report(format!("{removed} job {} ({}), finished {when}, {size} bytes", job.id, job.name))?;
        removed_jobs.insert(job.id.as_str());
        job_bytes += size;
    }
    // Queried after the files were listed: a listed file that is unreferenced now will never be referenced.
    let named = retention::named(pool).await?;
    let old = Utc::now() - TimeDelta::minutes(rules.orphan_minutes.into());
    let (mut orphans, mut orphan_bytes) = (0, 0);
    let of_removed_job = |key: &str| job_of(key).is_some_and(|job| removed_jobs.contains(job));
    let is_orphan = |file: &&ListedFile| {
        Owner::of(&file.key).is_some() && file.stored_at <= old && !named.needs(&file.key) && !of_removed_job(&file.key)
    };
    for file in files.iter().filter(is_orphan) {
        if !is_dry_run && !remove_orphan(pool, artifacts, &file.key).await? {
            continue;
        }
        report(format!("{removed} unreferenced {}, {} bytes", file.key, file.size_bytes))?;
        orphans += 1;
        orphan_bytes += file.size_bytes;
    }
    report(format!(
        "{removed} {} of {} finished jobs ({job_bytes} bytes) and {orphans} unreferenced files ({orphan_bytes} bytes)",
        removed_jobs.len(),
        finished.len()
    ))?;
    Ok(removed_jobs.len() + orphans)
}

async fn remove_orphan(pool: &PgPool, artifacts: &Store, key: &str) -> anyhow::Result<bool> {
    let Some(Owner::Checkpoint(sha256)) = Owner::of(key) else {
        // Attempt numbers and job ids are never reused, so nothing can refer to it later.
        artifacts.delete(key).await?;
        return Ok(true);
    };
    let Some(upload_lock) = checkpoints::hold_off(pool, sha256).await? else { return Ok(false) };
    artifacts.delete(key).await?;
    upload_lock.rollback().await?;
    Ok(true)
}

/// The job that a file belongs to.
fn job_of(key: &str) -> Option<&str> {
    match Owner::of(key)? {
        Owner::Job { job, .. } => Some(job),
        Owner::Checkpoint(_) | Owner::Probe => None,
    }
}

/// Bytes in storage, by job.
fn sizes(files: &[ListedFile]) -> HashMap<&str, u64> {
    let mut sizes = HashMap::new();
    for file in files {
        if let Some(job) = job_of(&file.key) {
            *sizes.entry(job).or_default() += file.size_bytes;
        }
    }
    sizes
}

/// The jobs to remove. `finished` is sorted by time, latest first.
fn select<'a>(
    finished: &'a [Finished],
    sizes: &HashMap<&str, u64>,
    rules: &PruneRules,
    now: DateTime<Utc>,
) -> Vec<&'a Finished> {
    let mut best: HashMap<&str, Vec<&Finished>> = HashMap::new();
    for job in finished.iter().filter(|job| job.best_top1.is_some()) {
        best.entry(job.dataset.as_deref().unwrap_or_default()).or_default().push(job);
    }
    for jobs in best.values_mut() {
        jobs.sort_by(|one, other| other.best_top1.unwrap_or(0.0).total_cmp(&one.best_top1.unwrap_or(0.0)));
        jobs.truncate(rules.keep_best);
    }
    let is_best = |job: &Finished| {
        best.get(job.dataset.as_deref().unwrap_or_default()).is_some_and(|jobs| jobs.iter().any(|of| of.id == job.id))
    };
    let limit = rules.older_than_days.map(|days| now - TimeDelta::days(days.into()));
    let mut bytes: u64 = sizes.values().sum();
    let mut selected = Vec::new();
    // Oldest first: if the files take too many bytes, the oldest jobs are removed first.
    for (place, job) in finished.iter().enumerate().rev() {
        if place < rules.keep_last || job.is_kept || is_best(job) {
            continue;
        }
        let is_old = limit.is_some_and(|limit| job.finished_at <= limit);
        if is_old || rules.max_bytes.is_some_and(|most| bytes > most) {
            bytes -= sizes.get(job.id.as_str()).copied().unwrap_or(0);
            selected.push(job);
        }
    }
    selected
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    /// Indices of the jobs that are left, of jobs that finished one, two, … days ago and have 10 bytes each. Per job: its
    /// accuracy, and whether it has the label `keep`.
    fn left(accuracies: &[(Option<f64>, bool)], flags: &[&str]) -> Vec<usize> {
        let now = Utc::now();
        let job = |(place, (best_top1, is_kept)): (usize, &(Option<f64>, bool))| Finished {
            id: place.to_string(),
            name: String::new(),
            dataset: Some(if place < 4 { "cifar100" } else { "imagenet" }.to_owned()),
            best_top1: *best_top1,
            finished_at: now - TimeDelta::days(place as i64 + 1),
            is_kept: *is_kept,
        };
        let finished: Vec<Finished> = accuracies.iter().enumerate().map(job).collect();
        let sizes = finished.iter().map(|job| (job.id.as_str(), 10)).collect();
        let cli = Cli::try_parse_from(["distillery", "prune"].iter().chain(flags)).expect("flags");
        let Command::Prune(args) = cli.command else { panic!("prune") };
        let selected = select(&finished, &sizes, &args.rules, now);
        (0..finished.len()).filter(|place| !selected.iter().any(|job| job.id == place.to_string())).collect()
    }

    #[test]
    fn jobs_are_removed_by_age_and_size_except_those_to_keep() {
        let jobs = [
            (Some(60.0), false),
            (None, false),
            (Some(70.0), false),
            (Some(65.0), false),
            (Some(10.0), true),
            (Some(20.0), false),
        ];
        assert_eq!(left(&jobs, &[]), [0, 1, 2, 3, 4, 5]);
        assert_eq!(left(&jobs, &["--older-than-days", "3"]), [0, 1, 4]);
        assert_eq!(left(&jobs, &["--older-than-days", "0"]), [4]);
        assert_eq!(left(&jobs, &["--older-than-days", "0", "--keep-last", "2"]), [0, 1, 4]);
        assert_eq!(left(&jobs, &["--older-than-days", "0", "--keep-best", "1"]), [2, 4, 5]);
        assert_eq!(left(&jobs, &["--max-bytes", "60"]), [0, 1, 2, 3, 4, 5]);
        assert_eq!(left(&jobs, &["--max-bytes", "59"]), [0, 1, 2, 3, 4]);
        assert_eq!(left(&jobs, &["--max-bytes", "30"]), [0, 1, 4]);
        assert_eq!(left(&jobs, &["--max-bytes", "0", "--keep-last", "1", "--keep-best", "1"]), [0, 2, 4, 5]);
    }
}
