//! An attempt's access to the database. Queries and writes are repeated while the database is unavailable, for as long
//! as the attempt holds its job.

use std::cell::RefCell;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;

use super::WorkerContext;
use super::failure::AttemptError;
use super::lease::{self, LeaseState};
use crate::db::errors::Transient;
use crate::db::queue::{FencingToken, Write};
use crate::protocol::{ErrorClass, Failure};

#[derive(Debug)]
pub(super) struct Recorder<'a> {
    context: &'a WorkerContext,
    token: FencingToken,
    lease: watch::Receiver<LeaseState>,
    /// The last write that was answered.
    last: RefCell<Option<String>>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(context: &'a WorkerContext, token: FencingToken, lease: watch::Receiver<LeaseState>) -> Self {
        Self { context, token, lease, last: RefCell::default() }
    }

    pub(super) fn lease_state(&self) -> LeaseState {
        *self.lease.borrow()
    }

    /// A receiver that follows the state of the lease.
    pub(super) fn watch(&self) -> watch::Receiver<LeaseState> {
        self.lease.clone()
    }

    /// Writes. `make` returns `None` if the attempt no longer holds the job, or if the database has lost the attempt's
    /// last write, as in a failover: the history would have a gap. Both become [`AttemptError::Lost`], and the next
    /// attempt goes on from what is stored.
    pub(super) async fn persist<T>(
        &self,
        make: impl AsyncFn(&PgPool, &Write) -> sqlx::Result<Option<T>>,
    ) -> Result<T, AttemptError> {
        let write = self.token.write_after(self.last.borrow().clone());
        match self.query(async |pool| make(pool, &write).await).await? {
            Some(written) => {
                self.last.replace(Some(write.id().to_owned()));
                Ok(written)
            }
            None => {
                lease::count_refused(self.context, &self.token).await;
                Err(AttemptError::Lost)
            }
        }
    }

    /// Runs a query, and repeats it while the database is unavailable and the attempt holds its job.
    pub(super) async fn query<T>(&self, query: impl AsyncFn(&PgPool) -> sqlx::Result<T>) -> Result<T, AttemptError> {
        let mut pause = Duration::from_millis(50);
        loop {
            match query(&self.context.pool).await {
                Ok(answer) => return Ok(answer),
                Err(error) if Transient::of(&error).is_none() => {
                    let message = format!("the database rejected a query: {error}");
                    return Err(AttemptError::Failed(Failure { class: ErrorClass::Internal, message }));
                }
                Err(error) => tracing::warn!(job = self.token.job, %error, "the database is unavailable; trying again"),
            }
            if self.lease_state() == LeaseState::Lost {
                return Err(AttemptError::Lost);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

/// Converts the result of a write that returns whether the attempt still held the job.
pub(super) fn held(written: sqlx::Result<bool>) -> sqlx::Result<Option<()>> {
    written.map(|held| held.then_some(()))
}
