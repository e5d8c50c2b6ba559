//! What must hold for every file: no panic, and no more memory than a small multiple of its size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use distillery::checkpoint::Checkpoint;

/// Memory that any file may take, for tables and buffers.
const FLOOR: usize = 1 << 20;
/// And for each of its bytes: an opcode of a pickle is a byte, and the object that it makes can be an entry of a map.
const FACTOR: usize = 256;

/// Counts what is in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it is.
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
/// The reader took too much memory, or a tensor is not what it says. libFuzzer finds hangs by itself.
pub fn check(bytes: &[u8]) {
    let file = bytes.to_vec();
    let before = IN_USE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let read = Checkpoint::from_bytes(file);
    let taken = PEAK.load(Relaxed).saturating_sub(before);
    assert!(taken <= FLOOR + FACTOR * bytes.len(), "{taken} bytes of memory for a file of {}", bytes.len());
    let Ok(checkpoint) = read else { return };
    for tensor in checkpoint.tensors() {
        // A file in memory is read in full, so that only what its headers said can be wrong.
        let Ok(values) = checkpoint.floats(tensor) else { continue };
        assert_eq!(values.len() as u64, tensor.elements(), "{}", tensor.name());
    }
}
