//! The format of torch.save since PyTorch 1.6: a zip archive with a pickle and an entry per storage.

use std::collections::HashMap;
use std::io::{BufReader, Read};

use ::zip::result::ZipError;
use ::zip::{CompressionMethod, ZipArchive};

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
}

/// Reads the state dict, if possible the one under the key `wanted`.
pub(super) fn read(source: &ByteSource, wanted: Option<&str>) -> Result<Contents> {
    let zip = ZipArchive::new(BufReader::new(Reader::new(source))).map_err(archive_error)?;
    if zip.has_duplicate_names() {
        return corrupt("its archive has two entries with the same name");
    }
    let mut archive =
        Archive { source, zip, budget: source.len().saturating_mul(MOST_GROWTH).saturating_add(FREE_GROWTH) };
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
    Contents::of_pickle(found, big_endian, |storage| {
        if let Some(data) = storages.get(storage.key) {
            return Ok(data.clone());
        }
        let Some(index) = entry(&format!("data/{}", storage.key)) else {
            return corrupt(format!("storage {} is missing from its archive", shown(storage.key)));
        };
        let data = archive.data(index)?;
        storages.insert(storage.key.to_owned(), data.clone());
        Ok(data)
    })
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
        drop(entry);
        match method {
            CompressionMethod::Stored => {
                let end = start.and_then(|start| start.checked_add(size)).filter(|&end| end <= self.source.len());
                match (start, end) {
                    (Some(offset), Some(_)) => Ok(StoredBytes::Range { offset, length: size }),
                    _ => Err(Error::Truncated("an entry of its archive extends beyond the end of the file".to_owned())),
                }
            }
            CompressionMethod::Deflated => {
                let mut bytes = Vec::new();
                let entry = self.zip.by_index(index).map_err(archive_error)?;
                entry.take(self.budget + 1).read_to_end(&mut bytes).map_err(entry_error)?;
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
