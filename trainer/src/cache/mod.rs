//! A directory of files that are expensive to compute: decoded images, the teacher's logits and its evaluation.
//!
//! A file's name is the SHA-256 of everything that its content depends on. Content is checked before it is used, and a
//! damaged file counts as missing. Processes share a directory without locks: files appear by rename, and a removed
//! file stays readable for the processes that have it open.

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

const SUFFIX: &str = ".cache";
/// Prefix of a file that is still being written.
const UNFINISHED: &str = ".part-";
/// An unfinished file of this age was left by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A cache directory with a limit on its size.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
    limit: u64,
}

impl Cache {
    /// Opens a directory for files of at most `limit` bytes together. Creates it if it is missing.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn open(directory: &Path, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self { directory: directory.to_owned(), limit })
    }

    /// The most bytes that all files may take together.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The file whose content depends on `key` alone.
    #[must_use]
    pub fn path(&self, kind: &str, key: &str) -> PathBuf {
        self.directory.join(format!("{kind}-{}{SUFFIX}", hex::encode(Sha256::digest(key))))
    }

    /// Opens a file and marks it as recently used; `None` if it does not exist.
    ///
    /// # Errors
    /// It exists and cannot be opened.
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

    /// Writes a file of `length` bytes, in place of an earlier one. `fill` writes its beginning; the rest is zero. The
    /// least recently used files make room.
    ///
    /// # Errors
    /// It exceeds the limit of the whole cache, or cannot be written.
    pub fn put(&self, path: &Path, length: u64, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
        self.make_room(path, length)?;
        let mut file = Builder::new().prefix(UNFINISHED).tempfile_in(&self.directory)?;
        fill(file.as_file_mut())?;
        file.as_file_mut().flush()?;
        file.as_file().set_len(length)?;
        file.persist(path).map_err(|error| error.error)
    }

    /// Like [`put`](Self::put), but keeps a file that another process has put there first, and returns that.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
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

    /// Removes the least recently used files until there is room for a new one at `path`.
    fn make_room(&self, path: &Path, length: u64) -> io::Result<()> {
        if length > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!("{length} bytes exceed the {} of the whole cache", self.limit),
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

    /// Lists the cache's files. Removes what killed processes left.
    fn files(&self) -> io::Result<Vec<CachedFile>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Another process may have removed it.
            let Ok(metadata) = entry.metadata() else { continue };
            let (path, used) = (entry.path(), metadata.modified()?);
            if name.ends_with(SUFFIX) && metadata.is_file() {
                files.push(CachedFile { path, length: metadata.len(), used });
            } else if name.starts_with(UNFINISHED) && used.elapsed().is_ok_and(|age| age > ABANDONED) {
                remove(&path)?;
            }
        }
        Ok(files)
    }
}

#[derive(Debug)]
struct CachedFile {
    path: PathBuf,
    length: u64,
    used: SystemTime,
}

/// Removes a file, if it still exists.
///
/// # Errors
/// It exists and cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
