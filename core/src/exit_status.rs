//! Why a child process ended, for the worker about its trainer and for the trainer about its other ranks.

use std::process::ExitStatus;

use crate::protocol::{ErrorClass, Failure};

/// A predicate for messages: `exited with status 1` or `was killed by signal 9`.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The failure of a process that ended without saying why. `out_of_memory` is whether the kernel's out-of-memory killer
/// has ended a process meanwhile, and `advice` what to do then.
#[must_use]
pub fn unexpected_end(subject: &str, status: ExitStatus, out_of_memory: bool, advice: &str) -> Failure {
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        Some(9) if out_of_memory => Failure {
            class: ErrorClass::Oom,
            message: format!("the kernel killed {subject} because memory ran out: {advice}"),
        },
        Some(_) => Failure { class: ErrorClass::WorkerLost, message: format!("{subject} {}", describe(status)) },
        None => Failure { class: ErrorClass::Internal, message: format!("{subject} {}", describe(status)) },
    }
}

/// How many processes the kernel's out-of-memory killer has ended, in this control group or else on this machine.
#[must_use]
pub fn out_of_memory_kills() -> u64 {
    let count = |path: &str| -> Option<u64> {
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    };
    let group = std::fs::read_to_string("/proc/self/cgroup").ok();
    let group = group.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::")));
    let of_group = group.and_then(|group| count(&format!("/sys/fs/cgroup{group}/memory.events")));
    of_group.or_else(|| count("/proc/vmstat")).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_killed_process_is_out_of_memory_only_if_the_kernel_says_so() {
        let killed = ExitStatus::from_raw(9);
        let class = |status, out_of_memory| unexpected_end("it", status, out_of_memory, "add memory").class;
        assert_eq!(class(killed, true), ErrorClass::Oom);
        assert_eq!(class(killed, false), ErrorClass::WorkerLost);
        assert_eq!(class(ExitStatus::from_raw(0x100), true), ErrorClass::Internal);
    }
}
