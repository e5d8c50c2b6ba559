//! SHA-256 of the data's files, which are hashed beside the training.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::error::{Error, Result};
use distillery::dataset::Dataset;

/// By split.
type Hashes = BTreeMap<String, String>;

/// The hashes, or the thread that makes them.
#[derive(Debug)]
pub struct Fingerprints {
    thread: Option<JoinHandle<Result<Hashes>>>,
    found: Hashes,
}

impl Fingerprints {
    /// Begins to hash those splits.
    #[must_use]
    pub fn start(dataset: Arc<Dataset>, splits: [String; 2]) -> Self {
        let thread = std::thread::spawn(move || {
            let fingerprint = |split: String| {
                let sha256 = dataset.fingerprint(&split).map_err(Error::storage(dataset.path()))?;
                Ok((split, sha256))
            };
            splits.into_iter().map(fingerprint).collect()
        });
        Self { thread: Some(thread), found: Hashes::new() }
    }

    /// The hashes; waits for them.
    ///
    /// # Errors
    /// A file could not be read.
    pub fn get(&mut self) -> Result<&Hashes> {
        if let Some(thread) = self.thread.take() {
            self.found = thread.join().map_err(|panic| Error::from_panic(&*panic))??;
        }
        Ok(&self.found)
    }
}
