//! How attempts end, and jobs that nothing can come of.

use std::time::Duration;

use chrono::Utc;
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::release::{Release, fail_dependents, next, release};
use super::{HeldJob, Write};
use crate::db::artifacts::{self, NewArtifact};
use crate::db::attempts::{self, AttemptOutcome};
use crate::db::declined;
use crate::db::jobs::{Change, Status};
use crate::db::sweeps;
use crate::db::{LONGEST_MESSAGE, storable};
use crate::protocol::{ErrorClass, Failure, Outcome};
use crate::text::{counted, shortened};

/// Makes the attempt's files the job's, and ends the job: all of it or nothing. False if the attempt no longer
/// holds the job.
pub async fn publish(pool: &PgPool, write: &Write, outcome: &Outcome, published: &[NewArtifact]) -> sqlx::Result<bool> {
    let written = HeldJob::change(pool, write, async |job| {
        let (id, attempt) = (&job.token.job, job.token.attempt);
        for artifact in published {
            artifacts::insert(&mut job.transaction, id, attempt, artifact).await?;
        }
        sqlx::query!(
            "update jobs set published_attempt = attempt, result = $2, best_top1 = $3, checkpoint = null where id = $1",
            id,
            json!(outcome),
            outcome.best_top1,
        )
        .execute(&mut *job.transaction)
        .await?;
        let message =
            format!("the student's best top-1 accuracy is {:.2} % (epoch {})", outcome.best_top1, outcome.best_epoch);
        let next = next(job.status, Change::Succeed);
        release(&mut job.transaction, id, Release::to(next, message)).await?;
        attempts::end(&mut job.transaction, id, AttemptOutcome::Succeeded, true).await?;
        sweeps::settle(&mut job.transaction, id).await?;
        Ok(next)
    });
    Ok(written.await?.is_some())
}

/// Ends the attempt with a failure, and the job too unless it may be tried again. Returns the job's new status; none if
/// the attempt no longer holds the job.
pub async fn fail(pool: &PgPool, write: &Write, failure: &Failure) -> sqlx::Result<Option<Status>> {
    HeldJob::change(pool, write, async |job| {
        let next = fail_attempt(&mut job.transaction, &job.token.job, job.status, job.token.attempt, failure).await?;
        sweeps::settle(&mut job.transaction, &job.token.job).await?;
        if next.is_final() {
            end_dependents(&mut job.transaction).await?;
        }
        Ok(next)
    })
    .await
}

/// Ends an attempt whose trainer stopped as asked or where its sweep compares jobs, or whose worker shuts down. Returns
/// the job's new status; none if the attempt no longer holds the job.
pub async fn stopped(pool: &PgPool, write: &Write) -> sqlx::Result<Option<Status>> {
    HeldJob::change(pool, write, async |job| {
        let id = &job.token.job;
        let rung = rung_reached(&mut job.transaction, id).await?;
        let next = next(job.status, if rung.is_some() { Change::RungReached } else { Change::Stopped });
        let message = match (next, rung) {
            (Status::Queued, _) => "the worker was stopped; the job goes on from its checkpoint".to_owned(),
            (Status::Paused, Some(epochs)) => {
                format!(
                    "waits after {} for the other jobs of its sweep",
                    counted(epochs.unsigned_abs(), "epoch", "epochs")
                )
            }
            (Status::Paused, None) => "paused".to_owned(),
            _ => "cancelled".to_owned(),
        };
        release(&mut job.transaction, id, Release::to(next, message)).await?;
        attempts::end(&mut job.transaction, id, AttemptOutcome::Stopped, false).await?;
        if !next.is_final() {
            // The attempt did not fail, so it does not count against the most that the job may have.
            sqlx::query!("update jobs set max_attempts = least(max_attempts, 2147483646) + 1 where id = $1", id)
                .execute(&mut *job.transaction)
                .await?;
        }
        sweeps::settle(&mut job.transaction, id).await?;
        if next.is_final() {
            end_dependents(&mut job.transaction).await?;
        }
        Ok(next)
    })
    .await
}

/// Fails jobs that wait for a student which will not come, and goes on with sweeps that have none left to wait for.
async fn end_dependents(connection: &mut PgConnection) -> sqlx::Result<()> {
    if fail_dependents(connection).await? > 0 {
        sweeps::settle_free(connection).await?;
    }
    Ok(())
}

/// The epochs after which a job is compared with the others of its sweep, if it has saved the state after them.
async fn rung_reached(connection: &mut PgConnection, job: &str) -> sqlx::Result<Option<i32>> {
    let query = sqlx::query_scalar!("select pause_after from jobs where id = $1 and has_reached_rung(jobs)", job);
    Ok(query.fetch_optional(connection).await?.flatten())
}

/// Most failures of a job since it was posted or retried that do not count as attempts.
pub const MOST_UNCOUNTED: i32 = 100;

/// Why a failure does not count against the most attempts; `None` if it does.
///
/// A machine's fault says nothing about the job. And a job that gets further with each attempt is not one that cannot
/// be run, however often its workers are lost. [`MOST_UNCOUNTED`] ends a job that fails for ever all the same.
async fn excuse(
    connection: &mut PgConnection,
    job: &str,
    class: ErrorClass,
    uncounted: i32,
) -> sqlx::Result<Option<&'static str>> {
    if !class.is_retried() || uncounted >= MOST_UNCOUNTED {
        return Ok(None);
    }
    Ok(match class {
        ErrorClass::Machine => Some("a fault of the worker's machine"),
        _ if attempts::has_advanced(connection, job).await? => Some("it had saved a new checkpoint"),
        _ => None,
    })
}

/// Longest message of a failure, in bytes. Its event says more, and is no longer than [`LONGEST_MESSAGE`].
const LONGEST_FAILURE: usize = LONGEST_MESSAGE - 1024;

/// Ends an attempt with a failure; its job is queued again if the failure may pass and attempts are left.
pub(super) async fn fail_attempt(
    connection: &mut PgConnection,
    job: &str,
    status: Status,
    attempt: i32,
    failure: &Failure,
) -> sqlx::Result<Status> {
    let row = sqlx::query!(
        "select max_attempts, uncounted, worker, whole_number(spec -> 'max_attempts') as tries from jobs where id = $1",
        job,
    )
    .fetch_one(&mut *connection)
    .await?;
    let excuse = excuse(connection, job, failure.class, row.uncounted).await?;
    let counted = excuse.is_none();
    let most = row.max_attempts.saturating_add(i32::from(!counted));
    let is_retried = failure.class.is_retried() && attempt < most;
    let change = match failure.class {
        _ if !is_retried => Change::FailForGood,
        ErrorClass::WorkerLost => Change::LeaseExpired,
        _ => Change::FailForNow,
    };
    let next = next(status, change);
    // `most` grows with every attempt that does not count, and with a retry. What the user asked for does not.
    let tries = row.tries.and_then(|tries| i32::try_from(tries).ok()).unwrap_or(most).max(0);
    let used = (tries - (most - attempt)).clamp(0, tries);
    let consequence = match next {
        Status::Queued => format!("; attempt {} follows (tries used: {used} of {tries})", attempt + 1),
        Status::Failed if failure.class.is_retried() => {
            format!("; no attempt follows (tries used: {used} of {tries})")
        }
        _ => String::new(),
    };
    let excuse = excuse.map_or_else(String::new, |excuse| {
        format!(". This attempt does not count ({excuse}; {} of at most {MOST_UNCOUNTED})", row.uncounted + 1)
    });
    attempts::end(connection, job, failure.class.into(), counted).await?;
    if !counted {
        sqlx::query!("update jobs set max_attempts = $2, uncounted = uncounted + 1 where id = $1", job, most)
            .execute(&mut *connection)
            .await?;
    }
    if failure.class == ErrorClass::Machine
        && let Some(worker) = &row.worker
    {
        declined::add(connection, job, worker, false).await?;
    }
    let pause = match failure.class {
        // Says nothing about the job, which goes on at once.
        ErrorClass::WorkerLost => Duration::ZERO,
        _ => back_off(attempts::failures_in_a_row(connection, job).await?),
    };
    let why = storable(&failure.message);
    let failure = Failure { class: failure.class, message: shortened(&why, LONGEST_FAILURE).into_owned() };
    let message = format!("attempt {attempt} failed: {}{excuse}{consequence}", failure.message);
    let error = (next != Status::Cancelled).then_some(&failure);
    release(connection, job, Release { next, message, error, pause }).await?;
    Ok(next)
}

/// The pause before the next attempt. It doubles with each failure in a row, from one second to about four minutes,
/// with jitter so that jobs that failed together do not all come back together.
fn back_off(failures: i64) -> Duration {
    let doublings = u32::try_from(failures.clamp(1, 9)).expect("between 1 and 9");
    let doubled = Duration::from_millis(500) * 2_u32.pow(doublings);
    doubled.mul_f64(0.75 + f64::from(Utc::now().timestamp_subsec_micros() % 1000) / 2000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_an_attempt_is_allowed_while_a_worker_holds_the_job() {
        for status in [Status::Running, Status::Pausing, Status::Cancelling] {
            for change in [
                Change::Succeed,
                Change::FailForNow,
                Change::FailForGood,
                Change::Stopped,
                Change::RungReached,
                Change::LeaseExpired,
            ] {
                assert!(Status::ALL.contains(&next(status, change)));
            }
        }
    }
}
