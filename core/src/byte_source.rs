//! Bytes at any offset of a file, or of a buffer that stands for one, readable from many threads at once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

#[derive(Debug)]
pub(crate) enum ByteSource {
    /// Read where and when needed.
    File {
        file: File,
        length: u64,
    },
    Memory(Vec<u8>),
}

impl ByteSource {
    pub(crate) fn from_file(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self::File { file, length })
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::File { length, .. } => *length,
            Self::Memory(content) => content.len() as u64,
        }
    }

    /// Fills `buffer` with the bytes from `offset`.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.read_exact_at(buffer, offset),
            Self::Memory(content) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let bytes = start.checked_add(buffer.len()).and_then(|end| content.get(start..end));
                buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    /// `length` bytes from `offset`. Allocates only if the source has that many bytes.
    pub(crate) fn read(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        if offset.checked_add(length).is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?];
        self.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}
