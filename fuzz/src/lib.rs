//! What must hold for every file: reading it does not panic, and takes at most a small multiple of its size in memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use distillery_core::checkpoint::Checkpoint;

/// Bytes of memory that every file may take, for tables and buffers.
const FLOOR: usize = 1 << 20;
/// Additional bytes of memory per byte of the file. An opcode of a pickle is one byte, and can create an entry of a
/// map.
const FACTOR: usize = 256;

/// Counts the memory in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is forwarded to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(IN_USE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as our caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as our caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Reads `bytes` as a checkpoint, and every tensor of it.
///
/// # Panics
/// The reader took too much memory, or a tensor has another number of elements than it claims. libFuzzer detects hangs.
pub fn check(bytes: &[u8]) {
    let file = bytes.to_vec();
    let before = IN_USE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let read = Checkpoint::from_bytes(file);
    let taken = PEAK.load(Relaxed).saturating_sub(before);
    assert!(taken <= FLOOR + FACTOR * bytes.len(), "{taken} bytes of memory for a file of {}", bytes.len());
    let Ok(checkpoint) = read else { return };
    for tensor in checkpoint.tensors() {
        // A file in memory is complete, so only its headers can be wrong.
        let Ok(values) = checkpoint.floats(tensor) else { continue };
        assert_eq!(values.len() as u64, tensor.elements(), "{}", tensor.name());
    }
}
