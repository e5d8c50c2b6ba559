//! Receives uploads, of checkpoints and of data sets: how many at once, how fast, and how much of the disk and of
//! memory they take.
//!
//! Receiving costs a connection and bytes on disk, so many may do it; an upload that trickles in holds its place only
//! while it sends enough, and gives way to others once all places are taken. Looking at what came costs memory, so few
//! do that at once. What holds a place or a turn is the work, not the request: a client that hangs up does not make
//! room for another.

use std::collections::HashMap;
use std::fs::File;
use std::io::Seek;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::extract::refuse_form;
use super::{AppState, ServerSettings, auth};
use crate::db::{embedded, tokens};

/// Most uploads that are stored simultaneously. Each holds a few parts of its file in memory.
const STORES: usize = 4;

/// Most archives that are unpacked at the same time. Each takes a processor, and its unpacked size on the disk.
const UNPACKINGS: usize = 2;

/// How long an upload waits for the place of a slow one that gives way.
const WAY_PATIENCE: Duration = Duration::from_secs(2);

/// The uploads of this process.
#[derive(Debug)]
pub struct Uploads {
    places: Arc<Semaphore>,
    per_token: usize,
    by_token: Mutex<HashMap<[u8; 32], usize>>,
    /// The uploads that are not complete.
    receiving: Mutex<Vec<Weak<Receiving>>>,
    /// How long an upload keeps its place however slow it is.
    period: Duration,
    /// Bytes per second with which it keeps its place after that.
    fair: u64,
    /// Bytes received and not stored yet.
    spooled: AtomicU64,
    spool_limit: u64,
    inspections: Arc<Semaphore>,
    unpackings: Arc<Semaphore>,
    stores: Arc<Semaphore>,
}

/// What is uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadKind {
    Checkpoint,
    Dataset,
}

/// The place of one upload, which is free again once this is dropped.
#[derive(Debug)]
struct UploadSlot {
    of_token: TokenSlot,
    bytes: u64,
    _permit: OwnedSemaphorePermit,
}

/// What one upload takes of its token's places.
#[derive(Debug)]
struct TokenSlot {
    uploads: Arc<Uploads>,
    token: Option<[u8; 32]>,
}

/// An upload whose bytes are still coming.
#[derive(Debug)]
struct Receiving {
    began: Instant,
    bytes: AtomicU64,
    gives_way: CancellationToken,
}

impl Receiving {
    fn bytes_per_second(&self) -> f64 {
        self.bytes.load(Ordering::Relaxed) as f64 / self.began.elapsed().as_secs_f64()
    }
}

impl Uploads {
    pub fn new(settings: &ServerSettings) -> Self {
        Self {
            places: Arc::new(Semaphore::new(settings.uploads)),
            per_token: settings.uploads_per_token,
            by_token: Mutex::default(),
            receiving: Mutex::default(),
            period: settings.upload_timeout,
            fair: settings.upload_fair,
            spooled: AtomicU64::new(0),
            spool_limit: settings.spool_limit.max(settings.checkpoint_limit).max(settings.dataset_limit),
            inspections: Arc::new(Semaphore::new(settings.inspections)),
            unpackings: Arc::new(Semaphore::new(UNPACKINGS)),
            stores: Arc::new(Semaphore::new(STORES)),
        }
    }

    async fn place(self: &Arc<Self>, token: Option<[u8; 32]>) -> Result<UploadSlot, ApiError> {
        let of_token = self.token_slot(token)?;
        let too_many = || ApiError::Unavailable("too many uploads at the same time: try again".into());
        let permit = match self.places.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) if self.end_slowest() => {
                let free = tokio::time::timeout(WAY_PATIENCE, self.places.clone().acquire_owned()).await;
                free.map_err(|_| too_many())?.expect("nobody closes it")
            }
            Err(_) => return Err(too_many()),
        };
        Ok(UploadSlot { of_token, bytes: 0, _permit: permit })
    }

    fn token_slot(self: &Arc<Self>, token: Option<[u8; 32]>) -> Result<TokenSlot, ApiError> {
        if let Some(token) = token {
            let mut by_token = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
            let of_this = by_token.entry(token).or_default();
            if *of_this >= self.per_token {
                return Err(ApiError::Unavailable(
                    "too many uploads at the same time with this token: try again".into(),
                ));
            }
            *of_this += 1;
        }
        Ok(TokenSlot { uploads: self.clone(), token })
    }

    /// Ends the slowest upload if it has had its time and is too slow. Returns whether one ends.
    fn end_slowest(&self) -> bool {
        let receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        let slow = receiving.iter().filter_map(Weak::upgrade).filter(|upload| {
            upload.began.elapsed() >= self.period
                && upload.bytes_per_second() < self.fair as f64
                && !upload.gives_way.is_cancelled()
        });
        let slowest = slow.min_by(|one, other| one.bytes_per_second().total_cmp(&other.bytes_per_second()));
        slowest.inspect(|upload| upload.gives_way.cancel()).is_some()
    }

    /// Notes an upload whose bytes are coming, until it is dropped.
    fn receive(&self) -> Arc<Receiving> {
        let upload = Receiving { began: Instant::now(), bytes: AtomicU64::new(0), gives_way: CancellationToken::new() };
        let upload = Arc::new(upload);
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        receiving.retain(|upload| upload.strong_count() > 0);
        receiving.push(Arc::downgrade(&upload));
        upload
    }

    /// Waits for a turn to look at an upload.
    pub async fn inspection(&self) -> OwnedSemaphorePermit {
        self.inspections.clone().acquire_owned().await.expect("nobody closes it")
    }

    /// Waits for a turn to unpack an archive.
    pub async fn unpacking(&self) -> OwnedSemaphorePermit {
        self.unpackings.clone().acquire_owned().await.expect("nobody closes it")
    }

    /// Waits for a turn to store one.
    pub async fn storing(&self) -> OwnedSemaphorePermit {
        self.stores.clone().acquire_owned().await.expect("nobody closes it")
    }
}

impl UploadSlot {
    fn grow(&mut self, bytes: u64) -> Result<(), ApiError> {
        self.bytes += bytes;
        let uploads = &self.of_token.uploads;
        let before = uploads.spooled.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > uploads.spool_limit {
            return Err(ApiError::Unavailable(
                "the server holds too many bytes of uploads that are not complete: try again".into(),
            ));
        }
        Ok(())
    }
}

impl Drop for UploadSlot {
    fn drop(&mut self) {
        self.of_token.uploads.spooled.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for TokenSlot {
    fn drop(&mut self) {
        let Some(token) = self.token else { return };
        let mut by_token = self.uploads.by_token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(others) = by_token.get_mut(&token) {
            *others -= 1;
            if *others == 0 {
                by_token.remove(&token);
            }
        }
    }
}

/// A file whose bytes are still coming.
#[derive(Debug)]
pub struct Spooled {
    file: tokio::fs::File,
    size: u64,
    hash: Sha256,
    place: UploadSlot,
}

impl Spooled {
    /// Takes one of the places for uploads, and makes an empty file.
    pub async fn begin(state: &AppState, headers: &HeaderMap) -> Result<Self, ApiError> {
        let place = state.uploads.place(auth::token(headers).map(tokens::hash)).await?;
        let directory = state.settings.spool_dir.clone();
        let file = tokio::task::spawn_blocking(move || {
            embedded::create_private(&directory)?;
            anyhow::Ok(tempfile::tempfile_in(&directory)?)
        });
        let file = tokio::fs::File::from_std(file.await.map_err(anyhow::Error::from)??);
        Ok(Self { file, size: 0, hash: Sha256::new(), place })
    }

    pub async fn add(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.size += bytes.len() as u64;
        self.place.grow(bytes.len() as u64)?;
        self.hash.update(bytes);
        self.file.write_all(bytes).await.map_err(full)
    }

    pub async fn end(mut self) -> Result<Upload, ApiError> {
        self.file.flush().await.map_err(full)?;
        let Self { file, size, hash, place } = self;
        Ok(Upload { file: file.into_std().await, size, sha256: hex::encode(hash.finalize()), _place: place })
    }
}

/// A received file. It is unlinked, so nothing of it can be left behind.
#[derive(Debug)]
pub struct Upload {
    file: File,
    /// In bytes.
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
    /// Until the file is stored.
    _place: UploadSlot,
}

impl Upload {
    /// Receives the body in pieces.
    pub async fn receive(
        state: &AppState,
        kind: UploadKind,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Self, ApiError> {
        refuse_form(headers)?;
        let (limit, path) = match kind {
            UploadKind::Checkpoint => (state.settings.checkpoint_limit, "checkpoints"),
            UploadKind::Dataset => (state.settings.dataset_limit, "datasets/NAME"),
        };
        let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(ApiError::TooLarge(limit));
        }
        let mut spooled = Spooled::begin(state, headers).await?;
        let mut pieces = body.into_data_stream();
        let mut pace = UploadPace::new(&state.settings);
        let receiving = state.uploads.receive();
        loop {
            let next = tokio::select! {
                next = pace.next(&mut pieces) => next?,
                () = receiving.gives_way.cancelled() => return Err(gave_way(&state.settings)),
            };
            let Some(piece) = next else { break };
            let piece = piece.map_err(|_| ApiError::malformed("the upload ended early"))?;
            if spooled.size + piece.len() as u64 > limit {
                return Err(ApiError::TooLarge(limit));
            }
            receiving.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            spooled.add(&piece).await?;
        }
        drop(receiving);
        if spooled.size == 0 {
            return Err(ApiError::malformed(format!(
                "the body is empty: send the file itself, for example with curl -T FILE 'http://…/v1/{path}'"
            )));
        }
        spooled.end().await
    }

    /// Replaces the file by another, which nobody else has.
    pub fn replace(&mut self, file: File) -> std::io::Result<()> {
        self.file = file;
        self.hash_again()
    }

    /// Notes size and hash of a file that was changed.
    pub fn hash_again(&mut self) -> std::io::Result<()> {
        let mut hash = Sha256::new();
        self.file.rewind()?;
        self.size = std::io::copy(&mut self.file, &mut hash)?;
        self.sha256 = hex::encode(hash.finalize());
        Ok(())
    }

    /// The unlinked file, open for reading and writing unless it was replaced.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A path to the unlinked file.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// Holds an upload to a least number of bytes in each period.
struct UploadPace {
    period: Duration,
    least: u64,
    began: Instant,
    received: u64,
}

impl UploadPace {
    fn new(settings: &ServerSettings) -> Self {
        Self { period: settings.upload_timeout, least: settings.upload_least, began: Instant::now(), received: 0 }
    }

    /// The next piece of the body.
    async fn next<E>(
        &mut self,
        pieces: &mut (impl futures::Stream<Item = Result<bytes::Bytes, E>> + Unpin),
    ) -> Result<Option<Result<bytes::Bytes, E>>, ApiError> {
        loop {
            let end = self.began + self.period;
            match tokio::time::timeout_at(end, pieces.next()).await {
                Ok(piece) => {
                    self.received += piece.iter().flatten().map(|piece| piece.len() as u64).sum::<u64>();
                    return Ok(piece);
                }
                Err(_) if self.received < self.least => {
                    return Err(ApiError::TooSlow(
                        format!(
                            "the upload paused or was too slow, with less than {} bytes in {} s: try again",
                            self.least,
                            self.period.as_secs_f32()
                        )
                        .into(),
                    ));
                }
                Err(_) => (self.began, self.received) = (Instant::now(), 0),
            }
        }
    }
}

fn gave_way(settings: &ServerSettings) -> ApiError {
    ApiError::TooSlow(
        format!(
            "all places for uploads were taken, and this upload was the slowest, with less than {} bytes per second: \
             try again",
            settings.upload_fair
        )
        .into(),
    )
}

/// A full disk is not the client's fault, and may be temporary.
pub fn full(error: std::io::Error) -> ApiError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            tracing::error!(%error, "no space for an upload");
            ApiError::Unavailable("the server has no space for the upload: try again later".into())
        }
        _ => error.into(),
    }
}
