//! Bytes of a file at any place, plain or unpacked from gzip, readable from many threads at once.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Error;

/// Largest content of a `.gz` file that is unpacked into memory.
const LARGEST_UNPACKED: u64 = 8 << 30;

/// The content of a file.
#[derive(Debug)]
pub(super) enum Source {
    /// Read where and when it is needed.
    File(File, u64),
    /// Unpacked.
    Memory(Vec<u8>),
}

impl Source {
    /// Opens a file; one whose name ends in `.gz` is unpacked.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        if path.extension().is_none_or(|extension| extension != "gz") {
            let length = file.metadata().map_err(Error::io(path))?.len();
            return Ok(Self::File(file, length));
        }
        let mut content = Vec::new();
        let unpacked = flate2::read::MultiGzDecoder::new(io::BufReader::new(file));
        unpacked.take(LARGEST_UNPACKED + 1).read_to_end(&mut content).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::invalid(path, "is truncated: download it again"),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
                Error::invalid(path, format!("is not a sound gzip file ({error}): download it again"))
            }
            _ => Error::io(path)(error),
        })?;
        if content.len() as u64 > LARGEST_UNPACKED {
            return Err(Error::invalid(path, "unpacks to more than 8 GiB: unpack it beforehand"));
        }
        Ok(Self::Memory(content))
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::File(_, length) => *length,
            Self::Memory(content) => content.len() as u64,
        }
    }

    /// Fills `buffer` from `offset` on.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file, _) => file.read_exact_at(buffer, offset),
            Self::Memory(content) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let part = start.checked_add(buffer.len()).and_then(|end| content.get(start..end));
                buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}
