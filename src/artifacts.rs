//! Where files are kept: a local directory, or a bucket of an S3 service.
//!
//! Uploaded checkpoints are `checkpoints/SHA256`; what a job wrote is below `jobs/ID/attempts/N/`. A file appears under
//! its key complete or not at all, and no more than a few parts of a file are ever in memory.

use std::fs::DirBuilder;
use std::io;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Location;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;
/// Bytes of one part of a large file on S3, which takes 10,000 of them.
const PART: usize = 16 << 20;

/// Why storage did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no file of that key.
    #[error("storage has no {0}")]
    Missing(String),
    /// A key that could lead elsewhere.
    #[error(
        "{0:?} is no key of a file: its parts may hold letters, digits, '.', '_' and '-', and do not start with '.'"
    )]
    Key(String),
    /// What is stored is not what was expected.
    #[error("{key} is damaged: its SHA-256 is {found}, expected {expected}")]
    Damaged {
        /// The file.
        key: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The file to store or the place to fetch to.
    #[error("{0}")]
    Local(String, #[source] io::Error),
    /// The directory or the service.
    #[error("storage failed")]
    Storage(#[from] object_store::Error),
}

impl Error {
    fn of(key: &str, error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Missing(key.to_owned()),
            other => Self::Storage(other),
        }
    }
}

/// What was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Size in bytes.
    pub size_bytes: u64,
    /// In hexadecimal.
    pub sha256: String,
}

/// An open file of the storage.
pub struct Opened {
    /// Size of the whole file in bytes.
    pub size_bytes: u64,
    /// The bytes asked for.
    pub bytes: BoxStream<'static, io::Result<Bytes>>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

/// The storage; clones are the same one.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Set for a local directory.
    local: Option<Arc<LocalFileSystem>>,
    /// The part of an `s3://bucket/prefix` after the bucket.
    prefix: Location,
}

impl Store {
    /// Opens a directory, which is created if need be, or `s3://bucket/prefix`, whose credentials, region and endpoint
    /// come from the usual `AWS_…` variables.
    ///
    /// # Errors
    /// When the directory cannot be created, or the URL or the variables make no sense. S3 itself is not asked:
    /// [`check`](Self::check) does that.
    pub fn open(location: &str) -> Result<Self, Error> {
        if let Some(rest) = location.strip_prefix("s3://") {
            let prefix = rest.split_once('/').map_or("", |(_, prefix)| prefix.trim_matches('/'));
            let prefix = if prefix.is_empty() { Location::default() } else { checked(prefix)? };
            let objects = AmazonS3Builder::from_env().with_url(location).build()?;
            return Ok(Self { objects: Arc::new(objects), local: None, prefix });
        }
        let directory = Path::new(location);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| Error::Local(format!("cannot create the storage directory {location}"), error))?;
        let local = Arc::new(LocalFileSystem::new_with_prefix(directory)?.with_fsync(true));
        Ok(Self { objects: local.clone(), local: Some(local), prefix: Location::default() })
    }

    fn location(&self, key: &str) -> Result<Location, Error> {
        let key = checked(key)?;
        Ok(self.prefix.parts().chain(key.parts()).collect())
    }

    /// Asks for an object that need not be there, for whether the storage can be reached at all.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn check(&self) -> Result<(), Error> {
        match self.size("reachable").await {
            Ok(_) | Err(Error::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Stores what `reader` gives, hashing it on the way; an older file of that key is replaced.
    ///
    /// # Errors
    /// When reading or storing fails; then the key is as it was.
    pub async fn put(&self, key: &str, mut reader: impl AsyncRead + Unpin) -> Result<Stored, Error> {
        let mut writer =
            BufWriter::with_capacity(self.objects.clone(), self.location(key)?, PART).with_max_concurrency(2);
        let outcome = copy_hashed(&mut reader, &mut writer).await;
        if outcome.is_err() {
            // What was sent so far; if that fails too, the first error says more.
            let _ = writer.abort().await;
        }
        outcome.map_err(|error| Error::Local(format!("cannot store {key}"), error))
    }

    /// Stores a local file.
    ///
    /// # Errors
    /// As those of [`put`](Self::put), and when the file cannot be opened.
    pub async fn put_file(&self, key: &str, path: &Path) -> Result<Stored, Error> {
        let open = tokio::fs::File::open(path).await;
        let file = open.map_err(|error| Error::Local(format!("cannot open {}", path.display()), error))?;
        self.put(key, file).await
    }

    /// Gives a file another key, replacing what was there.
    ///
    /// # Errors
    /// When there is no such file, or storage fails.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let (source, target) = (self.location(from)?, self.location(to)?);
        self.objects.rename(&source, &target).await.map_err(|error| Error::of(from, error))
    }

    /// The size of a file.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is none, or storage fails.
    pub async fn size(&self, key: &str) -> Result<u64, Error> {
        let location = self.location(key)?;
        Ok(self.objects.head(&location).await.map_err(|error| Error::of(key, error))?.size)
    }

    /// Reads a file, or the bytes of it in `range`.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is none, or storage fails; later failures are in the stream.
    pub async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Opened, Error> {
        let location = self.location(key)?;
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let result = self.objects.get_opts(&location, options).await.map_err(|error| Error::of(key, error))?;
        let size_bytes = result.meta.size;
        let bytes = match result.payload {
            GetResultPayload::Stream(stream) => stream.map_err(io::Error::from).boxed(),
            // In larger steps than those of the stream that object_store makes of it.
            GetResultPayload::File(file, _) => {
                let mut file = tokio::fs::File::from_std(file);
                let seek = file.seek(io::SeekFrom::Start(result.range.start)).await;
                seek.map_err(|error| Error::Local(format!("cannot read {key}"), error))?;
                ReaderStream::with_capacity(file.take(result.range.end - result.range.start), CHUNK).boxed()
            }
        };
        Ok(Opened { size_bytes, bytes })
    }

    /// Fetches a file into a local one, which is replaced, and checks it where its hash is known.
    ///
    /// # Errors
    /// When there is no such file, it is damaged, or reading or writing fails.
    pub async fn fetch(&self, key: &str, to: &Path, sha256: Option<&str>) -> Result<Stored, Error> {
        let opened = self.get(key, None).await?;
        let mut reader = tokio_util::io::StreamReader::new(opened.bytes);
        let write = async {
            let mut file = tokio::fs::File::create(to).await?;
            copy_hashed(&mut reader, &mut file).await
        };
        let stored =
            write.await.map_err(|error| Error::Local(format!("cannot fetch {key} to {}", to.display()), error))?;
        match sha256 {
            Some(expected) if expected != stored.sha256 => {
                Err(Error::Damaged { key: key.to_owned(), expected: expected.to_owned(), found: stored.sha256 })
            }
            _ => Ok(stored),
        }
    }

    /// Deletes a file; one that is not there is deleted already.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let location = self.location(key)?;
        match self.objects.delete(&location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes every file whose key starts with `prefix` and a slash.
    ///
    /// # Errors
    /// When storage fails; then some of them may be left.
    pub async fn delete_below(&self, prefix: &str) -> Result<(), Error> {
        let location = self.location(prefix)?;
        if let Some(local) = &self.local {
            // The directories and what a killed process left half-written too.
            let directory = local.path_to_filesystem(&location)?;
            return match tokio::fs::remove_dir_all(&directory).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::Local(format!("cannot delete {}", directory.display()), error))
                }
                _ => Ok(()),
            };
        }
        let found = self.objects.list(Some(&location)).map_ok(|object| object.location).boxed();
        self.objects.delete_stream(found).try_for_each(|_| async { Ok(()) }).await?;
        Ok(())
    }
}

/// The key as a location, if each of its parts is a plain name.
fn checked(key: &str) -> Result<Location, Error> {
    let is_plain = |part: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !part.is_empty() && part.len() <= 255 && !part.starts_with('.') && part.bytes().all(allowed)
    };
    if !key.split('/').all(is_plain) {
        return Err(Error::Key(key.to_owned()));
    }
    Ok(Location::from(key))
}

async fn copy_hashed(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> io::Result<Stored> {
    let (mut hash, mut size_bytes) = (Sha256::new(), 0);
    let mut buffer = BytesMut::with_capacity(CHUNK);
    while reader.read_buf(&mut buffer).await? > 0 {
        size_bytes += buffer.len() as u64;
        hash.update(&buffer);
        writer.write_all(&buffer).await?;
        buffer.clear();
    }
    writer.shutdown().await?;
    Ok(Stored { size_bytes, sha256: hex::encode(hash.finalize()) })
}
