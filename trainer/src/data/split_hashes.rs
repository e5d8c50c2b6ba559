//! Hashes the data set's files while training goes on. Their SHA-256 goes into the manifest and into cache keys, and it
//! decides about cached images: newly decoded ones are stored under it, and those from the cache are checked against
//! it. A run that resumes compares it with that of the data it was trained on before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cache::images::{DecodedSplit, ImageFile};
use crate::error::{Error, Result};
use distillery_core::dataset::Dataset;
use distillery_core::protocol::ErrorClass;

/// SHA-256 by split.
pub type Hashes = BTreeMap<String, String>;

/// The hashes, or the thread that computes them.
#[derive(Debug)]
pub struct SplitHashes {
    thread: Option<JoinHandle<Result<Hashes>>>,
    /// Disconnected once the thread is done.
    done: Receiver<()>,
    found: Hashes,
}

/// A split whose files are to be hashed.
#[derive(Debug)]
pub struct SplitToHash {
    pub name: String,
    /// One for each part of it that is used.
    pub then: Vec<CacheAction>,
}

/// What to do with a split's decoded images once the hash of its files is known.
#[derive(Debug)]
pub enum CacheAction {
    Nothing,
    /// Store them, unless the files' [stamp](Dataset::stamp) has changed since before they were decoded.
    Store {
        file: ImageFile,
        images: DecodedSplit,
        stamp: String,
    },
    /// Check that they were decoded from files with this SHA-256. Training already uses them.
    Verify {
        file: ImageFile,
        sha256: String,
    },
}

impl SplitToHash {
    fn hash(self, dataset: &Dataset) -> Result<(String, String)> {
        let found = dataset.sha256(&self.name).map_err(Error::storage(dataset.path()))?;
        for action in self.then {
            action.take(dataset, &self.name, &found)?;
        }
        Ok((self.name, found))
    }
}

impl CacheAction {
    fn take(self, dataset: &Dataset, split: &str, found: &str) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Store { file, images, stamp } => {
                let is_unchanged = dataset.stamp(split).is_ok_and(|now| now == stamp);
                if is_unchanged && let Err(error) = file.store(&images, found) {
                    tracing::warn!(file = %file.path().display(), %error, "decoded images could not be cached");
                }
                Ok(())
            }
            Self::Verify { file, sha256 } if sha256 != found => {
                let _ = file.remove();
                Err(Error {
                    class: ErrorClass::Storage,
                    message: format!(
                        "the files of the {split} split of {} have changed, although their sizes and times have not, \
                         so this run used outdated images from the cache. They have been removed: run it again",
                        dataset.path().display()
                    ),
                })
            }
            Self::Verify { .. } => Ok(()),
        }
    }
}

impl SplitHashes {
    /// Starts to hash the splits on a thread.
    #[must_use]
    pub fn start(dataset: Arc<Dataset>, splits: Vec<SplitToHash>) -> Self {
        let (running, done) = channel();
        let thread = std::thread::spawn(move || {
            let _running = running;
            splits.into_iter().map(|split| split.hash(&dataset)).collect()
        });
        Self { thread: Some(thread), done, found: Hashes::new() }
    }

    /// Waits for the hashes.
    ///
    /// # Errors
    /// A file could not be read, or cached images were not decoded from the current files.
    pub fn get(&mut self) -> Result<&Hashes> {
        if let Some(thread) = self.thread.take() {
            self.found = thread.join().map_err(|panic| Error::from_panic(&*panic))??;
        }
        Ok(&self.found)
    }

    /// The hashes, if they are known within that time.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn within(&mut self, patience: Duration) -> Result<Option<&Hashes>> {
        if self.thread.is_some() && self.done.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            return Ok(None);
        }
        self.get().map(Some)
    }
}
