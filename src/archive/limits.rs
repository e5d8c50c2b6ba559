//! How much an archive may contain, and what came of unpacking it.

use std::io;

use super::faults::ArchiveFaults;

/// How much an archive may contain.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all files.
    pub bytes: u64,
    /// Number of files and directories.
    pub entries: u64,
    /// Bytes of a zip's directory, which is read into memory.
    pub directory: u64,
    /// How many times its own size an archive may unpack to, if that is more than [`Limits::FREE_GROWTH`] bytes.
    pub growth: u64,
}

impl Limits {
    /// Bytes that any archive may unpack to, however small it is. `docs/jobs.md` says so.
    pub const FREE_GROWTH: u64 = 64 << 20;

    /// The limits of an archive that may unpack to this number of bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self { bytes, entries: 2_000_000, directory: 256 << 20, growth: 100 }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// What was left out.
    pub notes: Vec<String>,
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is at fault.
    #[error("the archive cannot be used: {0}")]
    Refused(ArchiveFaults),
    /// A file of this machine cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}
