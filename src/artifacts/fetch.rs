//! Copies of stored files, and whether they are what was stored.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chrono::{DateTime, Utc};
use futures::StreamExt;
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{Error, Store, StoredFile, checked};

/// What tells a stored file from another one under its key, without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    pub size_bytes: u64,
    e_tag: Option<String>,
    stored_at: DateTime<Utc>,
    /// Of a local file, when anything of it was changed last, in seconds and nanoseconds. A copy that keeps the other
    /// times, as `cp -a` makes, has another one.
    changed_at: Option<(i64, i64)>,
}

impl Store {
    /// The version of a stored file; `None` if it does not exist.
    ///
    /// # Errors
    /// The storage fails.
    pub async fn version(&self, key: &str) -> Result<Option<StoredVersion>, Error> {
        let location = checked(key)?;
        let found = match self.inner.head(&location).await.map_err(Error::from) {
            Ok(found) => found,
            Err(Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let changed_at = match &self.directory {
            Some(root) => tokio::fs::metadata(root.join(location.as_ref())).await.ok(),
            None => None,
        };
        Ok(Some(StoredVersion {
            size_bytes: found.size,
            e_tag: found.e_tag,
            stored_at: found.last_modified,
            changed_at: changed_at.map(|facts| (facts.ctime(), facts.ctime_nsec())),
        }))
    }

    /// Whether a file is stored and has this SHA-256. A file that cannot be read is not whole.
    pub async fn is_whole(&self, key: &str, sha256: &str) -> bool {
        match self.sha256(key).await {
            Ok(found) => found == sha256,
            Err(error) => {
                tracing::warn!(%error, key, "cannot read a stored file");
                false
            }
        }
    }

    /// SHA-256 of a stored file, in hexadecimal. Reads all of it.
    ///
    /// # Errors
    /// The file does not exist, or the storage fails.
    pub async fn sha256(&self, key: &str) -> Result<String, Error> {
        let mut chunks = self.inner.get(&checked(key)?).await?.into_stream();
        let mut sha256 = Sha256::new();
        while let Some(chunk) = chunks.next().await {
            sha256.update(&chunk?);
        }
        Ok(hex::encode(sha256.finalize()))
    }

    /// Copies a stored file to a local path, and checks its SHA-256.
    ///
    /// # Errors
    /// The file does not exist, cannot be read or written, or is damaged; then the local copy is removed.
    pub async fn fetch_verified(&self, key: &str, path: &Path, sha256: &str) -> Result<(), Error> {
        let found = self.fetch(key, path).await?.sha256;
        if found == sha256 {
            return Ok(());
        }
        let _ = tokio::fs::remove_file(path).await;
        Err(Error::Damaged { key: key.to_owned(), found, stored: sha256.to_owned() })
    }

    /// Copies a stored file to a local path.
    ///
    /// # Errors
    /// The file does not exist, or cannot be read or written.
    pub async fn fetch(&self, key: &str, path: &Path) -> Result<StoredFile, Error> {
        let failed = |source| Error::File { path: path.to_owned(), source };
        let mut chunks = self.inner.get(&checked(key)?).await?.into_stream();
        let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
        let (mut sha256, mut size_bytes) = (Sha256::new(), 0);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            sha256.update(&chunk);
            size_bytes += chunk.len() as u64;
            file.write_all(&chunk).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        Ok(StoredFile { size_bytes, sha256: hex::encode(sha256.finalize()) })
    }
}
