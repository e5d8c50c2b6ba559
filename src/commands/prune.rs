//! Removes finished jobs by age, size and accuracy, superseded data sets, and unreferenced files: for `distillery
//! prune`, and for the housekeeping of a server that has rules.
//!
//! A job with the label `keep`, whatever its value, is never removed. Neither is a job whose student another job waits
//! for.

mod datasets;

use std::collections::HashMap;
use std::io::Write;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::artifacts::keys::Owner;
use crate::artifacts::{ListedFile, Store, UnfinishedFile};
use crate::cli::{PruneArgs, PruneRules};
use crate::db::deleted_jobs;
use crate::db::errors::Transient;
use crate::db::jobs::Refusal;
use crate::db::retention::{self, Finished, NeededFiles};
use crate::db::{self, Database};
use crate::removals;
use crate::storage_check::{self, Opener};
use crate::text::counted;

/// # Errors
/// The database or the storage fails, or something could not be removed.
pub async fn run(args: PruneArgs) -> anyhow::Result<()> {
    let storage =
        args.storage.clone().unwrap_or_else(|| args.database.data_dir.join("artifacts").display().to_string());
    let database = Database::open(args.database.location()).await?;
    let outcome = run_on(&database.pool, &storage, &args).await;
    database.close().await;
    let failed = outcome?.failed;
    let kept = counted(failed as u64, "job, data set or file", "jobs, data sets or files");
    anyhow::ensure!(failed == 0, "{kept} could not be removed: see above; the next round tries again");
    Ok(())
}

async fn run_on(pool: &PgPool, storage: &str, args: &PruneArgs) -> anyhow::Result<Pruned> {
    let artifacts = storage_check::open(storage, pool, Opener::Server).await?;
    let mut is_read = true;
    let report = |line: String| {
        // Whoever reads the lines may have gone, as in `distillery prune | head`: the round goes on.
        if is_read && let Err(error) = writeln!(std::io::stdout(), "{line}") {
            is_read = false;
            tracing::warn!(%error, "cannot write to standard output; pruning goes on");
        }
    };
    prune(pool, &artifacts, &args.rules, args.dry_run, report).await
}

/// What a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many jobs, data sets and files were removed, or would have been.
    pub removed: usize,
    /// How many could not be removed. The next round tries again.
    pub failed: usize,
}

/// Removes what the rules say. Passes a line to `report` for each job or file, and a summary. What cannot be removed is
/// reported and ends nothing else.
///
/// # Errors
/// The database fails, or the storage cannot be listed.
pub async fn prune(
    pool: &PgPool,
    artifacts: &Store,
    rules: &PruneRules,
    is_dry_run: bool,
    report: impl FnMut(String),
) -> anyhow::Result<Pruned> {
    let removed = if is_dry_run { "would remove" } else { "removed" };
    let mut round = Round { pool, artifacts, is_dry_run, removed, report, failed: 0, gone: Vec::new() };
    if !is_dry_run {
        let (done, failed) = removals::catch_up(pool, artifacts).await?;
        if done > 0 {
            let earlier = counted(done as u64, "earlier deletion", "earlier deletions");
            (round.report)(format!("removed the files of {earlier}"));
        }
        round.failed += failed;
        let (done, failed) = removals::catch_up_with_jobs(pool).await?;
        if done > 0 {
            let deleted = counted(done as u64, "deleted job", "deleted jobs");
            (round.report)(format!("removed what was left of the events and points of {deleted}"));
        }
        round.failed += failed;
    }
    let files = artifacts.list().await.context("cannot list the storage")?;
    let unfinished = artifacts.unfinished().await;
    // Queried after the files were listed: a listed file that is unreferenced now will never be referenced.
    let named = retention::named(pool).await?;
    let old = Utc::now() - TimeDelta::minutes(rules.orphan_minutes.into());
    let (files, orphans) = round.remove_orphans(files, &named, old).await;
    let unfinished = round.remove_unfinished(unfinished, &named, old).await;
    let finished = retention::finished(pool).await?;
    let jobs = round.remove_jobs(&finished, &files, rules).await?;
    let versions = match rules.superseded_datasets_days {
        Some(days) => Some(round.remove_datasets(days).await?),
        None => None,
    };
    let (count, orphan_bytes) = (orphans.count + unfinished.count, orphans.bytes + unfinished.bytes);
    (round.report)(format!(
        "{removed} {} of {} ({} bytes) and {} ({orphan_bytes} bytes)",
        jobs.count,
        counted(finished.len() as u64, "finished job", "finished jobs"),
        jobs.bytes,
        counted(count as u64, "unreferenced file", "unreferenced files")
    ));
    if let Some(versions) = &versions {
        let datasets = counted(versions.count as u64, "superseded version", "superseded versions");
        (round.report)(format!("{removed} {datasets} of data sets ({} bytes)", versions.bytes));
    }
    let versions = versions.map_or(0, |versions| versions.count);
    Ok(Pruned { removed: jobs.count + count + versions, failed: round.failed })
}

struct Round<'a, R> {
    pool: &'a PgPool,
    artifacts: &'a Store,
    is_dry_run: bool,
    /// The verb of a report.
    removed: &'static str,
    report: R,
    failed: usize,
    /// The jobs that were removed, or would be.
    gone: Vec<String>,
}

#[derive(Debug, Default)]
struct Total {
    count: usize,
    bytes: u64,
}

impl Total {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

impl<R: FnMut(String)> Round<'_, R> {
    /// Whether something was removed, or would be.
    fn check(&mut self, what: &str, outcome: anyhow::Result<()>) -> bool {
        if let Err(error) = &outcome {
            self.failed += 1;
            (self.report)(format!("could not remove {what}: {error}"));
        }
        outcome.is_ok()
    }

    /// Removes the files that nothing needs, and returns the others.
    async fn remove_orphans(
        &mut self,
        files: Vec<ListedFile>,
        named: &NeededFiles,
        old: DateTime<Utc>,
    ) -> (Vec<ListedFile>, Total) {
        let is_orphan =
            |file: &ListedFile| Owner::of(&file.key).is_some() && file.stored_at <= old && !named.needs(&file.key);
        let (orphans, mut others): (Vec<_>, Vec<_>) = files.into_iter().partition(is_orphan);
        let mut total = Total::default();
        for file in orphans {
            // No key is used twice, so nothing can refer to the file later.
            if !self.is_dry_run {
                let outcome = self.artifacts.delete(&file.key).await;
                if !self.check(&file.key, outcome.map_err(Into::into)) {
                    others.push(file);
                    continue;
                }
            }
            (self.report)(format!("{} unreferenced {}, {} bytes", self.removed, file.key, file.size_bytes));
            total.add(file.size_bytes);
        }
        (others, total)
    }

    /// Removes what interrupted uploads have left.
    async fn remove_unfinished(
        &mut self,
        unfinished: anyhow::Result<Vec<UnfinishedFile>>,
        named: &NeededFiles,
        old: DateTime<Utc>,
    ) -> Total {
        let mut total = Total::default();
        let unfinished = match unfinished {
            Ok(unfinished) => unfinished,
            Err(error) => {
                (self.report)(format!("interrupted uploads are not removed: {error:#}"));
                return total;
            }
        };
        for file in unfinished {
            if Owner::of(&file.key).is_none() || file.touched_at > old || named.is_writing(&file.key) {
                continue;
            }
            if !self.is_dry_run {
                let outcome = self.artifacts.remove_unfinished(&file).await;
                if !self.check(&format!("the unfinished upload of {}", file.key), outcome) {
                    continue;
                }
            }
            let size = file.size_bytes.map_or_else(String::new, |bytes| format!(", {bytes} bytes"));
            (self.report)(format!("{} the unfinished upload of {}{size}", self.removed, file.key));
            total.add(file.size_bytes.unwrap_or(0));
        }
        total
    }

    /// Removes the jobs that the rules name. A job whose files cannot be removed is gone all the same: its files follow
    /// later.
    async fn remove_jobs(
        &mut self,
        finished: &[Finished],
        files: &[ListedFile],
        rules: &PruneRules,
    ) -> sqlx::Result<Total> {
        let usage = StorageUse::of(files);
        if let Some(most) = rules.max_bytes.filter(|&most| usage.uploads > most) {
            (self.report)(format!(
                "no job is removed because of its size: the uploads alone have {} bytes, more than the {most} of \
                 --max-bytes. Delete checkpoints and data sets that no job needs, or raise --max-bytes",
                usage.uploads
            ));
        }
        let mut total = Total::default();
        for job in select(finished, &usage, rules, Utc::now()) {
            if !self.is_dry_run && !self.remove_job(job).await? {
                continue;
            }
            let size = usage.jobs.get(job.id.as_str()).copied().unwrap_or(0);
            let when = job.finished_at.format("%Y-%m-%d");
            let Self { removed, .. } = self;
            (self.report)(format!("{removed} job {} ({}), finished {when}, {size} bytes", job.id, job.name));
            total.add(size);
            self.gone.push(job.id.clone());
        }
        Ok(total)
    }

    /// Whether the job and its files are gone. An error if the next job would meet the same one.
    async fn remove_job(&mut self, job: &Finished) -> sqlx::Result<bool> {
        let deletion = match db::jobs::delete(self.pool, &job.id).await {
            Ok(Ok(deletion)) => deletion,
            Ok(Err(Refusal::Because(reason))) => {
                (self.report)(format!("kept {} ({}): {reason}", job.id, job.name));
                return Ok(false);
            }
            // Retried or deleted since it was listed.
            Ok(Err(Refusal::NotWhile(_) | Refusal::Missing)) => return Ok(false),
            Err(error) if is_of_all(&error) => return Err(error),
            Err(error) => return Ok(self.check(&format!("job {} ({})", job.id, job.name), Err(error.into()))),
        };
        let history = deleted_jobs::finish(self.pool, &job.id).await;
        let is_finished =
            self.check(&format!("the events and points of job {} ({})", job.id, job.name), history.map_err(Into::into));
        let outcome = removals::carry_out(self.pool, self.artifacts, &deletion).await;
        Ok(self.check(&format!("the files of job {} ({})", job.id, job.name), outcome) && is_finished)
    }
}

/// Whether the database would answer the same for every other job.
fn is_of_all(error: &sqlx::Error) -> bool {
    !matches!(Transient::of(error), None | Some(Transient::Contended | Transient::Interrupted))
}

#[derive(Debug, Default)]
struct StorageUse<'a> {
    jobs: HashMap<&'a str, u64>,
    /// Of uploaded checkpoints and data sets, which are not removed for their size.
    uploads: u64,
}

impl<'a> StorageUse<'a> {
    fn of(files: &'a [ListedFile]) -> Self {
        let mut usage = Self::default();
        for file in files {
            match Owner::of(&file.key) {
                Some(Owner::Job { job, .. }) => *usage.jobs.entry(job).or_default() += file.size_bytes,
                Some(Owner::Checkpoint | Owner::Dataset) => usage.uploads += file.size_bytes,
                Some(Owner::Probe) | None => {}
            }
        }
        usage
    }
}

/// The jobs to remove. `finished` is sorted by time, latest first.
fn select<'a>(
    finished: &'a [Finished],
    usage: &StorageUse<'_>,
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
    let mut bytes = usage.jobs.values().sum::<u64>() + usage.uploads;
    // If the uploads alone are too large, removing jobs would not help.
    let most = rules.max_bytes.filter(|&most| usage.uploads <= most);
    let mut selected = Vec::new();
    // Oldest first: if the files take too many bytes, the oldest jobs are removed first.
    for (place, job) in finished.iter().enumerate().rev() {
        if place < rules.keep_last || job.is_kept || is_best(job) {
            continue;
        }
        let is_old = limit.is_some_and(|limit| job.finished_at <= limit);
        if is_old || most.is_some_and(|most| bytes > most) {
            bytes -= usage.jobs.get(job.id.as_str()).copied().unwrap_or(0);
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

    /// Indices of the jobs that are left, of jobs that finished one, two, … days ago and have 10 bytes each. Per job:
    /// its accuracy, and whether it has the label `keep`.
    fn left(accuracies: &[(Option<f64>, bool)], flags: &[&str]) -> Vec<usize> {
        left_beside(0, accuracies, flags)
    }

    /// The same where uploads have this many bytes.
    fn left_beside(uploads: u64, accuracies: &[(Option<f64>, bool)], flags: &[&str]) -> Vec<usize> {
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
        let usage = StorageUse { jobs: finished.iter().map(|job| (job.id.as_str(), 10)).collect(), uploads };
        let cli = Cli::try_parse_from(["distillery", "prune"].iter().chain(flags)).expect("flags");
        let Command::Prune(args) = cli.command else { panic!("prune") };
        let selected = select(&finished, &usage, &args.rules, now);
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
    #[test]
    fn uploads_count_as_bytes_and_are_no_reason_to_remove_every_job() {
        let jobs = [(None, false), (None, false), (None, false)];
        assert_eq!(left_beside(25, &jobs, &["--max-bytes", "55"]), [0, 1, 2]);
        assert_eq!(left_beside(25, &jobs, &["--max-bytes", "54"]), [0, 1]);
        assert_eq!(left_beside(25, &jobs, &["--max-bytes", "25"]), [0; 0]);
        assert_eq!(left_beside(25, &jobs, &["--max-bytes", "24"]), [0, 1, 2]);
        assert_eq!(left_beside(25, &jobs, &["--max-bytes", "24", "--older-than-days", "3"]), [0, 1]);
    }
}
