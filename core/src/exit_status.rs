//! Why a child process ended, for the worker about its trainer and for the trainer about its other ranks.

use std::process::ExitStatus;

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
