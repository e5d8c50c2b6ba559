//! Which stored files this process has compared with their SHA-256, and how that ended.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use crate::artifacts::{self, Store, StoredVersion};

/// Comparisons that are kept; the oldest is forgotten first. A file that is forgotten is compared again.
const MOST_KEPT: usize = 1000;
/// Files that are read at once to be compared.
const AT_ONCE: usize = 4;

/// What a file should be, and what is stored in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComparedFile {
    /// Storage key.
    pub key: String,
    /// SHA-256 of what was stored, in hexadecimal.
    pub sha256: String,
    /// What is stored now.
    pub version: StoredVersion,
}

#[derive(Debug)]
pub struct Comparisons {
    /// Each with whether the file is what was stored, the newest last.
    kept: Mutex<VecDeque<(ComparedFile, bool)>>,
    turns: Semaphore,
}

impl Default for Comparisons {
    fn default() -> Self {
        Self { kept: Mutex::default(), turns: Semaphore::new(AT_ONCE) }
    }
}

impl Comparisons {
    /// How the last comparison ended; `None` if there was none of this version.
    pub fn known(&self, file: &ComparedFile) -> Option<bool> {
        self.kept().iter().find(|(other, _)| other == file).map(|&(_, is_whole)| is_whole)
    }

    pub fn remember(&self, file: &ComparedFile, is_whole: bool) {
        let mut kept = self.kept();
        // What was stored under the key before is gone.
        kept.retain(|(other, _)| other.key != file.key);
        kept.push_back((file.clone(), is_whole));
        if kept.len() > MOST_KEPT {
            kept.pop_front();
        }
    }

    /// Reads the file, unless it is known, and tells whether it is what was stored.
    ///
    /// # Errors
    /// The file is gone, or the storage fails.
    pub async fn compare(&self, store: &Store, file: &ComparedFile) -> Result<bool, artifacts::Error> {
        let _turn = self.turns.acquire().await;
        // Another request may have found out meanwhile.
        if let Some(known) = self.known(file) {
            return Ok(known);
        }
        let is_whole = store.sha256(&file.key).await? == file.sha256;
        self.remember(file, is_whole);
        Ok(is_whole)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(ComparedFile, bool)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
