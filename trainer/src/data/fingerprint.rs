//! SHA-256 of the data's files, which are hashed beside the training, and what is done with it there: images that were
//! decoded are kept under it, and images that an earlier run kept are compared by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::cache::images::{Decoded, Slot};
use crate::error::{Error, Result};
use distillery::dataset::Dataset;
use distillery::protocol::ErrorClass;

/// By split.
type Hashes = BTreeMap<String, String>;

/// The hashes, or the thread that makes them.
#[derive(Debug)]
pub struct Fingerprints {
    thread: Option<JoinHandle<Result<Hashes>>>,
    found: Hashes,
}

/// A split whose files are to be hashed.
#[derive(Debug)]
pub struct Split {
    /// Its name.
    pub name: String,
    /// What becomes of its decoded images.
    pub images: Images,
}

/// The decoded images of a split.
#[derive(Debug)]
pub enum Images {
    /// They are not kept.
    Passing,
    /// They are to be kept, unless the files have another [stamp](Dataset::stamp) by then.
    New {
        /// Where.
        slot: Slot,
        /// The images.
        decoded: Decoded,
        /// The files' stamp before they were decoded.
        stamp: String,
    },
    /// They come from an earlier run.
    Kept {
        /// Whence.
        slot: Slot,
        /// SHA-256 of the files that they were decoded from.
        fingerprint: String,
    },
}

impl Split {
    fn hash(self, dataset: &Dataset) -> Result<(String, String)> {
        let found = dataset.fingerprint(&self.name).map_err(Error::storage(dataset.path()))?;
        match self.images {
            Images::Passing => {}
            Images::New { slot, decoded, stamp } => {
                let is_unchanged = dataset.stamp(&self.name).is_ok_and(|now| now == stamp);
                if is_unchanged && let Err(error) = slot.store(&decoded, &found) {
                    tracing::warn!(file = %slot.path().display(), %error, "the decoded images are not kept");
                }
            }
            Images::Kept { slot, fingerprint } if fingerprint != found => {
                let _ = slot.remove();
                return Err(Error {
                    class: ErrorClass::Storage,
                    message: format!(
                        "the files of the {} split of {} were changed, but not their sizes and times, so that images were \
                         used that an earlier run had decoded from other content; those are removed now: run it again",
                        self.name,
                        dataset.path().display()
                    ),
                });
            }
            Images::Kept { .. } => {}
        }
        Ok((self.name, found))
    }
}

impl Fingerprints {
    /// Begins to hash those splits.
    #[must_use]
    pub fn start(dataset: Arc<Dataset>, splits: Vec<Split>) -> Self {
        let thread = std::thread::spawn(move || splits.into_iter().map(|split| split.hash(&dataset)).collect());
        Self { thread: Some(thread), found: Hashes::new() }
    }

    /// The hashes; waits for them.
    ///
    /// # Errors
    /// A file could not be read, or is not what the images that an earlier run kept were decoded from.
    pub fn get(&mut self) -> Result<&Hashes> {
        if let Some(thread) = self.thread.take() {
            self.found = thread.join().map_err(|panic| Error::from_panic(&*panic))??;
        }
        Ok(&self.found)
    }
}
