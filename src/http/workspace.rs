//! Directories beside the spooled uploads, in which archives are unpacked, state dicts taken out of files, students
//! exported and measured, and stored files read. Those that a killed server has left are removed when a server starts.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::db::embedded;

/// Prefix of the names of these directories.
const PREFIX: &str = "work-";
const LOCK: &str = "lock";
const FILES: &str = "files";
/// Age from which a directory without a lock is a leftover. A younger one may be just being made.
const MAKING: Duration = Duration::from_secs(3600);

/// A directory for one upload or export, which is removed with everything in it when this is dropped.
#[derive(Debug)]
pub struct Workspace {
    directory: TempDir,
    /// Held until then; the kernel releases it if the process is killed.
    _lock: File,
}

impl Workspace {
    /// Makes a directory in `spool`.
    ///
    /// # Errors
    /// The disk fails.
    pub fn new(spool: &Path) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(spool)?;
        let lock = File::create(directory.path().join(LOCK))?;
        lock.lock()?;
        fs::create_dir(directory.path().join(FILES))?;
        Ok(Self { directory, _lock: lock })
    }

    /// Makes a directory in `spool`, which is made first if it is not there, where waiting for the disk blocks nobody.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn make(spool: &Path) -> anyhow::Result<Self> {
        let spool = spool.to_owned();
        let make = move || -> anyhow::Result<Self> {
            embedded::create_private(&spool)?;
            Ok(Self::new(&spool)?)
        };
        tokio::task::spawn_blocking(make).await?
    }

    /// The directory for the files, empty at first. It may be moved elsewhere.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.directory.path().join(FILES)
    }
}

/// Removes what killed servers have left in `spool`. A failure is only logged, since it costs nothing but space.
pub fn remove_leftovers(spool: &Path) {
    for entry in fs::read_dir(spool).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_left(&path) {
            match fs::remove_dir_all(&path) {
                Ok(()) => tracing::info!(directory = %path.display(), "removed what a killed server had left"),
                Err(error) => {
                    tracing::warn!(directory = %path.display(), %error, "cannot remove what a killed server has left");
                }
            }
        }
    }
}

fn is_left(directory: &Path) -> bool {
    match File::open(directory.join(LOCK)).map(|lock| lock.try_lock()) {
        Ok(Ok(())) => true,
        Ok(Err(TryLockError::WouldBlock | TryLockError::Error(_))) => false,
        Err(_) => {
            let changed = fs::metadata(directory).and_then(|facts| facts.modified());
            let age = changed.map(|changed| SystemTime::now().duration_since(changed).unwrap_or_default());
            age.is_ok_and(|age| age > MAKING)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_server_left_is_removed_and_what_is_used_stays() {
        let spool = tempfile::tempdir().unwrap();
        let used = Workspace::new(spool.path()).unwrap();
        let left = spool.path().join("work-left");
        fs::create_dir_all(left.join(FILES)).unwrap();
        File::create(left.join(LOCK)).unwrap();
        let making = spool.path().join("work-making");
        fs::create_dir(&making).unwrap();
        fs::create_dir(spool.path().join("other")).unwrap();
        remove_leftovers(spool.path());
        assert!(used.files().is_dir() && making.is_dir() && !left.exists());
        assert!(spool.path().join("other").is_dir());
        drop(used);
        assert_eq!(fs::read_dir(spool.path()).unwrap().count(), 2);
    }
}
