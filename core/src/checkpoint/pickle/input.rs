//! The bytes of a pickle, read from front to back.

use super::super::error::{Error, Result, corrupt};
use super::PickleValue;

#[derive(Debug)]
pub(super) struct PickleInput<'a> {
    bytes: &'a [u8],
    pub(super) position: usize,
}

impl<'a> PickleInput<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.position.checked_add(length);
        let Some(bytes) = end.and_then(|end| self.bytes.get(self.position..end)) else {
            return Err(Error::Truncated("its pickle ends within an instruction".to_owned()));
        };
        self.position += length;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// Bytes preceded by their number, which takes N bytes.
    pub(super) fn counted<const N: usize>(&mut self) -> Result<&'a [u8]> {
        let mut length = [0; 8];
        length[..N].copy_from_slice(self.take(N)?);
        self.take(usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX))
    }

    pub(super) fn text<const N: usize>(&mut self) -> Result<PickleValue<'a>> {
        match std::str::from_utf8(self.counted::<N>()?) {
            Ok(text) => Ok(PickleValue::Str(text)),
            // For example a lone surrogate. It cannot be a tensor's key.
            Err(_) => Ok(PickleValue::Opaque),
        }
    }

    /// A `str` of Python 2, which may contain any bytes.
    pub(super) fn byte_string<const N: usize>(&mut self) -> Result<PickleValue<'a>> {
        let bytes = self.counted::<N>()?;
        Ok(std::str::from_utf8(bytes).map_or(PickleValue::Bytes(bytes), PickleValue::Str))
    }

    /// A little-endian integer of any length in two's complement.
    pub(super) fn long(&mut self) -> Result<PickleValue<'a>> {
        let bytes = self.counted::<1>()?;
        if bytes.len() > 8 {
            return Ok(PickleValue::Long(bytes));
        }
        let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(PickleValue::Int(i64::from_le_bytes(wide)))
    }

    pub(super) fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.position..];
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(Error::Truncated("its pickle ends within a name".to_owned()));
        };
        self.position += length + 1;
        std::str::from_utf8(&rest[..length]).or_else(|_| corrupt("its pickle contains a name that is not text"))
    }
}
