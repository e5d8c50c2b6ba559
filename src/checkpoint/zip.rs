//! What torch.save writes since PyTorch 1.6: a zip archive of one pickle and one entry per storage.

use std::collections::HashMap;
use std::io::{BufReader, Read};

use ::zip::result::ZipError;
use ::zip::{CompressionMethod, ZipArchive};

use super::error::{Error, Result, corrupt, shown};
use super::pickle::Machine;
use super::reader::Reader;
use super::tensor::{StoredBytes, Tensor};
use super::{LONGEST_PICKLE, torch};
use crate::byte_source::ByteSource;

/// An archive may hold packed entries, though torch.save writes none: they may not grow more than this altogether.
const MOST_GROWTH: u64 = 4;
const SMALL: u64 = 16 << 20;

struct Archive<'a> {
    source: &'a ByteSource,
    zip: ZipArchive<BufReader<Reader<'a>>>,
    /// Bytes that packed entries may still grow to.
    budget: u64,
}

/// The tensors of the state dict.
pub(super) fn read(source: &ByteSource) -> Result<Vec<Tensor>> {
    let zip = ZipArchive::new(BufReader::new(Reader::new(source))).map_err(sound)?;
    if zip.has_duplicate_names() {
        return corrupt("its archive has two entries of the same name");
    }
    let mut archive = Archive { source, zip, budget: source.len().saturating_mul(MOST_GROWTH).saturating_add(SMALL) };
    let names = archive.names()?;
    // At the top, or in the one directory that torch.save names after the file.
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
        let message = "it is a TorchScript archive, which is a program; save model.state_dict() with torch.save";
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
    let named = torch::state_dict(&machine, root)?;
    let mut storages: HashMap<String, StoredBytes> = HashMap::new();
    torch::tensors(named, big_endian, |storage| {
        if let Some(data) = storages.get(storage.key) {
            return Ok(data.clone());
        }
        let Some(index) = entry(&format!("data/{}", storage.key)) else {
            return corrupt(format!("its archive lacks storage {}", shown(storage.key)));
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
            let entry = self.zip.by_index_data(index).map_err(sound)?;
            if let Ok(name) = std::str::from_utf8(entry.name_raw()) {
                names.insert(name.to_owned(), index);
            }
        }
        Ok(names)
    }

    /// A small entry.
    fn content(&mut self, index: usize) -> Result<Vec<u8>> {
        match self.data(index)? {
            data if data.len() > LONGEST_PICKLE => {
                Err(Error::Limit(format!("its pickle is longer than {} MiB", LONGEST_PICKLE >> 20)))
            }
            StoredBytes::Range { offset, length } => Ok(self.source.read(offset, length)?),
            StoredBytes::Unpacked(bytes) => Ok(bytes.to_vec()),
        }
    }

    /// Where an entry's bytes are, or the unpacked bytes themselves.
    fn data(&mut self, index: usize) -> Result<StoredBytes> {
        let entry = self.zip.by_index_raw(index).map_err(sound)?;
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
                    _ => Err(Error::Truncated("an entry of its archive ends behind the file".to_owned())),
                }
            }
            CompressionMethod::Deflated => {
                let mut bytes = Vec::new();
                let entry = self.zip.by_index(index).map_err(sound)?;
                entry.take(self.budget + 1).read_to_end(&mut bytes).map_err(unpacked)?;
                self.budget = self.budget.checked_sub(bytes.len() as u64).ok_or_else(|| {
                    let message = format!("its packed entries grow to more than {MOST_GROWTH} times its size");
                    Error::Limit(message)
                })?;
                Ok(StoredBytes::Unpacked(bytes.into()))
            }
            other => {
                Err(Error::Unsupported(format!("its archive is packed by {other}; save it again with torch.save")))
            }
        }
    }
}

/// Errors of the archive's structure; the system's own stay what they are.
fn sound(error: ZipError) -> Error {
    match error {
        ZipError::Io(error) => unpacked(error),
        ZipError::InvalidArchive(_) => Error::Truncated("the directory at its end is missing or damaged".to_owned()),
        other => Error::Unsupported(format!("its archive is of an unknown kind ({other})")),
    }
}

fn unpacked(error: std::io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    match error.kind() {
        UnexpectedEof => Error::Truncated("an entry of its archive ends too early".to_owned()),
        InvalidData | InvalidInput | Other => Error::Corrupt(format!("an entry of its archive is not sound ({error})")),
        _ => Error::Io(error),
    }
}
