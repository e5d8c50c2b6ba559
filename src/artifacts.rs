//! Files that outlive a process: uploaded checkpoints, states to resume from, students. They are stored in a local
//! directory, or in S3-compatible storage, which workers on several machines can share.
//!
//! A file appears under its key completely or not at all. Its SHA-256 is computed while it is stored or fetched.

mod fetch;
mod identity;
pub mod keys;
mod unfinished;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, GetOptions, GetRange, ObjectStore, ObjectStoreExt, WriteMultipart};
use sha2::{Digest, Sha256};

use unfinished::Bucket;

pub use fetch::StoredVersion;
pub use unfinished::UnfinishedFile;

/// Size of the parts of an upload, in bytes. Smaller files are uploaded in one request.
const PART: usize = 8 << 20;
/// Most parts in flight; this bounds the memory of an upload.
const PARTS_IN_FLIGHT: usize = 4;
/// Most deletions in flight.
const DELETIONS_IN_FLIGHT: usize = 8;
/// Limits of S3's client, unless the environment has others: its setting, the variables that replace it, and the
/// limit. A service that is silent for long is asked again. A whole request may take as long as bytes keep coming: the
/// client's own limit, 30 seconds with repetitions for three minutes, would break off every large data set from a slow
/// service. A service is silent while it is sent a part, too. So who gives requests more time gives parts that time.
const S3_LIMITS: [(ClientConfigKey, &[&str], &str); 2] = [
    (ClientConfigKey::ReadTimeout, &["AWS_READ_TIMEOUT", "AWS_TIMEOUT"], "30s"),
    (ClientConfigKey::Timeout, &["AWS_TIMEOUT"], "7days"),
];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("nothing is stored under {0}")]
    NotFound(String),
    /// The key could escape from its directory, or be read differently by a file system or a URL parser.
    #[error("{0:?} is not a valid storage key")]
    BadKey(String),
    /// The storage, or the source of an upload, failed.
    #[error("storage failed: {0}")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The content has changed since it was stored.
    #[error("{key} is damaged in storage: its SHA-256 is {found}, but {stored} when it was stored")]
    Damaged {
        key: String,
        /// SHA-256 of what was read.
        found: String,
        /// SHA-256 of what was stored.
        stored: String,
    },
    /// A local file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { path, .. } => Self::NotFound(path),
            other => Self::Storage(Box::new(other)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    pub size_bytes: u64,
    /// In hexadecimal.
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    pub key: String,
    pub size_bytes: u64,
    pub stored_at: DateTime<Utc>,
}

/// Makes `ring` the cryptography provider of every TLS client in this process. `reqwest` is built without one, and
/// cannot create clients until one is installed.
pub fn install_tls_provider() {
    // Fails only if a provider is already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What opens a bucket, with the settings of the environment, which has some variables.
fn s3_builder(has_variable: impl Fn(&str) -> bool) -> AmazonS3Builder {
    let limits = S3_LIMITS.into_iter().filter(|(_, variables, _)| !variables.iter().any(|name| has_variable(name)));
    limits.fold(AmazonS3Builder::from_env(), |builder, (setting, _, limit)| {
        builder.with_config(AmazonS3ConfigKey::Client(setting), limit)
    })
}

pub type Bytestream = BoxStream<'static, Result<Bytes, Error>>;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    /// Set if the storage is a local directory.
    directory: Option<Arc<Path>>,
    /// Set if the storage is S3.
    bucket: Option<Arc<Bucket>>,
}

impl Store {
    /// Opens a directory, which is created if necessary, or `s3://bucket/prefix`, with credentials and endpoint from
    /// the usual `AWS_…` environment variables.
    ///
    /// # Errors
    /// The directory cannot be created, or the address is neither.
    pub fn open(address: &str) -> anyhow::Result<Self> {
        let Some(bucket) = address.strip_prefix("s3://") else {
            return Self::open_directory(Path::new(address));
        };
        install_tls_provider();
        let (bucket, prefix) = bucket.split_once('/').unwrap_or((bucket, ""));
        let has_variable = |name: &str| std::env::var_os(name).is_some();
        let store = s3_builder(has_variable).with_bucket_name(bucket).build()?;
        let prefix = Key::parse(prefix)?;
        let bucket = Arc::new(Bucket::new(store.clone(), &prefix)?);
        Ok(Self { inner: Arc::new(PrefixStore::new(store, prefix)), directory: None, bucket: Some(bucket) })
    }

    fn open_directory(path: &Path) -> anyhow::Result<Self> {
        use anyhow::Context;
        use std::os::unix::fs::DirBuilderExt;
        anyhow::ensure!(
            !path.to_string_lossy().contains("://"),
            "storage {} is neither a directory nor s3://bucket/prefix",
            path.display()
        );
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot create the storage directory {}", path.display()))?;
        let store = LocalFileSystem::new_with_prefix(path)?.with_fsync(true);
        Ok(Self { inner: Arc::new(store), directory: Some(path.into()), bucket: None })
    }

    /// Free space in bytes; `None` where it is unknown, as for S3.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        let free = rustix::fs::statvfs(self.directory.as_deref()?).ok()?;
        Some(free.f_bavail.saturating_mul(free.f_frsize))
    }

    /// Stores a local file.
    ///
    /// # Errors
    /// The file cannot be read or stored.
    pub async fn put_file(&self, key: &str, path: &Path) -> Result<StoredFile, Error> {
        let failed = |source| Error::File { path: path.to_owned(), source };
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        self.put_open_file(key, file, path).await
    }

    /// Stores an open file. `path` is used in error messages only; the file may have been renamed since.
    ///
    /// # Errors
    /// The file cannot be read or stored.
    pub async fn put_open_file(&self, key: &str, file: tokio::fs::File, path: &Path) -> Result<StoredFile, Error> {
        let failed = |source| Error::File { path: path.to_owned(), source };
        let chunks = tokio_util::io::ReaderStream::with_capacity(file, 1 << 18).map_err(failed);
        self.put_stream(key, chunks).await
    }

    /// Stores a stream in bounded memory. If the stream fails, nothing is stored.
    ///
    /// # Errors
    /// The stream fails, or the storage does.
    pub async fn put_stream<E>(
        &self,
        key: &str,
        mut chunks: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<StoredFile, Error>
    where
        Error: From<E>,
    {
        let key = checked(key)?;
        let mut sha256 = Sha256::new();
        let mut size_bytes = 0;
        let mut head = BytesMut::new();
        let mut upload: Option<WriteMultipart> = None;
        loop {
            let chunk = match chunks.next().await {
                None => break,
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => {
                    abort(upload).await;
                    return Err(error.into());
                }
            };
            sha256.update(&chunk);
            size_bytes += chunk.len() as u64;
            match &mut upload {
                Some(parts) => {
                    if let Err(error) = parts.wait_for_capacity(PARTS_IN_FLIGHT).await {
                        abort(upload).await;
                        return Err(error.into());
                    }
                    parts.put(chunk);
                }
                None => {
                    head.extend_from_slice(&chunk);
                    if head.len() >= PART {
                        let started = self.inner.put_multipart(&key).await?;
                        let mut started = WriteMultipart::new_with_chunk_size(started, PART);
                        started.put(std::mem::take(&mut head).freeze());
                        upload = Some(started);
                    }
                }
            }
        }
        match upload {
            Some(upload) => drop(upload.finish().await?),
            None => drop(self.inner.put(&key, head.freeze().into()).await?),
        }
        Ok(StoredFile { size_bytes, sha256: hex::encode(sha256.finalize()) })
    }

    /// Reads a range of a stored file.
    ///
    /// # Errors
    /// The file does not exist or cannot be read. Later failures are reported by the stream.
    pub async fn read(&self, key: &str, range: Range<u64>) -> Result<Bytestream, Error> {
        if range.is_empty() {
            return Ok(futures::stream::empty().boxed());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let result = self.inner.get_opts(&checked(key)?, options).await?;
        Ok(result.into_stream().map_err(Error::from).boxed())
    }

    /// The size of a stored file; `None` if it does not exist.
    ///
    /// # Errors
    /// The storage fails.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, Error> {
        match self.inner.head(&checked(key)?).await.map_err(Error::from) {
            Ok(found) => Ok(Some(found.size)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a file if it exists.
    ///
    /// # Errors
    /// The storage fails.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        match self.inner.delete(&checked(key)?).await.map_err(Error::from) {
            Ok(()) | Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All stored files.
    ///
    /// # Errors
    /// The storage fails.
    pub async fn list(&self) -> Result<Vec<ListedFile>, Error> {
        self.list_in(None).await
    }

    /// Lists all files in a directory and below it.
    ///
    /// # Errors
    /// The storage fails.
    pub async fn list_below(&self, directory: &str) -> Result<Vec<ListedFile>, Error> {
        self.list_in(Some(&checked(directory)?)).await
    }

    async fn list_in(&self, directory: Option<&Key>) -> Result<Vec<ListedFile>, Error> {
        let found = self.inner.list(directory).map_err(Error::from).map_ok(|file| ListedFile {
            key: file.location.into(),
            size_bytes: file.size,
            stored_at: file.last_modified,
        });
        found.try_collect().await
    }

    /// Removes all files in a directory for whose key `keep` returns false. A file that cannot be removed keeps no
    /// other.
    ///
    /// # Errors
    /// The storage fails.
    pub async fn delete_below(&self, directory: &str, keep: impl Fn(&str) -> bool) -> Result<(), Error> {
        let found = self.inner.list(Some(&checked(directory)?)).map_err(Error::from);
        let unneeded = found.try_filter(move |file| std::future::ready(!keep(file.location.as_ref())));
        let mut deletions = std::pin::pin!(
            unneeded
                .map(|file| async { self.delete(file?.location.as_ref()).await })
                .buffer_unordered(DELETIONS_IN_FLIGHT)
        );
        let mut outcome = Ok(());
        while let Some(deleted) = deletions.next().await {
            outcome = outcome.and(deleted);
        }
        outcome
    }

    /// Removes a directory with everything in it, if it exists, with what interrupted uploads have left there.
    ///
    /// # Errors
    /// The storage fails.
    pub async fn delete_directory(&self, directory: &str) -> Result<(), Error> {
        let Some(root) = &self.directory else {
            self.abort_below(directory).await;
            return self.delete_below(directory, |_| false).await;
        };
        // Also removes what listings hide: half-written files and empty directories.
        let path = root.join(checked(directory)?.as_ref());
        match tokio::fs::remove_dir_all(&path).await {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::File { path, source }),
            _ => Ok(()),
        }
    }

    /// Checks that the storage works, by writing and removing a small file.
    ///
    /// # Errors
    /// The storage fails.
    pub async fn probe(&self) -> Result<(), Error> {
        let key = keys::probe();
        self.inner.put(&checked(&key)?, Bytes::from_static(b"ok").into()).await?;
        self.delete(&key).await
    }
}

async fn abort(upload: Option<WriteMultipart>) {
    if let Some(upload) = upload
        && let Err(error) = upload.abort().await
    {
        tracing::warn!(%error, "cannot abort an upload");
    }
}

/// Parses a key. Its components may contain nothing that a file system or a URL parser could read differently.
fn checked(key: &str) -> Result<Key, Error> {
    let plain = |component: &str| {
        !component.is_empty()
            && !component.starts_with('.')
            && component.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    if key.split('/').all(plain) {
        Key::parse(key).map_err(|_| Error::BadKey(key.to_owned()))
    } else {
        Err(Error::BadKey(key.to_owned()))
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit of a setting where the environment has that variable.
    fn limit(setting: ClientConfigKey, variable: &str) -> Option<String> {
        s3_builder(|name| name == variable).get_config_value(&AmazonS3ConfigKey::Client(setting))
    }

    #[test]
    fn a_bucket_may_take_long_for_a_file_but_not_be_silent_for_long() {
        for (setting, _, wanted) in S3_LIMITS {
            assert_eq!(limit(setting, "").as_deref(), Some(wanted), "{setting:?}");
        }
    }

    #[test]
    fn who_gives_requests_to_a_bucket_more_time_gives_parts_that_are_sent_as_much() {
        assert_eq!(limit(ClientConfigKey::ReadTimeout, "AWS_TIMEOUT"), None);
        assert_eq!(limit(ClientConfigKey::ReadTimeout, "AWS_READ_TIMEOUT"), None);
        assert_eq!(limit(ClientConfigKey::Timeout, "AWS_READ_TIMEOUT").as_deref(), Some("7days"));
    }
}
