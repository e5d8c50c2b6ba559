//! Files that are kept from run to run because they are dear to compute: decoded images, the teacher's logits.
//!
//! A file's name is the SHA-256 of what its content depends on, and the content is checked before it is used: one that
//! was damaged is as good as none. Several processes share a directory without a lock. Files appear by rename, and one
//! that is removed serves those who have it open until they close it.

pub mod images;
pub mod record;
pub mod rows;
pub mod teacher_logits;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tempfile::{Builder, NamedTempFile};

/// How all names end.
const SUFFIX: &str = ".cache";
/// What a name begins with before the file is whole.
const UNFINISHED: &str = ".part-";
/// An unfinished file of that age was left by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A directory of such files.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
    limit: u64,
}

impl Cache {
    /// A directory, which is made if it is missing, for files of at most `limit` bytes together.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(directory: &Path, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self { directory: directory.to_owned(), limit })
    }

    /// Most bytes of all files together.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The file whose content depends on `key` alone.
    #[must_use]
    pub fn path(&self, kind: &str, key: &str) -> PathBuf {
        self.directory.join(format!("{kind}-{}{SUFFIX}", hex::encode(Sha256::digest(key))))
    }

    /// Opens a file and makes it the youngest; none where there is none.
    ///
    /// # Errors
    /// It is there and cannot be opened.
    pub fn find(path: &Path) -> io::Result<Option<File>> {
        match File::options().read(true).write(true).open(path) {
            Ok(file) => {
                file.set_modified(SystemTime::now())?;
                Ok(Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a file of `length` bytes in place, in that of an earlier one: `fill` writes what it begins with, and what it
    /// does not write is zero. The files that were used longest ago make room.
    ///
    /// # Errors
    /// It is larger than all files may be together, or cannot be written.
    pub fn put(&self, path: &Path, length: u64, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
        self.make_room(path, length)?;
        let mut file = Builder::new().prefix(UNFINISHED).tempfile_in(&self.directory)?;
        fill(file.as_file_mut())?;
        file.as_file_mut().flush()?;
        file.as_file().set_len(length)?;
        file.persist(path).map_err(|error| error.error)
    }

    /// As [`put`](Self::put), where there is no such file; whoever comes first wins.
    ///
    /// # Errors
    /// As there.
    pub fn put_first(&self, path: &Path, length: u64, head: &[u8]) -> io::Result<File> {
        self.make_room(path, length)?;
        let mut file: NamedTempFile = Builder::new().prefix(UNFINISHED).tempfile_in(&self.directory)?;
        file.write_all(head)?;
        file.as_file().set_len(length)?;
        match file.persist_noclobber(path) {
            Ok(file) => Ok(file),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                Self::find(path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
            }
            Err(error) => Err(error.error),
        }
    }

    /// Removes the files that were used longest ago, until there is room for a new one at `path`.
    fn make_room(&self, path: &Path, length: u64) -> io::Result<()> {
        if length > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!("{length} bytes are more than the {} of the whole cache", self.limit),
            ));
        }
        let mut files = self.files()?;
        files.retain(|file| file.path != path);
        files.sort_by_key(|file| file.used);
        let mut total: u64 = files.iter().map(|file| file.length).sum();
        for file in files {
            if total.saturating_add(length) <= self.limit {
                break;
            }
            total -= file.length;
            remove(&file.path)?;
        }
        Ok(())
    }

    /// The files of ours; what a killed process left is removed on the way.
    fn files(&self) -> io::Result<Vec<Kept>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Another process may remove it meanwhile.
            let Ok(metadata) = entry.metadata() else { continue };
            let (path, used) = (entry.path(), metadata.modified()?);
            if name.ends_with(SUFFIX) && metadata.is_file() {
                files.push(Kept { path, length: metadata.len(), used });
            } else if name.starts_with(UNFINISHED) && used.elapsed().is_ok_and(|age| age > ABANDONED) {
                remove(&path)?;
            }
        }
        Ok(files)
    }
}

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    length: u64,
    used: SystemTime,
}

/// Removes a file that may be gone already.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
