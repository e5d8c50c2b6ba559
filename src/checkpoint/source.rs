//! The file's bytes, read where and when they are needed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// A checkpoint file, or one in memory.
#[derive(Debug)]
pub(super) enum Source {
    /// With its length.
    File(File, u64),
    /// For uploads that are small, and tests.
    Memory(Vec<u8>),
}

impl Source {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::File(_, length) => *length,
            Self::Memory(content) => content.len() as u64,
        }
    }

    /// `length` bytes from `offset` on. Memory is set aside only once the file is known to be that long.
    pub(super) fn read(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let end = offset.checked_add(length).filter(|&end| end <= self.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        match self {
            Self::File(file, _) => {
                let mut bytes = vec![0; to_usize(length)?];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(bytes)
            }
            Self::Memory(content) => Ok(content[to_usize(offset)?..to_usize(end)?].to_vec()),
        }
    }

    /// A reader with a place of its own.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { source: self, place: 0 }
    }
}

fn to_usize(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// See [`Source::reader`].
#[derive(Debug)]
pub(super) struct Reader<'a> {
    source: &'a Source,
    place: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.source.len().saturating_sub(self.place);
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..length];
        match self.source {
            Source::File(file, _) => file.read_exact_at(buffer, self.place)?,
            Source::Memory(content) => {
                let start = to_usize(self.place)?.min(content.len());
                buffer.copy_from_slice(&content[start..start + length]);
            }
        }
        self.place += length as u64;
        Ok(length)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(by) => self.source.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.place.checked_add_signed(by),
        };
        self.place = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.place)
    }
}
