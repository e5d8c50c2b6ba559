//! Files that outlive a process: uploaded checkpoints, states to resume from, students. In a local directory, or in
//! S3-compatible storage so that workers on several machines see the same.
//!
//! A file appears under its key completely or not at all, and its SHA-256 is taken while it passes through.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, WriteMultipart};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

/// Uploads go in parts of this size; what is smaller goes in one.
const PART: usize = 8 << 20;
/// Parts in flight, and so the memory that an upload takes.
const PARTS_IN_FLIGHT: usize = 4;

/// What can go wrong with storage.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is stored under the key.
    #[error("nothing is stored under {0}")]
    NotFound(String),
    /// A key that could mean another place than it says.
    #[error("{0:?} cannot be the name of a stored file")]
    BadKey(String),
    /// The storage itself, or the source of an upload, failed.
    #[error("storage failed: {0}")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is stored is not what was: the disk or somebody changed it.
    #[error("{key} is damaged in storage: its SHA-256 is {found}, and {stored} was stored")]
    Damaged {
        /// Its key.
        key: String,
        /// What came out.
        found: String,
        /// What went in.
        stored: String,
    },
    /// A local file that goes in or comes out.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { path, .. } => Self::NotFound(path),
            other => Self::Storage(Box::new(other)),
        }
    }
}

/// What is known of a file once it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its size.
    pub size_bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// A file in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// Its key.
    pub key: String,
    /// Its size.
    pub size_bytes: u64,
    /// When it was stored.
    pub stored_at: DateTime<Utc>,
}

/// The key of an uploaded checkpoint.
#[must_use]
pub fn key_of_upload(sha256: &str) -> String {
    format!("checkpoints/{sha256}")
}

/// Makes `ring` the library of TLS arithmetic for every HTTP client of this process. Without it `reqwest`, which is built
/// with none of its own, refuses to make a client.
pub fn install_tls_provider() {
    // An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A stream of a stored file's bytes.
pub type Bytestream = BoxStream<'static, Result<Bytes, Error>>;

/// The storage; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    /// Where the files are, if on this machine.
    directory: Option<Arc<Path>>,
}

impl Store {
    /// Opens a directory, which is created if need be, or `s3://bucket/prefix`, whose credentials and endpoint come
    /// from the usual `AWS_…` environment variables.
    ///
    /// # Errors
    /// When the directory cannot be created or the address is not understood.
    pub fn open(address: &str) -> anyhow::Result<Self> {
        let Some(bucket) = address.strip_prefix("s3://") else {
            return Self::open_directory(Path::new(address));
        };
        install_tls_provider();
        let (bucket, prefix) = bucket.split_once('/').unwrap_or((bucket, ""));
        let store = AmazonS3Builder::from_env().with_bucket_name(bucket).build()?;
        Ok(Self { inner: Arc::new(PrefixStore::new(store, Key::parse(prefix)?)), directory: None })
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
        Ok(Self { inner: Arc::new(store), directory: Some(path.into()) })
    }

    /// How many more bytes can be stored; none where that is not known, as for S3.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        let free = rustix::fs::statvfs(self.directory.as_deref()?).ok()?;
        Some(free.f_bavail.saturating_mul(free.f_frsize))
    }

    /// Stores a local file.
    ///
    /// # Errors
    /// When it cannot be read or stored.
    pub async fn put_file(&self, key: &str, path: &Path) -> Result<StoredFile, Error> {
        let failed = |source| Error::File { path: path.to_owned(), source };
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        self.put_open_file(key, file, path).await
    }

    /// Stores a local file that is open, whatever has become of its path, which is for error messages.
    ///
    /// # Errors
    /// When it cannot be read or stored.
    pub async fn put_open_file(&self, key: &str, file: tokio::fs::File, path: &Path) -> Result<StoredFile, Error> {
        let failed = |source| Error::File { path: path.to_owned(), source };
        let chunks = tokio_util::io::ReaderStream::with_capacity(file, 1 << 18).map_err(failed);
        self.put_stream(key, chunks).await
    }

    /// Stores a stream, with bounded memory. A stream that fails leaves nothing behind.
    ///
    /// # Errors
    /// When the stream fails or the bytes cannot be stored.
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
                Some(upload) => {
                    upload.wait_for_capacity(PARTS_IN_FLIGHT).await?;
                    upload.put(chunk);
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

    /// Reads a part of a stored file.
    ///
    /// # Errors
    /// When it is not there or cannot be read; later failures come through the stream.
    pub async fn read(&self, key: &str, range: Range<u64>) -> Result<Bytestream, Error> {
        if range.is_empty() {
            return Ok(futures::stream::empty().boxed());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let result = self.inner.get_opts(&checked(key)?, options).await?;
        Ok(result.into_stream().map_err(Error::from).boxed())
    }

    /// Copies a stored file to a local path and sees that it is what was stored.
    ///
    /// # Errors
    /// When it is not there, cannot be read, cannot be written, or has another SHA-256; then it is removed again.
    pub async fn fetch_unharmed(&self, key: &str, path: &Path, sha256: &str) -> Result<(), Error> {
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
    /// When it is not there, cannot be read, or cannot be written.
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

    /// The size of a stored file, or none where there is no such file.
    ///
    /// # Errors
    /// When the storage does not answer.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, Error> {
        match self.inner.head(&checked(key)?).await.map_err(Error::from) {
            Ok(found) => Ok(Some(found.size)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a file; one that is not there is no error.
    ///
    /// # Errors
    /// When the storage refuses.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        match self.inner.delete(&checked(key)?).await.map_err(Error::from) {
            Ok(()) | Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Every stored file.
    ///
    /// # Errors
    /// When the storage does not answer.
    pub async fn list(&self) -> Result<Vec<ListedFile>, Error> {
        let found = self.inner.list(None).map_err(Error::from).map_ok(|file| ListedFile {
            key: file.location.into(),
            size_bytes: file.size,
            stored_at: file.last_modified,
        });
        found.try_collect().await
    }

    /// Removes every file below a directory, but those that are to be kept.
    ///
    /// # Errors
    /// When the storage refuses.
    pub async fn delete_below(&self, directory: &str, keep: impl Fn(&str) -> bool) -> Result<(), Error> {
        let mut found = self.inner.list(Some(&checked(directory)?));
        while let Some(file) = found.next().await {
            let file = file?;
            if !keep(file.location.as_ref()) {
                self.delete(file.location.as_ref()).await?;
            }
        }
        Ok(())
    }

    /// Writes and removes a small file, to see that storage works.
    ///
    /// # Errors
    /// When it does not.
    pub async fn probe(&self) -> Result<(), Error> {
        let key = format!("probe/{}", ulid::Ulid::generate().to_string().to_ascii_lowercase());
        self.inner.put(&checked(&key)?, Bytes::from_static(b"ok").into()).await?;
        self.delete(&key).await
    }
}

async fn abort(upload: Option<WriteMultipart>) {
    if let Some(upload) = upload
        && let Err(error) = upload.abort().await
    {
        tracing::warn!(%error, "could not abort an upload");
    }
}

/// A key of plain components: nothing that a file system or a URL could read otherwise.
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
