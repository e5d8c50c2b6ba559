//! The format of torch.save since PyTorch 1.6: a zip archive with a pickle and an entry per storage.

use std::collections::HashMap;
use std::io::{BufReader, Read};

use ::zip::result::ZipError;
use ::zip::{CompressionMethod, ZipArchive};
use flate2::Crc;

use super::error::{Error, Result, corrupt, shown};
use super::pickle::Machine;
use super::reader::Reader;
use super::tensor::StoredBytes;
use super::{Contents, LONGEST_PICKLE, state_dict};
use crate::byte_source::ByteSource;

/// Compressed entries, which torch.save does not write, may together unpack to at most this many times the file's size,
/// plus [`FREE_GROWTH`] bytes.
const MOST_GROWTH: u64 = 4;
const FREE_GROWTH: u64 = 16 << 20;

struct Archive<'a> {
    source: &'a ByteSource,
    zip: ZipArchive<BufReader<Reader<'a>>>,
    /// Bytes that compressed entries may still unpack to.
    budget: u64,
    checksums: Checksums,
}

/// Which of the entries that were read have the checksums that the archive names.
struct Checksums {
    /// Bytes that may still be checked: entries of an honest archive do not overlap.
    budget: u64,
    /// Number of entries that have theirs.
    right: usize,
    /// The first entry that has another.
    wrong: Option<String>,
}

/// What an archive without any right checksum is noted with.
const NO_CHECKSUMS: &str = "the checksums in its archive are wrong for every entry, as torch.save leaves them with \
                            set_crc32_options(False): whether the file is damaged cannot be seen";

/// Reads the state dict, if possible the one under the key `wanted`.
pub(super) fn read(source: &ByteSource, wanted: Option<&str>) -> Result<Contents> {
    let zip = ZipArchive::new(BufReader::new(Reader::new(source))).map_err(archive_error)?;
    if zip.has_duplicate_names() {
        return corrupt("its archive has two entries with the same name");
    }
    let budget = source.len().saturating_mul(MOST_GROWTH).saturating_add(FREE_GROWTH);
    let mut archive = Archive { source, zip, budget, checksums: Checksums { budget, right: 0, wrong: None } };
    let names = archive.names()?;
    // At the top level, or in the directory that torch.save names after the file.
    let prefix = |name: &'_ str| name.strip_suffix("data.pkl").filter(|prefix| at_top(prefix)).map(str::to_owned);
    let mut prefixes = names.keys().filter_map(|name| prefix(name));
    let (prefix, another) = (prefixes.next(), prefixes.next());
    let Some(prefix) = prefix else {
        return Err(Error::NotACheckpoint { found: "a zip archive without a data.pkl".to_owned() });
    };
    if another.is_some() {
        return corrupt("its archive has more than one data.pkl");
    }
    if names.contains_key(&format!("{prefix}constants.pkl")) {
        let message = "it is a TorchScript archive, which contains a program; save model.state_dict() with torch.save";
        return Err(Error::Unsupported(message.to_owned()));
    }
    let entry = |name: &str| names.get(&format!("{prefix}{name}")).copied();
    let pickle = archive.content(entry("data.pkl").unwrap_or_default())?;
    let big_endian = match entry("byteorder").map(|index| archive.content(index)).transpose()?.as_deref() {
        None | Some(b"little") => false,
        Some(b"big") => true,
        Some(other) => return corrupt(format!("its byte order is {}", shown(&String::from_utf8_lossy(other)))),
    };
    let mut machine = Machine::new(&pickle);
    let root = machine.load()?;
    let found = state_dict::find(&machine, root, wanted)?;
    let mut storages: HashMap<String, StoredBytes> = HashMap::new();
    let mut contents = Contents::of_pickle(found, big_endian, |storage| {
        if let Some(data) = storages.get(storage.key) {
            return Ok(data.clone());
        }
        let Some(index) = entry(&format!("data/{}", storage.key)) else {
            return corrupt(format!("storage {} is missing from its archive", shown(storage.key)));
        };
        let data = archive.data(index)?;
        storages.insert(storage.key.to_owned(), data.clone());
        Ok(data)
    })?;
    match archive.checksums {
        Checksums { wrong: None, .. } => {}
        Checksums { right: 0, .. } => contents.notes.push(NO_CHECKSUMS.to_owned()),
        Checksums { wrong: Some(name), .. } => {
            return corrupt(format!("the bytes of {} in its archive do not have their checksum", shown(&name)));
        }
    }
    Ok(contents)
}

fn at_top(prefix: &str) -> bool {
    prefix.is_empty() || prefix.strip_suffix('/').is_some_and(|directory| !directory.contains('/'))
}

impl Archive<'_> {
    fn names(&self) -> Result<HashMap<String, usize>> {
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
    fn content(&mut self, index: usize) -> Result<Vec<u8>> {
        match self.data(index)? {
            data if data.len() > LONGEST_PICKLE => {
                Err(Error::Limit(format!("its pickle is longer than {} MiB", LONGEST_PICKLE >> 20)))
            }
            StoredBytes::Range { offset, length } => Ok(self.source.read(offset, length)?),
            StoredBytes::Unpacked(bytes) => Ok(bytes.to_vec()),
        }
    }

    /// Where an entry's bytes are, or the unpacked bytes.
    fn data(&mut self, index: usize) -> Result<StoredBytes> {
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
                    _ => Err(Error::Truncated("an entry of its archive extends beyond the end of the file".to_owned())),
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
        const PIECE: u64 = 1 << 20;
        if length == 0 {
            return Ok(());
        }
        let left = self.budget.checked_sub(length);
        self.budget = left.ok_or_else(|| Error::Limit("the entries of its archive overlap".to_owned()))?;
        let mut checksum = Crc::new();
        for at in (0..length).step_by(PIECE as usize) {
            checksum.update(&source.read(offset + at, PIECE.min(length - at))?);
        }
        if checksum.sum() == expected {
            self.right += 1;
        } else {
            self.wrong.get_or_insert(name);
        }
        Ok(())
    }
}

/// Distinguishes damaged archives from I/O errors.
fn archive_error(error: ZipError) -> Error {
    match error {
        ZipError::Io(error) => entry_error(error),
        ZipError::InvalidArchive(_) => Error::Truncated("the directory at its end is missing or damaged".to_owned()),
        other => Error::Unsupported(format!("its archive is not supported ({other})")),
    }
}

fn entry_error(error: std::io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    match error.kind() {
        UnexpectedEof => Error::Truncated("an entry of its archive ends too early".to_owned()),
        InvalidData | InvalidInput | Other => Error::Corrupt(format!("an entry of its archive is damaged ({error})")),
        _ => Error::Io(error),
    }
}
