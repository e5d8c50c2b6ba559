//! An attempt's line to the database: what it asks and writes waits for a database that is away, as long as the job is
//! held.

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;

use super::Context;
use super::lease::{self, LeaseState};
use crate::db::errors::Transient;
use crate::db::queue::{FencingToken, Write};
use crate::protocol::{ErrorClass, Failure};

/// Why an attempt's results are not written.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The job is somebody else's by now.
    Lost,
    /// It ended in this failure.
    Failed(Failure),
}

impl From<Failure> for AttemptError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The record of an attempt.
#[derive(Debug)]
pub(super) struct Record<'a> {
    context: &'a Context,
    token: FencingToken,
    lease: watch::Receiver<LeaseState>,
}

impl<'a> Record<'a> {
    pub(super) fn new(context: &'a Context, token: FencingToken, lease: watch::Receiver<LeaseState>) -> Self {
        Self { context, token, lease }
    }

    pub(super) fn lease_state(&self) -> LeaseState {
        *self.lease.borrow()
    }

    /// Follows the state of the lease.
    pub(super) fn watch(&self) -> watch::Receiver<LeaseState> {
        self.lease.clone()
    }

    /// Writes, where the write itself says whether the job is still held: `None` if not.
    pub(super) async fn persist<T>(
        &self,
        make: impl AsyncFn(&PgPool, &Write) -> sqlx::Result<Option<T>>,
    ) -> Result<T, AttemptError> {
        let write = self.token.write();
        match self.ask(async |pool| make(pool, &write).await).await? {
            Some(written) => Ok(written),
            None => {
                lease::count_refused(self.context, &self.token).await;
                Err(AttemptError::Lost)
            }
        }
    }

    /// Asks, again and again until there is an answer.
    pub(super) async fn ask<T>(&self, question: impl AsyncFn(&PgPool) -> sqlx::Result<T>) -> Result<T, AttemptError> {
        let mut pause = Duration::from_millis(50);
        loop {
            match question(&self.context.pool).await {
                Ok(answer) => return Ok(answer),
                Err(error) if Transient::of(&error).is_none() => {
                    let message = format!("the database refused a request: {error}");
                    return Err(AttemptError::Failed(Failure { class: ErrorClass::Internal, message }));
                }
                Err(error) => tracing::warn!(job = self.token.job, %error, "the database does not answer yet"),
            }
            if self.lease_state() == LeaseState::Lost {
                return Err(AttemptError::Lost);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

/// A write that either found the job held or not.
pub(super) fn held(written: sqlx::Result<bool>) -> sqlx::Result<Option<()>> {
    written.map(|held| held.then_some(()))
}
