//! [`Read`] and [`Seek`] on a [`ByteSource`].

use std::io::{self, Read, Seek, SeekFrom};

use crate::byte_source::ByteSource;

#[derive(Debug)]
pub(super) struct SourceReader<'a> {
    source: &'a ByteSource,
    position: u64,
}

impl<'a> SourceReader<'a> {
    pub(super) fn new(source: &'a ByteSource) -> Self {
        Self { source, position: 0 }
    }
}

impl Read for SourceReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.source.len().saturating_sub(self.position);
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if length > 0 {
            self.source.read_at(&mut buffer[..length], self.position)?;
        }
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for SourceReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.source.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
