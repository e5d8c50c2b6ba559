//! The memory that decoding takes, in a process that decodes images of strangers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Encoded images of more bytes are read one at a time.
const LARGE: u64 = 16 << 20;

static DECODING: DecodingMemory = DecodingMemory::new();

/// Limits the memory in bytes that all threads of this process take to decode images at the same time. A thread whose
/// image does not fit waits, and an image that takes more than all of it is decoded alone. Without a call there is no
/// limit.
pub fn limit_decoding(bytes: u64) {
    DECODING.limit.store(bytes, Ordering::Relaxed);
}

/// Waits until no other thread has an encoded image in memory that is as large as this one, if it is large. To be kept
/// until the image is decoded.
pub(super) fn read(bytes: u64) -> Option<MutexGuard<'static, ()>> {
    DECODING.read(bytes)
}

/// Waits for memory to decode an image.
pub(super) fn take(bytes: u64) -> TakenMemory<'static> {
    DECODING.take(bytes)
}

#[derive(Debug)]
struct DecodingMemory {
    limit: AtomicU64,
    taken: Mutex<u64>,
    freed: Condvar,
    /// Held while a large encoded image is in memory. Whoever holds it may wait for memory to decode, and not the other
    /// way round.
    reading: Mutex<()>,
}

/// Memory for an image, until this is dropped.
#[derive(Debug)]
pub(super) struct TakenMemory<'a> {
    of: &'a DecodingMemory,
    bytes: u64,
}

impl DecodingMemory {
    const fn new() -> Self {
        Self { limit: AtomicU64::new(u64::MAX), taken: Mutex::new(0), freed: Condvar::new(), reading: Mutex::new(()) }
    }

    fn read(&self, bytes: u64) -> Option<MutexGuard<'_, ()>> {
        let is_limited = self.limit.load(Ordering::Relaxed) != u64::MAX;
        (is_limited && bytes > LARGE).then(|| self.reading.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self, bytes: u64) -> TakenMemory<'_> {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == u64::MAX {
            return TakenMemory { of: self, bytes: 0 };
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken > 0 && taken.saturating_add(bytes) > limit {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken = taken.saturating_add(bytes);
        TakenMemory { of: self, bytes }
    }
}

impl Drop for TakenMemory<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            *self.of.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
            self.of.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_do_not_fit_together_are_decoded_one_after_the_other() {
        let memory = DecodingMemory::new();
        memory.limit.store(10, Ordering::Relaxed);
        drop((memory.take(5), memory.take(5)));
        drop(memory.take(100));
        let inside = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for bytes in [6, 100].repeat(4) {
                let (memory, inside) = (&memory, &inside);
                scope.spawn(move || {
                    for _ in 0..100 {
                        let _taken = memory.take(bytes);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }

    #[test]
    fn large_encoded_images_are_read_one_after_the_other_where_memory_is_limited() {
        let memory = DecodingMemory::new();
        assert!(memory.read(LARGE + 1).is_none());
        memory.limit.store(10, Ordering::Relaxed);
        assert!(memory.read(LARGE).is_none());
        let first = memory.read(LARGE + 1);
        assert!(first.is_some() && memory.reading.try_lock().is_err());
        // It may be decoded meanwhile, and others that are not large.
        drop((memory.take(5), memory.read(LARGE)));
        drop(first);
        assert!(memory.reading.try_lock().is_ok());
    }
}
