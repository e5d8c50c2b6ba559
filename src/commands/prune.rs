//! Removes finished jobs by age, size and accuracy, and files that nothing names: `distillery prune`, and the rounds of a
//! server that was given rules.
//!
//! A job with the label `keep`, whatever its value, is never removed, nor is one whose student another job waits for.

use std::collections::{HashMap, HashSet};
use std::io::Write;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::artifacts::{ListedFile, Store};
use crate::cli::{PruneArgs, Rules};
use crate::database::Database;
use crate::jobs::retention::{self, Finished};
use crate::jobs::store::Answer;
use crate::jobs::{checkpoints, store};

/// Runs the command.
///
/// # Errors
/// When the database or the storage cannot be reached, or refuses.
pub async fn run(args: PruneArgs) -> anyhow::Result<()> {
    let storage =
        args.storage.clone().unwrap_or_else(|| args.database.data_dir.join("artifacts").display().to_string());
    let artifacts = Store::open(&storage)?;
    let database = Database::open(&args.database).await?;
    let say = |line: String| Ok(writeln!(std::io::stdout(), "{line}")?);
    let outcome = prune(&database.pool, &artifacts, &args.rules, args.dry_run, say).await;
    database.close().await;
    outcome.map(drop)
}

/// Removes what the rules say, a line to `say` for each thing and one for all; returns how many things went.
///
/// # Errors
/// When the database or the storage cannot be reached, or refuses, or `say` fails.
pub async fn prune(
    pool: &PgPool,
    artifacts: &Store,
    rules: &Rules,
    is_dry_run: bool,
    mut say: impl FnMut(String) -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let would = if is_dry_run { "would remove" } else { "removed" };
    let files = artifacts.list().await.context("cannot list the storage")?;
    let finished = retention::finished(pool).await?;
    let sizes = sizes(&files);
    let (mut gone, mut job_bytes) = (HashSet::new(), 0);
    for job in doomed(&finished, &sizes, rules, Utc::now()) {
        if !is_dry_run {
            match store::delete(pool, &job.id).await? {
                Answer::Done(deletion) => {
                    artifacts.delete_below(&format!("jobs/{}", job.id), |_| false).await?;
                    deletion.commit().await?;
                }
                Answer::Not(reason) => {
                    say(format!("spared {} ({}): {reason}", job.id, job.name))?;
                    continue;
                }
                // Retried or deleted since it was listed.
                Answer::NotWhile(_) | Answer::Missing => continue,
            }
        }
        let size = sizes.get(job.id.as_str()).copied().unwrap_or(0);
        let when = job.finished_at.format("%Y-%m-%d");
        say(format!("{would} job {} ({}), finished {when}, {size} bytes", job.id, job.name))?;
        gone.insert(job.id.as_str());
        job_bytes += size;
    }
    // Read after the list: what was stored before that and is not named by now never will be.
    let named = retention::named(pool).await?;
    let old = Utc::now() - TimeDelta::minutes(rules.orphan_minutes.into());
    let (mut orphans, mut orphan_bytes) = (0, 0);
    let of_the_gone = |key: &str| job_of(key).is_some_and(|job| gone.contains(job));
    let is_orphan = |file: &&ListedFile| {
        is_ours(&file.key) && file.stored_at <= old && !named.needs(&file.key) && !of_the_gone(&file.key)
    };
    for file in files.iter().filter(is_orphan) {
        if !is_dry_run && !remove_orphan(pool, artifacts, &file.key).await? {
            continue;
        }
        say(format!("{would} {}, which nothing names, {} bytes", file.key, file.size_bytes))?;
        orphans += 1;
        orphan_bytes += file.size_bytes;
    }
    say(format!(
        "{would} {} jobs of {} ({job_bytes} bytes) and {orphans} files that nothing names ({orphan_bytes} bytes)",
        gone.len(),
        finished.len()
    ))?;
    Ok(gone.len() + orphans)
}

async fn remove_orphan(pool: &PgPool, artifacts: &Store, key: &str) -> anyhow::Result<bool> {
    let Some(sha256) = key.strip_prefix("checkpoints/") else {
        // The number of an attempt is never given again, nor is the id of a job.
        artifacts.delete(key).await?;
        return Ok(true);
    };
    let Some(holding_off) = checkpoints::hold_off(pool, sha256).await? else { return Ok(false) };
    artifacts.delete(key).await?;
    holding_off.rollback().await?;
    Ok(true)
}

/// Whether the file is of a kind that this server makes: the bucket may hold others' as well.
fn is_ours(key: &str) -> bool {
    ["jobs/", "checkpoints/", "probe/"].iter().any(|directory| key.starts_with(directory))
}

/// The job that a file is of.
fn job_of(key: &str) -> Option<&str> {
    key.strip_prefix("jobs/")?.split('/').next()
}

/// Bytes that each job has in storage.
fn sizes(files: &[ListedFile]) -> HashMap<&str, u64> {
    let mut sizes = HashMap::new();
    for file in files {
        if let Some(job) = job_of(&file.key) {
            *sizes.entry(job).or_default() += file.size_bytes;
        }
    }
    sizes
}

/// The jobs that are to go, of all finished ones, the latest first.
fn doomed<'a>(
    finished: &'a [Finished],
    sizes: &HashMap<&str, u64>,
    rules: &Rules,
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
    let mut doomed = Vec::new();
    // The oldest first, which are the first to go when there are too many bytes.
    for (place, job) in finished.iter().enumerate().rev() {
        if place < rules.keep_last || job.is_kept || is_best(job) {
            continue;
        }
        let is_old = limit.is_some_and(|limit| job.finished_at <= limit);
        if is_old || rules.max_bytes.is_some_and(|most| bytes > most) {
            bytes -= sizes.get(job.id.as_str()).copied().unwrap_or(0);
            doomed.push(job);
        }
    }
    doomed
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    /// Jobs that finished one, two, … days ago, with 10 bytes each: their accuracies, and whether they are to be kept.
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
        let doomed = doomed(&finished, &sizes, &args.rules, now);
        (0..finished.len()).filter(|place| !doomed.iter().any(|job| job.id == place.to_string())).collect()
    }

    #[test]
    fn jobs_go_by_age_and_size_but_not_those_to_be_spared() {
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
