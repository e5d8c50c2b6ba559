//! Why an attempt has no results, and whose fault that is.

use crate::artifacts;
use crate::protocol::{ErrorClass, Failure};

/// Why an attempt has no results to publish.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The attempt no longer holds the job.
    Lost,
    Failed(Failure),
    /// The job is to stop, and its trainer has not begun.
    Stopped,
}

impl From<Failure> for AttemptError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Storage that does not answer and a disk that fails are not the job's fault; a stored file that is missing or damaged
/// is.
pub(super) fn storage_failure(error: &artifacts::Error) -> Failure {
    use std::io::ErrorKind::NotFound;
    let class = match error {
        artifacts::Error::Storage(_) => ErrorClass::Machine,
        artifacts::Error::File { source, .. } if source.kind() != NotFound => ErrorClass::Machine,
        _ => ErrorClass::Storage,
    };
    Failure { class, message: error.to_string() }
}
