//! This machine's copies of uploaded data sets, which server and workers with the same data directory share.
//!
//! ```text
//! <cache>/<name>-<SHA-256>/<name>/…      the files, whole: the directory appears by rename, once its tar was verified
//! <cache>/<name>-<SHA-256>/facts.json    their bytes and their fingerprint, by which a change is noticed
//! <cache>/<name>-<SHA-256>.lock          locked by whoever uses the copy (shared), makes or removes it (exclusive)
//! <cache>/<name>-<SHA-256>.partial/      what is being fetched by whoever holds the lock; its facts.json says how many
//!                                        bytes it will have
//! <cache>/.room                          locked while room is looked for and set aside
//! ```
//!
//! The kernel releases a lock when its process ends, however that happens. The time of a lock's file is that of the
//! copy's last use; the copies that were not used for longest go first when another one needs their room.

mod fetch;
mod lock;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::artifacts::{self, Store};
use crate::db::datasets::StoredDataset;
use crate::{archive, dataset};

use lock::{LockMode, Locked};

/// Time between two looks for a copy that another process makes, or for room.
const PAUSE: Duration = Duration::from_millis(200);
const LOCK: &str = "lock";
const ROOM: &str = ".room";

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data set is larger than the whole cache.
    #[error(
        "the data set {id} has {bytes} bytes, but copies on this machine are limited to {limit}: raise \
         --dataset-cache-mib"
    )]
    TooLarge { id: String, bytes: u64, limit: u64 },
    /// The tar in storage is missing, damaged, or cannot be read.
    #[error(transparent)]
    Stored(#[from] artifacts::Error),
    /// The tar has the right SHA-256, but is not a tar that this program packs.
    #[error("the stored data set {id} cannot be unpacked: {source}")]
    Unreadable { id: String, source: archive::Error },
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
}

/// How far the making of a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyProgress {
    /// Another process is making it.
    Shared,
    /// There is no room for it, because other copies are in use.
    NoRoom,
    /// Number of bytes of its tar that were fetched.
    Fetched(u64),
}

/// What to do to get a copy.
enum NextStep {
    Use(LocalCopy),
    /// Nobody else may make it while this lock is held.
    Fetch(Locked),
    Wait(CopyProgress),
}

/// The copies in a directory.
#[derive(Debug, Clone)]
pub struct DatasetCache {
    directory: PathBuf,
    /// Most bytes of all copies.
    limit: u64,
}

/// A copy, which is not removed until this is dropped.
#[derive(Debug)]
pub struct LocalCopy {
    path: PathBuf,
    _lock: Locked,
}

impl LocalCopy {
    /// The directory with its files.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl DatasetCache {
    #[must_use]
    pub fn new(directory: PathBuf, limit: u64) -> Self {
        Self { directory, limit }
    }

    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    fn entry(&self, dataset: &StoredDataset) -> PathBuf {
        self.directory.join(format!("{}-{}", dataset.name, dataset.sha256))
    }

    fn lock_file(entry: &Path) -> PathBuf {
        let mut name = entry.as_os_str().to_owned();
        name.push(".");
        name.push(LOCK);
        name.into()
    }

    /// The copy, if there is one and its files have not been changed. A changed one is removed.
    ///
    /// # Errors
    /// The disk fails.
    pub fn find(&self, dataset: &StoredDataset) -> Result<Option<LocalCopy>, Error> {
        let entry = self.entry(dataset);
        if !entry.is_dir() {
            return Ok(None);
        }
        let failed = |source| Error::Disk { path: entry.clone(), source };
        let Some(lock) = lock::try_lock(&Self::lock_file(&entry), LockMode::Shared).map_err(failed)? else {
            return Ok(None);
        };
        let path = entry.join(&dataset.name);
        let facts = CopyFacts::read(&entry);
        match dataset::fingerprint(&path) {
            Ok(found) if facts.is_some_and(|facts| facts.fingerprint == found) => {
                lock.touch(SystemTime::now());
                Ok(Some(LocalCopy { path, _lock: lock }))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => {
                drop(lock);
                self.remove_changed(&entry).map_err(failed)?;
                Ok(None)
            }
        }
    }

    fn remove_changed(&self, entry: &Path) -> io::Result<()> {
        let Some(lock) = lock::try_lock(&Self::lock_file(entry), LockMode::Exclusive)? else { return Ok(()) };
        tracing::warn!(directory = %entry.display(), "a copy of a data set was changed; removing it");
        remove(entry)?;
        lock.remove();
        Ok(())
    }

    /// The copy: an existing one, or a new one from storage. The future may be dropped at any time.
    ///
    /// # Errors
    /// The data set has no room, or storage or the disk fails.
    pub async fn get(
        &self,
        store: &Store,
        dataset: &StoredDataset,
        progress: impl Fn(CopyProgress),
    ) -> Result<LocalCopy, Error> {
        let needed = dataset.unpacked_bytes.unsigned_abs();
        if needed > self.limit {
            return Err(Error::TooLarge { id: dataset.id.clone(), bytes: needed, limit: self.limit });
        }
        loop {
            let (cache, wanted) = (self.clone(), dataset.clone());
            let next = tokio::task::spawn_blocking(move || cache.next(&wanted)).await;
            let next = next.map_err(|error| self.failed(io::Error::other(error)))?;
            match next? {
                NextStep::Use(copy) => return Ok(copy),
                NextStep::Fetch(lock) => fetch::fetch(store, dataset, &self.entry(dataset), lock, &progress).await?,
                NextStep::Wait(why) => {
                    progress(why);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Disk { path: self.directory.clone(), source }
    }

    /// What to do to get a copy. Makes room if it must be fetched.
    fn next(&self, dataset: &StoredDataset) -> Result<NextStep, Error> {
        fs::create_dir_all(&self.directory).map_err(|error| self.failed(error))?;
        if let Some(copy) = self.find(dataset)? {
            return Ok(NextStep::Use(copy));
        }
        let entry = self.entry(dataset);
        let lock = lock::try_lock(&Self::lock_file(&entry), LockMode::Exclusive).map_err(|error| self.failed(error))?;
        let Some(lock) = lock.filter(|_| !entry.is_dir()) else { return Ok(NextStep::Wait(CopyProgress::Shared)) };
        let has_room = self.reserve(&entry, dataset.unpacked_bytes.unsigned_abs());
        Ok(if has_room.map_err(|error| self.failed(error))? {
            NextStep::Fetch(lock)
        } else {
            NextStep::Wait(CopyProgress::NoRoom)
        })
    }

    /// Waits until nobody else looks for room.
    fn room(&self) -> io::Result<File> {
        let lock = File::options().create(true).truncate(false).write(true).open(self.directory.join(ROOM))?;
        lock.lock()?;
        Ok(lock)
    }

    /// Makes room for a copy and sets it aside, so that nothing else that is fetched at the same time counts on it.
    /// Returns whether there is room. The caller has the copy's lock.
    fn reserve(&self, entry: &Path, bytes: u64) -> io::Result<bool> {
        let _room = self.room()?;
        let partial = fetch::partial(entry);
        // A killed process may have left something.
        remove(&partial)?;
        if !self.make_room(bytes)? {
            return Ok(false);
        }
        fs::create_dir(&partial)?;
        CopyFacts { bytes, fingerprint: String::new() }.write(&partial)?;
        Ok(true)
    }

    /// Moves a directory into the cache that has the files of a data set in a directory with its name. Returns whether
    /// it was moved; if not, it is where it was.
    ///
    /// # Errors
    /// The disk fails.
    pub fn adopt(&self, directory: &Path, dataset: &StoredDataset) -> Result<bool, Error> {
        let failed = |source| Error::Disk { path: self.directory.clone(), source };
        let needed = dataset.unpacked_bytes.unsigned_abs();
        if needed > self.limit {
            return Ok(false);
        }
        fs::create_dir_all(&self.directory).map_err(failed)?;
        let entry = self.entry(dataset);
        let locked = lock::try_lock(&Self::lock_file(&entry), LockMode::Exclusive).map_err(failed)?;
        let Some(_lock) = locked.filter(|_| !entry.is_dir()) else { return Ok(false) };
        let _room = self.room().map_err(failed)?;
        if !self.make_room(needed).map_err(failed)? {
            return Ok(false);
        }
        CopyFacts { bytes: needed, fingerprint: dataset.fingerprint.clone() }.write(directory).map_err(failed)?;
        match fs::rename(directory, &entry) {
            Ok(()) => Ok(true),
            // On another file system.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// Removes copies that nobody uses until there is room for `needed` bytes. Returns whether there is. The caller has
    /// the lock of [`ROOM`].
    fn make_room(&self, needed: u64) -> io::Result<bool> {
        let mut copies = Vec::new();
        let mut total = 0_u64;
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?.path();
            if entry.extension().is_some_and(|extension| extension == fetch::PARTIAL) {
                if !remove_abandoned(&entry)? {
                    total = total.saturating_add(size(&entry));
                }
                continue;
            }
            if !entry.is_dir() {
                continue;
            }
            let used = fs::metadata(Self::lock_file(&entry)).and_then(|facts| facts.modified());
            let bytes = size(&entry);
            total = total.saturating_add(bytes);
            copies.push((used.unwrap_or(SystemTime::UNIX_EPOCH), entry, bytes));
        }
        copies.sort();
        for (_, entry, bytes) in copies {
            if total.saturating_add(needed) <= self.limit {
                break;
            }
            let Some(lock) = lock::try_lock(&Self::lock_file(&entry), LockMode::Exclusive)? else { continue };
            remove(&entry)?;
            lock.remove();
            tracing::info!(directory = %entry.display(), bytes, "removed the copy of a data set that was not used for longest");
            total = total.saturating_sub(bytes);
        }
        Ok(total.saturating_add(needed) <= self.limit)
    }
}

/// Removes an incomplete copy that a killed process has left. Returns whether it was one.
fn remove_abandoned(partial: &Path) -> io::Result<bool> {
    let entry = partial.with_extension("");
    match lock::try_lock(&DatasetCache::lock_file(&entry), LockMode::Exclusive)? {
        Some(_lock) => remove(partial).map(|()| true),
        None => Ok(false),
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Facts about a copy, stored beside its files when it is made.
#[derive(Debug, Serialize, Deserialize)]
struct CopyFacts {
    bytes: u64,
    /// As this version of the program computes it; the one that stored the data set may be another.
    fingerprint: String,
}

impl CopyFacts {
    const FILE: &str = "facts.json";

    /// `None` if the file is damaged or missing.
    fn read(entry: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(entry.join(Self::FILE)).ok()?).ok()
    }

    fn write(&self, entry: &Path) -> io::Result<()> {
        fs::write(entry.join(Self::FILE), serde_json::to_vec(self)?)
    }
}

/// Size of a copy's files in bytes: as stored in its facts, or else counted.
fn size(entry: &Path) -> u64 {
    CopyFacts::read(entry).map_or_else(|| size_below(entry), |facts| facts.bytes)
}

/// Bytes of all files below a directory.
#[must_use]
pub fn size_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(facts) if facts.is_dir() => size_below(&entry.path()),
        Ok(facts) => facts.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
