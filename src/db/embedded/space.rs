//! Whether a server failed because its disk is full. Its log, on the same disk, may then be empty.

use std::path::Path;

/// Free space, in bytes, that a new cluster and its first log files take, rounded up.
const NEEDED: u64 = 64 << 20;

/// What the message of a failure adds: that the disk is full, or nothing. `log` is what the server has written.
pub(super) fn shortage(data_dir: &Path, log: &str) -> String {
    let free = rustix::fs::statvfs(data_dir).ok().map(|found| found.f_bavail.saturating_mul(found.f_frsize));
    explained(data_dir, free, log)
}

fn explained(data_dir: &Path, free: Option<u64>, log: &str) -> String {
    let is_named = ["No space left on device", "Disk quota exceeded"].iter().any(|words| log.contains(words));
    let room = match free {
        // What initdb had written before it failed is removed, so it may have failed with some space left now.
        Some(free) if free < NEEDED || is_named => format!("has {} MiB of free space", free >> 20),
        None if is_named => "is full".to_owned(),
        _ => return String::new(),
    };
    format!(
        "\nthe file system of {} {room}, and PostgreSQL needs about {} MiB: free some, or give another --data-dir",
        data_dir.display(),
        NEEDED >> 20
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(free: Option<u64>, log: &str) -> String {
        explained(Path::new("/srv/data"), free, log)
    }

    #[test]
    fn a_full_disk_is_named_whether_the_log_says_so_or_not() {
        let full = "\nthe file system of /srv/data has 3 MiB of free space, and PostgreSQL needs about 64 MiB: free \
                    some, or give another --data-dir";
        assert_eq!(said(Some(3 << 20), ""), full);
        let log = "initdb: error: could not write file \"pg_wal\": No space left on device";
        // A quota, or space that only root may use.
        assert!(said(Some(1 << 40), log).contains("of free space"));
        assert!(said(None, log).contains("/srv/data is full"));
    }

    #[test]
    fn another_failure_is_not_blamed_on_the_disk() {
        assert_eq!(said(Some(NEEDED), "FATAL: lock file exists"), "");
        assert_eq!(said(None, ""), "");
    }

    #[test]
    fn the_space_of_a_directory_is_found() {
        // A file system that surely has no space.
        assert!(shortage(Path::new("/proc"), "").contains("the file system of /proc has 0 MiB of free space"));
    }
}
