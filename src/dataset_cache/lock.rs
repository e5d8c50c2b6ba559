//! Locks between processes, as files.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockMode {
    Shared,
    Exclusive,
}

/// A lock, until it is dropped or its process ends.
#[derive(Debug)]
pub(super) struct Locked {
    file: File,
    path: PathBuf,
}

/// Takes a lock; `None` if another process holds a conflicting one.
pub(super) fn try_lock(path: &Path, mode: LockMode) -> io::Result<Option<Locked>> {
    loop {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        let locked = match mode {
            LockMode::Shared => file.try_lock_shared(),
            LockMode::Exclusive => file.try_lock(),
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // The file may have been removed between the opening and the lock.
        let is_there = match (file.metadata()?, fs::metadata(path)) {
            (locked, Ok(found)) => (locked.dev(), locked.ino()) == (found.dev(), found.ino()),
            (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => false,
            (_, Err(error)) => return Err(error),
        };
        if is_there {
            return Ok(Some(Locked { file, path: path.to_owned() }));
        }
    }
}

impl Locked {
    /// Records when the copy was used, as the time of the file.
    pub(super) fn touch(&self, at: SystemTime) {
        if let Err(error) = self.file.set_modified(at) {
            tracing::debug!(path = %self.path.display(), %error, "cannot note the use of a data set");
        }
    }

    /// Removes the file of an exclusive lock after its copy was removed.
    pub(super) fn remove(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove a lock");
        }
    }
}
