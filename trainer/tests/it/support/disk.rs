//! Disks of a few kilobytes, which one process sees.

use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Mounts a file system of this size on a directory, and becomes a command that alone sees it.
const ON_A_DISK: &str = r#"mount -t tmpfs -o "size=$1" none "$2"; shift 2; exec "$@""#;

pub fn on_a_disk(size: &str, directory: &Path, command: &Command) -> Command {
    let mut alone = Command::new("unshare");
    alone.args(["--user", "--map-root-user", "--mount", "sh", "-ec", ON_A_DISK, "sh", size]).arg(directory);
    alone.arg(command.get_program()).args(command.get_args());
    alone
}

/// Whether a file system can be mounted on a directory. Some containers let nobody mount anything; then says that the
/// test does not run.
pub fn can_mount(directory: &Path, test: &str) -> bool {
    let can = on_a_disk("1m", directory, &Command::new("true")).status().is_ok_and(|status| status.success());
    if !can {
        // To standard error itself, since what a test prints is not shown when it passes.
        let mut errors = std::io::stderr();
        writeln!(errors, "not run: {test}: no file system can be mounted here").unwrap();
    }
    can
}
