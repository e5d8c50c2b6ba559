//! What a failure of a trainer is to the job and to its worker.

use std::process::ExitStatus;

use crate::process;
use crate::protocol::{ErrorClass, Failure};

/// The failure that a trainer reported. Its files are all on this machine: it knows nothing of the shared storage.
pub(super) fn of_trainer(failure: Failure) -> Failure {
    match failure.class {
        ErrorClass::Storage => Failure { class: ErrorClass::Machine, ..failure },
        _ => failure,
    }
}

/// The failure of a trainer that ended without reporting how.
pub(super) fn unexplained(status: ExitStatus, out_of_memory: bool, last_words: &str) -> Failure {
    let advice = "lower training.batch_size, choose a smaller network, or give the worker more memory";
    let mut failure = process::unexpected_end("the trainer", status, out_of_memory, advice);
    if failure.class != ErrorClass::Oom && !last_words.is_empty() {
        failure.message = format!("{}: {last_words}", failure.message);
    }
    failure
}

/// The failure of a trainer that ended without a single report. One that can read its specification says what is wrong,
/// so it is none, or its machine lacks what it needs to start.
pub(super) fn of_silent_trainer(failure: Failure) -> Failure {
    match failure.class {
        ErrorClass::Internal => {
            Failure { class: ErrorClass::Machine, message: format!("before any report, {}", failure.message) }
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_trainer_that_ended_without_a_report_is_explained_by_its_last_lines() {
        let exited = unexplained(ExitStatus::from_raw(0x100), false, "no such library");
        assert_eq!(exited.message, "the trainer exited with status 1: no such library");
        assert_eq!(unexplained(ExitStatus::from_raw(9), false, "").message, "the trainer was killed by signal 9");
    }
}
