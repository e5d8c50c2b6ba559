//! Decides what follows in a sweep once none of its jobs is left to wait for.

use serde_json::json;
use sqlx::{Connection, PgConnection, PgPool};

use super::SweepStatus;
use super::ranking::{Score, rank};
use crate::db::declined;
use crate::db::events::{self, EventKind, NewEvent};
use crate::db::jobs::{Change, Status};
use crate::db::queue::fail_dependents;
use crate::text::counted;

/// A point's epoch may differ from a whole number by rounding.
const ROUNDING: f64 = 0.001;

/// Goes on with the sweep of a job that has just ended, or stopped, in this transaction: at a rung it says which jobs
/// go on and cancels the others, and after the last job it ends the sweep. Does nothing while other jobs of it are
/// under way.
pub(in crate::db) async fn settle(connection: &mut PgConnection, job: &str) -> sqlx::Result<()> {
    let query = sqlx::query_scalar!("select sweep_id from jobs where id = $1", job);
    let Some(sweep) = query.fetch_optional(&mut *connection).await?.flatten() else { return Ok(()) };
    settle_with_others(connection, &sweep).await
}

/// Settles a sweep, and others whose last jobs waited for students that it has dropped.
async fn settle_with_others(connection: &mut PgConnection, sweep: &str) -> sqlx::Result<()> {
    if settle_sweep(connection, sweep).await? > 0 {
        settle_free(connection).await?;
    }
    Ok(())
}

/// Goes on with every sweep none of whose jobs is under way: a decision was left because a row was locked, or a program
/// that knows no sweeps has ended or deleted the last job. Each has a transaction of its own, so that one that this
/// program cannot read keeps no other from going on. Finding them reads nothing of what it may not understand.
pub(in crate::db) async fn settle_all(pool: &PgPool) -> sqlx::Result<()> {
    let sweeps = sqlx::query_scalar!(
        r#"
        select id from sweeps where status = 'running' and not exists (
            select from jobs join sweep_combinations as own on own.sweep_id = sweeps.id and own.number = jobs.combination
            where jobs.sweep_id = sweeps.id and own.dropped_rung is null
                and jobs.status <> all($1) and jobs.status <> 'paused')
        order by id
        "#,
        &Status::FINAL as &[Status],
    )
    .fetch_all(pool)
    .await?;
    for sweep in sweeps {
        let settled = async {
            let mut transaction = pool.begin().await?;
            settle_with_others(&mut transaction, &sweep).await?;
            transaction.commit().await
        };
        if let Err(error) = settled.await {
            tracing::warn!(sweep, %error, "cannot go on with a sweep");
        }
    }
    Ok(())
}

/// The same for sweeps whose rows are not locked, for a transaction that may hold another sweep: it must not wait for
/// one with a lower id. The others are left to [`settle_all`], which workers call again and again, and so are those
/// that this program cannot read.
pub(in crate::db) async fn settle_free(connection: &mut PgConnection) -> sqlx::Result<()> {
    // Another round follows only if jobs have failed, and each round leaves fewer that can.
    while settle_free_once(connection).await? > 0 {}
    Ok(())
}

/// Returns the number of jobs that failed because a sweep dropped their teacher: others may have waited for these.
async fn settle_free_once(connection: &mut PgConnection) -> sqlx::Result<u64> {
    let sweeps = sqlx::query_scalar!(
        r#"
        select id from sweeps where status = 'running' and not exists (
            select from jobs join sweep_combinations as own on own.sweep_id = sweeps.id and own.number = jobs.combination
            where jobs.sweep_id = sweeps.id and own.dropped_rung is null
                and jobs.status <> all($1) and jobs.status <> 'paused')
        order by id
        for no key update skip locked
        "#,
        &Status::FINAL as &[Status],
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut failed = 0;
    for sweep in sweeps {
        let mut savepoint = connection.begin().await?;
        match settle_sweep(&mut savepoint, &sweep).await {
            Ok(jobs) => {
                savepoint.commit().await?;
                failed += jobs;
            }
            Err(error) => {
                tracing::warn!(sweep, %error, "cannot go on with a sweep now");
                savepoint.rollback().await?;
            }
        }
    }
    Ok(failed)
}

/// A running sweep, whose row is locked until the transaction ends.
struct LockedSweep {
    rungs: Vec<i32>,
    keep: f64,
    rung: i32,
}

impl LockedSweep {
    /// The place of the next rung to decide on, and its epochs; `None` after the last comparison.
    fn next(&self) -> Option<(usize, i32)> {
        let place = usize::try_from(self.rung).ok()?;
        let (_, compared) = self.rungs.split_last()?;
        Some((place, *compared.get(place)?))
    }

    /// The epochs after which jobs wait next that have passed this rung; `None` if they train to their end.
    fn pause_after(&self, rung: usize) -> Option<i32> {
        let (_, compared) = self.rungs.split_last()?;
        compared.get(rung + 1).copied()
    }
}

/// `None` if the sweep does not run.
async fn lock(connection: &mut PgConnection, sweep: &str) -> sqlx::Result<Option<LockedSweep>> {
    let query = sqlx::query!(
        r#"select status as "status: SweepStatus", rungs, keep, rung from sweeps where id = $1 for no key update"#,
        sweep,
    );
    let found = query.fetch_optional(connection).await?;
    let running = found.filter(|row| row.status == SweepStatus::Running);
    Ok(running.map(|row| LockedSweep { rungs: row.rungs, keep: row.keep, rung: row.rung }))
}

/// A job of the sweep that waits at a rung.
struct WaitingMember {
    id: String,
    combination: i32,
}

/// Decides as long as there is something to decide: a rung whose best combinations have all ended is followed by the
/// next. Returns the number of jobs that failed because it dropped their teacher: other sweeps may wait for no more.
pub(super) async fn settle_sweep(connection: &mut PgConnection, sweep: &str) -> sqlx::Result<u64> {
    let mut failed = 0;
    while let Some(locked) = lock(connection, sweep).await? {
        // What a user retries of a dropped combination is no longer compared.
        let jobs = sqlx::query!(
            r#"select id, status as "status: Status", combination as "combination!",
                has_reached_rung(jobs) as "has_reached!"
               from jobs join sweep_combinations as own
                    on own.sweep_id = $1 and own.number = combination and own.dropped_rung is null
               where jobs.sweep_id = $1 order by id"#,
            sweep,
        )
        .fetch_all(&mut *connection)
        .await?;
        let is_waiting = |status: Status, has_reached: bool| status == Status::Paused && has_reached;
        if jobs.iter().any(|job| !job.status.is_final() && !is_waiting(job.status, job.has_reached)) {
            break;
        }
        let waiting = jobs.into_iter().filter(|job| is_waiting(job.status, job.has_reached));
        let waiting: Vec<WaitingMember> =
            waiting.map(|job| WaitingMember { id: job.id, combination: job.combination }).collect();
        let Some(compared) = locked.next().filter(|_| !waiting.is_empty()) else {
            finish(connection, sweep).await?;
            break;
        };
        let Some(dependents) = decide(connection, sweep, &locked, compared, &waiting).await? else { break };
        failed += dependents;
    }
    Ok(failed)
}

/// Ends a sweep that runs and whose jobs have all ended. Its row is locked.
pub(super) async fn finish(connection: &mut PgConnection, sweep: &str) -> sqlx::Result<()> {
    sqlx::query!("update sweeps set status = 'finished', finished_at = now() where id = $1", sweep)
        .execute(connection)
        .await?;
    Ok(())
}

/// Compares the combinations that are left. Returns the number of jobs that failed because their teacher was dropped.
/// `None`, and nothing has changed, if a waiting job's row is locked: whoever holds it settles the sweep afterwards, or
/// the rescuer does.
async fn decide(
    connection: &mut PgConnection,
    sweep: &str,
    locked: &LockedSweep,
    (rung, epochs): (usize, i32),
    waiting: &[WaitingMember],
) -> sqlx::Result<Option<u64>> {
    let ids: Vec<String> = waiting.iter().map(|job| job.id.clone()).collect();
    let held = sqlx::query_scalar!(
        "select id from jobs where id = any($1) and status = 'paused' for no key update skip locked",
        &ids,
    );
    if held.fetch_all(&mut *connection).await?.len() < ids.len() {
        return Ok(None);
    }
    let mut scores = scores(connection, sweep, epochs).await?;
    let kept = rank(&mut scores, locked.keep);
    note(connection, sweep, rung, &scores, kept).await?;
    let after = format!("after {}", counted(epochs.unsigned_abs(), "epoch", "epochs"));
    let count = scores.len();
    for (place, score) in scores.iter().enumerate() {
        let jobs = waiting.iter().filter(|job| job.combination == score.combination);
        let ids: Vec<String> = jobs.map(|job| job.id.clone()).collect();
        let accuracy = score.top1.map_or_else(String::new, |top1| format!(" with a mean top-1 of {top1:.2} %"));
        let of = format!("combination {} is number {} of {count}{accuracy}", score.combination, place + 1);
        let data = json!({"rung": rung, "epochs": epochs, "place": place + 1, "of": count, "kept": place < kept});
        if place < kept {
            let next = locked.pause_after(rung);
            go_on(connection, &ids, next, &format!("goes on {after}: {of}, and the best {kept} go on"), data).await?;
        } else {
            drop_jobs(connection, &ids, &format!("dropped {after}: {of}, and the best {kept} go on"), data).await?;
        }
    }
    Ok(Some(if kept < count { fail_dependents(connection).await? } else { 0 }))
}

/// The combinations that have not been dropped, with the best accuracies of their jobs up to a rung.
async fn scores(connection: &mut PgConnection, sweep: &str, epochs: i32) -> sqlx::Result<Vec<Score>> {
    let combinations = sqlx::query_scalar!(
        "select number from sweep_combinations where sweep_id = $1 and dropped_rung is null order by number",
        sweep,
    )
    .fetch_all(&mut *connection)
    .await?;
    let accuracies = sqlx::query!(
        r#"
        select jobs.combination as "combination!", max(metrics.value) as "top1!"
        from jobs join metrics
            on metrics.job_id = jobs.id and metrics.name = 'eval/top1' and metrics.epoch <= $2::float8
        where jobs.sweep_id = $1 and jobs.combination is not null
            and (jobs.status = 'succeeded' or (jobs.status = 'paused' and has_reached_rung(jobs)))
        group by jobs.combination, jobs.id order by jobs.id
        "#,
        sweep,
        f64::from(epochs) + ROUNDING,
    )
    .fetch_all(connection)
    .await?;
    let scores = combinations.into_iter().map(|combination| {
        let own = accuracies.iter().filter(|row| row.combination == combination);
        Score::new(combination, &own.map(|row| row.top1).collect::<Vec<_>>())
    });
    Ok(scores.collect())
}

/// Notes what was decided.
async fn note(
    connection: &mut PgConnection,
    sweep: &str,
    rung: usize,
    scores: &[Score],
    kept: usize,
) -> sqlx::Result<()> {
    let rung = i32::try_from(rung).unwrap_or(i32::MAX);
    let numbers: Vec<i32> = scores.iter().map(|score| score.combination).collect();
    let means: Vec<Option<f64>> = scores.iter().map(|score| score.top1).collect();
    let deviations: Vec<Option<f64>> = scores.iter().map(|score| score.deviation).collect();
    let jobs: Vec<i32> = scores.iter().map(|score| score.jobs).collect();
    let are_kept: Vec<bool> = (0..scores.len()).map(|place| place < kept).collect();
    sqlx::query!(
        "insert into sweep_rungs (sweep_id, rung, combination, top1, deviation, jobs, kept)
         select $1, $2, combination, top1, deviation, jobs, kept
         from unnest($3::integer[], $4::float8[], $5::float8[], $6::integer[], $7::boolean[])
            as new (combination, top1, deviation, jobs, kept)",
        sweep,
        rung,
        &numbers,
        &means as &[Option<f64>],
        &deviations as &[Option<f64>],
        &jobs,
        &are_kept,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update sweep_combinations set dropped_rung = $2 where sweep_id = $1 and number = any($3)",
        sweep,
        rung,
        &numbers[kept..],
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("update sweeps set rung = $2 where id = $1", sweep, rung + 1).execute(connection).await?;
    Ok(())
}

/// Queues jobs again, to train up to the next rung.
async fn go_on(
    connection: &mut PgConnection,
    jobs: &[String],
    pause_after: Option<i32>,
    message: &str,
    data: serde_json::Value,
) -> sqlx::Result<()> {
    let next = Status::Paused.after(Change::Resume).expect("a paused job can be resumed");
    sqlx::query!(
        "update jobs set status = $2, pause_after = $3, run_after = now(), error = null where id = any($1)",
        jobs,
        next as Status,
        pause_after,
    )
    .execute(&mut *connection)
    .await?;
    for job in jobs {
        declined::forget_job(connection, job).await?;
        events::append(connection, job, &told(next, message, &data)).await?;
    }
    Ok(())
}

/// Cancels jobs that are not among the best. They keep their checkpoints, so that a retry trains them to their end.
async fn drop_jobs(
    connection: &mut PgConnection,
    jobs: &[String],
    message: &str,
    data: serde_json::Value,
) -> sqlx::Result<()> {
    let next = Status::Paused.after(Change::Cancel).expect("a paused job can be cancelled");
    sqlx::query!("update jobs set status = $2, finished_at = now() where id = any($1)", jobs, next as Status)
        .execute(&mut *connection)
        .await?;
    for job in jobs {
        events::append(connection, job, &told(next, message, &data)).await?;
    }
    Ok(())
}

/// The decision on a job, and its new status.
fn told(status: Status, message: &str, data: &serde_json::Value) -> [NewEvent; 2] {
    let decision = NewEvent { kind: EventKind::Log, message: message.to_owned(), data: Some(data.clone()) };
    let short = if status == Status::Queued { "queued by its sweep" } else { "cancelled by its sweep" };
    [decision, NewEvent::status(status, short)]
}
