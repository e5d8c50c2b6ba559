//! Pieces of consecutive encoded images that are unpacked together, and a cache of the most recently used pieces for
//! many threads.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ::parquet::data_type::ByteArray;

use super::super::{Error, KEPT_BYTES};

/// Encoded images one behind the other. They are copied, since a page can be many times as large as what is wanted of
/// it.
#[derive(Debug, Default)]
pub(super) struct Piece {
    bytes: Vec<u8>,
    /// Where each image is; `None` for a null.
    ranges: Vec<Option<Range<usize>>>,
}

impl Piece {
    pub(super) fn of(images: &[Option<ByteArray>]) -> Self {
        let mut piece = Self::default();
        piece.bytes.reserve_exact(images.iter().flatten().map(ByteArray::len).sum());
        for image in images {
            let start = piece.bytes.len();
            let range = image.as_ref().map(|image| {
                piece.bytes.extend_from_slice(image.data());
                start..piece.bytes.len()
            });
            piece.ranges.push(range);
        }
        piece
    }

    /// `None` for a null.
    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        self.bytes.get(self.ranges.get(index)?.clone()?)
    }
}

/// A piece, unpacked by the first thread that needs it while the others wait.
#[derive(Debug)]
struct PieceSlot {
    /// Size of the piece; an estimate until it is unpacked.
    bytes: AtomicU64,
    /// Value of [`PieceCache::uses`] at the last use.
    used: AtomicU64,
    /// Also caches that the file is invalid, which will not change.
    piece: Mutex<Option<Result<Arc<Piece>, InvalidFile>>>,
}

/// The fields of [`Error::Invalid`].
type InvalidFile = (std::path::PathBuf, String);

/// The most recently used pieces.
#[derive(Debug)]
pub(super) struct PieceCache {
    /// By the index of the first image.
    slots: Mutex<HashMap<usize, Arc<PieceSlot>>>,
    uses: AtomicU64,
    limit: AtomicU64,
}

impl Default for PieceCache {
    fn default() -> Self {
        Self { slots: Mutex::default(), uses: AtomicU64::new(0), limit: AtomicU64::new(KEPT_BYTES) }
    }
}

impl PieceCache {
    /// Sets the largest total size of all pieces, in bytes.
    pub(super) fn limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// The piece that starts with image `first` and has about `bytes` bytes. `read` unpacks it if necessary.
    pub(super) fn get(
        &self,
        first: usize,
        bytes: u64,
        read: impl FnOnce() -> Result<Piece, Error>,
    ) -> Result<Arc<Piece>, Error> {
        let slot = self.slot(first, bytes);
        let mut piece = slot.piece.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match piece.as_ref() {
            Some(known) => known.clone(),
            None => {
                let result = match read() {
                    Ok(read) => Ok(Arc::new(read)),
                    Err(Error::Invalid { path, message }) => Err((path, message)),
                    Err(temporary) => return Err(temporary),
                };
                slot.bytes.store(result.as_ref().map_or(0, |piece| piece.bytes.len() as u64), Ordering::Relaxed);
                piece.insert(result).clone()
            }
        };
        result.map_err(|(path, message)| Error::Invalid { path, message })
    }

    fn slot(&self, first: usize, bytes: u64) -> Arc<PieceSlot> {
        let now = self.uses.fetch_add(1, Ordering::Relaxed);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&first) {
            slot.used.store(now, Ordering::Relaxed);
            return Arc::clone(slot);
        }
        let limit = self.limit.load(Ordering::Relaxed);
        let mut total = slots.values().map(|slot| slot.bytes.load(Ordering::Relaxed)).fold(bytes, u64::saturating_add);
        // Evicted pieces in use remain in memory until their users drop them.
        while total > limit
            && let Some((&oldest, slot)) = slots.iter().min_by_key(|(_, slot)| slot.used.load(Ordering::Relaxed))
        {
            total = total.saturating_sub(slot.bytes.load(Ordering::Relaxed));
            slots.remove(&oldest);
        }
        let slot = PieceSlot { bytes: AtomicU64::new(bytes), used: AtomicU64::new(now), piece: Mutex::new(None) };
        Arc::clone(slots.entry(first).or_insert(Arc::new(slot)))
    }
}
