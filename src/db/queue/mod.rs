//! What a worker does to jobs.
//!
//! [`claim()`] gives the job a new random claim, raises its attempt number and sets a lease on the database's clock. It
//! returns a [`FencingToken`], which every later write shows: a write changes nothing unless its claim still holds the
//! job. A [`Write`] that comes again, because the answer was lost with a connection, counts once. All of this is in
//! `HeldJob::change`, which every write of an attempt goes through but two: [`heartbeat`] only extends the lease, and
//! [`rescue_expired`] takes the job from a worker that is gone. What a user asks for is in [`super::jobs`]. The status
//! that a write leaves comes from [`Status::after`]. A write that ends an attempt also decides, in its transaction,
//! what follows in the job's sweep.

mod claim;
mod finish;
mod record;
mod release;
mod rescue;
mod waits;

use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Postgres, Transaction};

use super::jobs::Status;

pub use claim::{Claim, DeviceCapacity, claim, heartbeat, held, until_next};
pub use finish::{MOST_UNCOUNTED, fail, publish, stopped};
pub use record::{ReportBatch, adopt, checkpoint_saved, record, started, teacher_evaluated};
pub(super) use release::fail_dependents;
pub use rescue::{rescue_expired, until_next_expiry};
pub use waits::explain_waits;

/// The right to write about a job. A later claim of the same job makes it void.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FencingToken {
    pub job: String,
    /// The number of the attempt that holds it. A database that lost the claim, in a failover or because it was
    /// restored from a backup, gives the number again.
    pub attempt: i32,
    pub worker: String,
    /// The fence: random, and new with every claim.
    pub claim: String,
}

impl FencingToken {
    /// The attempt's name in directories and keys, which no other attempt ever has.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}", self.attempt, self.claim)
    }

    /// A new write, to be sent until there is an answer.
    #[must_use]
    pub fn write(&self) -> Write {
        self.write_after(None)
    }

    /// A new write that counts only if the database still has the attempt's last one.
    #[must_use]
    pub fn write_after(&self, last: Option<String>) -> Write {
        Write { token: self.clone(), id: ulid::Ulid::generate().to_string(), after: last }
    }
}

/// One write of an attempt. An attempt makes one write after the other, so that the job's row needs to hold only the
/// last to recognise one that comes again, and to notice that a failover lost the one before.
#[derive(Debug, Clone)]
pub struct Write {
    token: FencingToken,
    id: String,
    after: Option<String>,
}

impl Write {
    /// Its id, which no other write has.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// A stored state that training can resume from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedCheckpoint {
    /// The attempt that wrote it.
    pub attempt: i32,
    /// Completed epochs.
    pub epoch: u32,
    /// Completed steps.
    pub step: u64,
    pub key: String,
    /// Its SHA-256, in hexadecimal; unknown for what an earlier version stored.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Its size; unknown for what an earlier version stored.
    #[serde(default)]
    pub size_bytes: Option<u64>,
}

/// A job that an attempt holds. Its row is locked until the transaction ends.
struct HeldJob<'a> {
    token: &'a FencingToken,
    status: Status,
    transaction: Transaction<'static, Postgres>,
}

impl HeldJob<'_> {
    /// Makes one write in one transaction: locks the job's row if the token's attempt still holds the job, notes the
    /// write there, makes the change and commits. Returns the status that the change leaves.
    ///
    /// None if the attempt no longer holds the job, or if the database has lost what it wrote before: nothing is
    /// written then. A write that was made before, and whose answer was lost, is not made again; it returns the status
    /// that the job has.
    async fn change(
        pool: &PgPool,
        write: &Write,
        change: impl AsyncFnOnce(&mut HeldJob<'_>) -> sqlx::Result<Status>,
    ) -> sqlx::Result<Option<Status>> {
        let Write { token, id, .. } = write;
        let mut transaction = pool.begin().await?;
        let held = sqlx::query_scalar!(
            r#"update jobs set last_write = $4, written_at = now()
               where id = $1 and attempt = $2 and claim = $3 and lease_expires_at is not null
                   and last_write is distinct from $4 and ($5::text is null or last_write = $5)
               returning status as "status: Status""#,
            token.job,
            token.attempt,
            token.claim,
            id,
            write.after,
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(status) = held else {
            return sqlx::query_scalar!(
                r#"select status as "status: Status" from jobs where id = $1 and claim = $2 and last_write = $3"#,
                token.job,
                token.claim,
                id,
            )
            .fetch_optional(&mut *transaction)
            .await;
        };
        // No change of a status that only a newer program knows is allowed.
        if status == Status::Unknown {
            return Ok(None);
        }
        let mut job = HeldJob { token, status, transaction };
        let status = change(&mut job).await?;
        job.transaction.commit().await?;
        Ok(Some(status))
    }
}
