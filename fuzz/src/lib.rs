//! What must hold for every file: reading it does not panic, and takes at most a small multiple of its size in memory.

mod files;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use distillery_core::checkpoint::Checkpoint;
use distillery_core::exported::ExportedNetwork;
use distillery_core::spec::{Request, TrainingPlan};
use distillery_core::sweep::SweepSpec;
// What the server's archives, compiled here without the server, know as their crate's.
use distillery_core::{dataset, text};

pub use files::{check_archive, check_dataset};

/// The server's own, which is too big a package to be compiled once more for this.
#[allow(dead_code, missing_docs, unused_imports)]
#[path = "../../src/archive/mod.rs"]
mod archive;

/// How much memory reading a file may take.
struct Limit {
    /// Bytes that every file may take, for tables and buffers.
    floor: usize,
    /// Additional bytes per byte of the file.
    factor: usize,
}

/// An opcode of a pickle is one byte, and can create an entry of a map.
const OF_CHECKPOINTS: Limit = Limit { floor: 1 << 20, factor: 256 };
/// Documents take up to 8 bytes per byte, operations and constants up to 20 and 40, and every file may have some
/// thousand of both.
const OF_NETWORKS: Limit = Limit { floor: 8 << 20, factor: 80 };

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

/// Reads a file.
///
/// # Panics
/// The reader took too much memory. libFuzzer detects hangs.
fn read<T>(bytes: &[u8], limit: &Limit, reader: impl FnOnce(Vec<u8>) -> T) -> T {
    let file = bytes.to_vec();
    let before = IN_USE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let read = reader(file);
    let taken = PEAK.load(Relaxed).saturating_sub(before);
    assert!(taken <= limit.floor + limit.factor * bytes.len(), "{taken} bytes of memory for a file of {}", bytes.len());
    read
}

/// Reads `bytes` as a checkpoint, and every tensor of it.
///
/// # Panics
/// The reader took too much memory, or a tensor has another number of elements than it claims.
pub fn check(bytes: &[u8]) {
    let Ok(checkpoint) = read(bytes, &OF_CHECKPOINTS, Checkpoint::from_bytes) else { return };
    for tensor in checkpoint.tensors() {
        // A file in memory is complete, so only its headers can be wrong.
        let Ok(values) = checkpoint.floats(tensor) else { continue };
        assert_eq!(values.len() as u64, tensor.elements(), "{}", tensor.name());
    }
}

/// Reads `bytes` as an exported network, and every tensor of it.
///
/// # Panics
/// The reader took too much memory, or a tensor has another number of elements than it claims.
pub fn check_exported(bytes: &[u8]) {
    let Ok(network) = read(bytes, &OF_NETWORKS, ExportedNetwork::from_bytes) else { return };
    for stored in network.tensors() {
        let Ok(values) = network.floats(stored) else { continue };
        assert_eq!(values.len() as u64, stored.tensor.elements(), "{}", stored.tensor.name());
    }
}

/// Reads `bytes` as the document of a job, of a sweep and of `distillery train`.
///
/// # Panics
/// A reader does, or what one accepts is refused once its defaults are filled in.
pub fn check_document(bytes: &[u8]) {
    let Ok(document) = text::json(text::without_mark(bytes)) else { return };
    if let Ok(job) = Request::read(&document).complete() {
        let written = serde_json::to_value(&job).expect("a specification is JSON");
        let again = Request::read(&written).complete();
        assert!(again.is_ok(), "{again:?}: {written}");
    }
    let _ = SweepSpec::read(&document);
    let _ = TrainingPlan::parse(&document);
}

/// The archive of an exported network with these documents and one storage.
///
/// # Panics
/// Never: an archive in memory can be written.
#[must_use]
pub fn exported(program: &[u8], weights: &[u8], storage: &[u8]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in [
        ("net/models/model.json", program),
        ("net/data/weights/model_weights_config.json", weights),
        ("net/data/weights/weight_0", storage),
    ] {
        writer.start_file(name, stored).expect("names are short");
        writer.write_all(content).expect("memory takes bytes");
    }
    writer.finish().expect("memory takes bytes").into_inner()
}
