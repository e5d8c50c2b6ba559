//! Fetches a data set from storage: unpacks its tar as it comes, and keeps the files only if the tar has its SHA-256.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::lock::Locked;
use super::{CopyFacts, CopyProgress, Error, remove};
use crate::archive::{self, ChannelReader};
use crate::artifacts::{self, Store};
use crate::dataset;
use crate::db::datasets::StoredDataset;

/// Extension of a directory into which a data set is being unpacked.
pub(super) const PARTIAL: &str = "partial";

/// Makes the copy in `entry`, for which room was set aside. `lock` is its exclusive lock.
pub(super) async fn fetch(
    store: &Store,
    dataset: &StoredDataset,
    entry: &Path,
    lock: Locked,
    progress: &impl Fn(CopyProgress),
) -> Result<(), Error> {
    let (sender, reader) = ChannelReader::new();
    let (wanted, place) = (dataset.clone(), entry.to_owned());
    // The task owns the lock: if this future is dropped, the task removes its files before anybody else can begin.
    let unpacking = tokio::task::spawn_blocking(move || {
        let unpacked = unpack(&wanted, &place, reader);
        drop(lock);
        unpacked
    });
    let sent = send(store, dataset, sender, progress).await;
    let unpacked = unpacking.await.map_err(|error| disk(entry, io::Error::other(error)))?;
    // If storage failed, that is why unpacking failed.
    sent?;
    unpacked
}

async fn send(
    store: &Store,
    dataset: &StoredDataset,
    sender: mpsc::Sender<Option<Bytes>>,
    progress: &impl Fn(CopyProgress),
) -> Result<(), Error> {
    let size = dataset.size_bytes.unsigned_abs();
    // A slow storage may take long for its first bytes.
    progress(CopyProgress::Fetched(0));
    let mut pieces = store.read(&dataset.key, 0..size).await?;
    let mut fetched = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        fetched += piece.len() as u64;
        if sender.send(Some(piece)).await.is_err() {
            // The task has ended, and its result says why.
            return Ok(());
        }
        progress(CopyProgress::Fetched(fetched));
    }
    let _ = sender.send(None).await;
    Ok(())
}

/// Where a copy is unpacked.
pub(super) fn partial(entry: &Path) -> PathBuf {
    let mut partial = entry.as_os_str().to_owned();
    partial.push(".");
    partial.push(PARTIAL);
    partial.into()
}

fn unpack(dataset: &StoredDataset, entry: &Path, reader: ChannelReader) -> Result<(), Error> {
    let partial = partial(entry);
    let outcome = unpack_into(dataset, &partial, reader)
        .and_then(|()| fs::rename(&partial, entry).map_err(|error| disk(entry, error)));
    if outcome.is_err()
        && let Err(error) = remove(&partial)
    {
        tracing::warn!(directory = %partial.display(), %error, "cannot remove a part of a data set");
    }
    outcome
}

fn unpack_into(dataset: &StoredDataset, partial: &Path, reader: ChannelReader) -> Result<(), Error> {
    let files = partial.join(&dataset.name);
    fs::create_dir_all(&files).map_err(|error| disk(partial, error))?;
    let mut reader = HashingReader { reader, hash: Sha256::new() };
    let unpacked = archive::unpack_packed(&mut reader, &files, dataset.unpacked_bytes.unsigned_abs());
    match unpacked {
        Err(archive::Error::Io(error)) => return Err(disk(partial, error)),
        // Read to the end for the SHA-256: if the bytes are damaged, what is wrong with the tar does not matter.
        ref unpacked => {
            if unpacked.is_err() {
                io::copy(&mut reader, &mut io::sink()).map_err(|error| disk(partial, error))?;
            }
        }
    }
    let found = hex::encode(reader.hash.finalize());
    if found != dataset.sha256 {
        let (key, stored) = (dataset.key.clone(), dataset.sha256.clone());
        return Err(artifacts::Error::Damaged { key, found, stored }.into());
    }
    let unreadable = |source| Error::Unreadable { id: dataset.id.clone(), source };
    let unpacked = unpacked.map_err(unreadable)?;
    let fingerprint = dataset::fingerprint(&files).map_err(|error| disk(partial, error))?;
    let facts = CopyFacts { bytes: unpacked.bytes, fingerprint };
    facts.write(partial).map_err(|error| disk(partial, error))
}

fn disk(path: &Path, source: io::Error) -> Error {
    Error::Disk { path: path.to_owned(), source }
}

/// Computes the SHA-256 of what is read through it.
struct HashingReader {
    reader: ChannelReader,
    hash: Sha256,
}

impl Read for HashingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
