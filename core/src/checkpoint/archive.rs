//! Zip archives as PyTorch writes them: where the bytes of their entries are.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::ops::Range;

use ::zip::read::{ArchiveOffset, Config};
use ::zip::result::ZipError;
use ::zip::{CompressionMethod, ZipArchive};
use flate2::Crc;

use super::LONGEST_PICKLE;
use super::error::{Error, Result, corrupt, shown};
use super::reader::SourceReader;
use super::tensor::StoredBytes;
use crate::byte_source::ByteSource;

/// Compressed entries, which torch.save does not write, may together unpack to at most this many times the file's size,
/// plus [`FREE_GROWTH`] bytes.
const MOST_GROWTH: u64 = 4;
const FREE_GROWTH: u64 = 16 << 20;

pub(crate) struct Archive<'a> {
    source: &'a ByteSource,
    zip: ZipArchive<BufReader<SourceReader<'a>>>,
    /// Bytes that compressed entries may still unpack to.
    budget: u64,
    pub(super) checksums: Checksums,
}

/// Whether the entries that were read have the checksums that the archive names.
pub(super) struct Checksums {
    /// Bytes that may still be checked: entries of an honest archive do not overlap.
    budget: u64,
    /// Number of entries whose checksum is right.
    pub(super) right: usize,
    /// Name of the first entry whose checksum is wrong.
    pub(super) wrong: Option<String>,
}

/// Where an entry is in the file.
pub(crate) struct EntryRange {
    /// From the entry's header to the end of its bytes.
    pub(crate) whole: Range<u64>,
    /// Its bytes, as they are stored.
    pub(crate) content: Range<u64>,
    pub(crate) is_packed: bool,
    /// As the archive names it.
    pub(crate) checksum: u32,
    /// The entry's header in the archive's directory.
    pub(crate) directory: u64,
}

impl<'a> Archive<'a> {
    pub(crate) fn open(source: &'a ByteSource) -> Result<Self> {
        // An archive begins where its file begins. Looking for bytes before it refuses some that are sound.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip = ZipArchive::with_config(config, BufReader::new(SourceReader::new(source))).map_err(archive_error)?;
        if zip.has_duplicate_names() {
            return corrupt("its archive has two entries with the same name");
        }
        let budget = source.len().saturating_mul(MOST_GROWTH).saturating_add(FREE_GROWTH);
        Ok(Self { source, zip, budget, checksums: Checksums { budget, right: 0, wrong: None } })
    }

    pub(crate) fn len(&self) -> usize {
        self.zip.len()
    }

    /// The entries whose names are UTF-8, by name.
    pub(crate) fn names(&self) -> Result<HashMap<String, usize>> {
        let mut names = HashMap::new();
        for index in 0..self.zip.len() {
            let entry = self.zip.by_index_data(index).map_err(archive_error)?;
            if let Ok(name) = std::str::from_utf8(entry.name_raw()) {
                names.insert(name.to_owned(), index);
            }
        }
        Ok(names)
    }

    /// The content of a small entry.
    pub(super) fn content(&mut self, index: usize) -> Result<Vec<u8>> {
        match self.data(index)? {
            data if data.len() > LONGEST_PICKLE => {
                Err(Error::Limit(format!("its pickle is longer than {} MiB", LONGEST_PICKLE >> 20)))
            }
            StoredBytes::Range { offset, length } => Ok(self.source.read(offset, length)?),
            StoredBytes::Unpacked(bytes) => Ok(bytes.to_vec()),
        }
    }

    /// Where an entry's bytes are in the file, packed or not.
    pub(crate) fn place(&mut self, index: usize) -> Result<EntryRange> {
        let entry = self.zip.by_index_raw(index).map_err(archive_error)?;
        if entry.encrypted() {
            return Err(Error::Unsupported("its archive is encrypted".to_owned()));
        }
        let end = entry.data_start().and_then(|start| start.checked_add(entry.compressed_size()));
        match (entry.data_start(), end) {
            (Some(start), Some(end)) if end <= self.source.len() && entry.header_start() <= start => Ok(EntryRange {
                whole: entry.header_start()..end,
                content: start..end,
                is_packed: entry.compression() != CompressionMethod::Stored || entry.size() != entry.compressed_size(),
                checksum: entry.crc32(),
                directory: entry.central_header_start(),
            }),
            _ => Err(beyond_the_end()),
        }
    }

    /// Where an entry's bytes are, or the unpacked bytes.
    pub(super) fn data(&mut self, index: usize) -> Result<StoredBytes> {
        let entry = self.zip.by_index_raw(index).map_err(archive_error)?;
        if entry.encrypted() {
            return Err(Error::Unsupported("its archive is encrypted".to_owned()));
        }
        let (size, start, method) = (entry.size(), entry.data_start(), entry.compression());
        let (name, checksum) = (String::from_utf8_lossy(entry.name_raw()).into_owned(), entry.crc32());
        drop(entry);
        match method {
            CompressionMethod::Stored => {
                let end = start.and_then(|start| start.checked_add(size)).filter(|&end| end <= self.source.len());
                match (start, end) {
                    (Some(offset), Some(_)) => {
                        self.checksums.compare(self.source, (offset, size), name, checksum)?;
                        Ok(StoredBytes::Range { offset, length: size })
                    }
                    _ => Err(beyond_the_end()),
                }
            }
            CompressionMethod::Deflated => {
                let mut bytes = Vec::new();
                let entry = self.zip.by_index(index).map_err(archive_error)?;
                // Compares the checksum, too.
                entry.take(self.budget + 1).read_to_end(&mut bytes).map_err(entry_error)?;
                self.checksums.right += 1;
                self.budget = self.budget.checked_sub(bytes.len() as u64).ok_or_else(|| {
                    let message = format!("its compressed entries unpack to more than {MOST_GROWTH} times its size");
                    Error::Limit(message)
                })?;
                Ok(StoredBytes::Unpacked(bytes.into()))
            }
            other => Err(Error::Unsupported(format!(
                "its archive is compressed with {other}; save it again with torch.save"
            ))),
        }
    }
}

impl Checksums {
    fn compare(
        &mut self,
        source: &ByteSource,
        (offset, length): (u64, u64),
        name: String,
        expected: u32,
    ) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let left = self.budget.checked_sub(length);
        self.budget = left.ok_or_else(|| Error::Limit("the entries of its archive overlap".to_owned()))?;
        if checksum(source, offset..offset + length)? == expected {
            self.right += 1;
        } else {
            self.wrong.get_or_insert(name);
        }
        Ok(())
    }
}

/// The CRC-32 of bytes of a file, of which some are in memory at a time.
pub(crate) fn checksum(source: &ByteSource, bytes: Range<u64>) -> io::Result<u32> {
    const PIECE: u64 = 1 << 20;
    let mut checksum = Crc::new();
    for at in bytes.clone().step_by(PIECE as usize) {
        checksum.update(&source.read(at, PIECE.min(bytes.end - at))?);
    }
    Ok(checksum.sum())
}

/// The fault of an entry whose bytes are not those that were written.
pub(crate) fn wrong_checksum(name: &str) -> Error {
    Error::Corrupt(format!("the bytes of {} in its archive do not have their checksum", shown(name)))
}

fn beyond_the_end() -> Error {
    Error::Truncated("an entry of its archive extends beyond the end of the file".to_owned())
}

/// Distinguishes damaged archives from I/O errors.
fn archive_error(error: ZipError) -> Error {
    match error {
        ZipError::Io(error) => entry_error(error),
        ZipError::InvalidArchive(_) => Error::Truncated("the directory at its end is missing or damaged".to_owned()),
        other => Error::Unsupported(format!("its archive is not supported ({other})")),
    }
}

fn entry_error(error: io::Error) -> Error {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    match error.kind() {
        UnexpectedEof => Error::Truncated("an entry of its archive ends too early".to_owned()),
        InvalidData | InvalidInput | Other => Error::Corrupt(format!("an entry of its archive is damaged ({error})")),
        _ => Error::Io(error),
    }
}
