//! Which of the database's errors are transient.

use std::future::Future;

use sqlx::Error;

/// Runs a transaction, and once more if the database rolled it back to break a deadlock: the other transaction can go
/// on then.
pub(super) async fn past_deadlock<T, F>(transaction: impl Fn() -> F) -> sqlx::Result<T>
where
    F: Future<Output = sqlx::Result<T>>,
{
    match transaction().await {
        Err(Error::Database(error)) if error.code().as_deref() == Some(DEADLOCK) => {
            tracing::info!(%error, "a transaction is tried again");
            transaction().await
        }
        outcome => outcome,
    }
}

/// PostgreSQL's error code of deadlock_detected.
const DEADLOCK: &str = "40P01";

/// Why a statement failed that may succeed when it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transient {
    /// Every connection of this process is in use.
    Busy,
    /// The server cannot be reached, or the connection broke.
    Unreachable,
    /// The connection was closed on this side, or could not be secured.
    Closed,
    /// The server starts, stops, or has no connection left.
    NotReady,
    /// The server takes no writes now, as during a failover.
    ReadOnly,
    /// Another transaction held a lock for too long, or a deadlock was broken.
    Contended,
    /// The statement took too long, and the server cancelled it.
    TooLong,
    /// The server gave up on the statement or its transaction for another transient reason.
    Interrupted,
}

impl Transient {
    /// The reason; `None` for an error that another try would meet again.
    #[must_use]
    pub fn of(error: &Error) -> Option<Self> {
        match error {
            Error::PoolTimedOut => Some(Self::Busy),
            Error::Io(_) => Some(Self::Unreachable),
            Error::PoolClosed | Error::Tls(_) => Some(Self::Closed),
            Error::Protocol(_) | Error::WorkerCrashed | Error::BeginFailed => Some(Self::Interrupted),
            Error::Database(error) => Self::of_code(&error.code()?),
            _ => None,
        }
    }

    /// By PostgreSQL's error code, whose first two characters are its class.
    fn of_code(code: &str) -> Option<Self> {
        match code {
            // Class 57P: shutdown, crash recovery, start. 53300: too_many_connections.
            "53300" => Some(Self::NotReady),
            _ if code.starts_with("57P") => Some(Self::NotReady),
            // read_only_sql_transaction: a standby, or a server that was made read-only before a failover.
            "25006" => Some(Self::ReadOnly),
            // object_not_in_prerequisite_state: what a standby says of locks.
            "55000" => Some(Self::ReadOnly),
            // 55P03: lock_not_available.
            DEADLOCK | "55P03" => Some(Self::Contended),
            // query_canceled.
            "57014" => Some(Self::TooLong),
            // idle_in_transaction_session_timeout, which ends the session of a process that was frozen, and
            // transaction_timeout; in_failed_sql_transaction, after an error that was the cause.
            "25P02" | "25P03" | "25P04" => Some(Self::Interrupted),
            // Connection exceptions, transaction rollbacks, insufficient resources, operator intervention, and errors
            // of the operating system under the server.
            _ => {
                ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class)).then_some(Self::Interrupted)
            }
        }
    }

    /// Whether a process that starts should wait for it to pass: the server may still be starting or failing over.
    #[must_use]
    pub fn passes_by_waiting(self) -> bool {
        match self {
            Self::Busy | Self::Unreachable | Self::NotReady | Self::ReadOnly | Self::Contended => true,
            // A server that speaks another protocol or cannot be trusted: its operator has to act.
            Self::Closed | Self::TooLong | Self::Interrupted => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_transient_by_its_code() {
        for (code, expected) in [
            ("57P01", Some(Transient::NotReady)),
            ("57P03", Some(Transient::NotReady)),
            ("53300", Some(Transient::NotReady)),
            ("40P01", Some(Transient::Contended)),
            ("55P03", Some(Transient::Contended)),
            ("25P03", Some(Transient::Interrupted)),
            ("57014", Some(Transient::TooLong)),
            ("25006", Some(Transient::ReadOnly)),
            ("55000", Some(Transient::ReadOnly)),
            ("25P04", Some(Transient::Interrupted)),
            ("58030", Some(Transient::Interrupted)),
            ("40001", Some(Transient::Interrupted)),
            ("08006", Some(Transient::Interrupted)),
            ("53100", Some(Transient::Interrupted)),
            ("23505", None),
            ("42P01", None),
            ("25001", None),
        ] {
            assert_eq!(Transient::of_code(code), expected, "{code}");
        }
    }
}
