//! The archive of an exported network: stored entries below one folder, none of which overlaps another.

use std::collections::HashMap;
use std::ops::Range;

use serde::de::DeserializeOwned;

use super::error::{Error, Result};
use crate::byte_source::ByteSource;
use crate::checkpoint;
use crate::checkpoint::archive::{Archive as Zip, checksum, wrong_checksum};
use crate::checkpoint::error::shown;

/// Most entries. A network has one for each tensor, and a few more.
const MOST_ENTRIES: usize = 20_000;
/// Largest JSON document, in bytes. It has names, shapes and stack traces, but no weights.
pub(super) const LONGEST_JSON: u64 = 32 << 20;
/// Largest of the entries that hold a word.
const LONGEST_WORD: u64 = 64;

/// The program of the network, below the archive's folder.
pub(crate) const PROGRAM: &str = "models/model.json";
/// The same as PyTorch before 2.8 named it.
const OLD_PROGRAM: &str = "serialized_exported_program.json";
/// Code that AOTInductor compiled, in an archive of the same kind.
const COMPILED: &str = "data/aotinductor/";

#[derive(Debug)]
pub(crate) struct NetworkArchive<'a> {
    source: &'a ByteSource,
    /// By name below the folder.
    entries: HashMap<String, NetworkEntry>,
}

#[derive(Debug)]
struct NetworkEntry {
    /// Where its bytes are.
    content: Range<u64>,
    /// Their CRC-32, as the archive names it.
    checksum: u32,
}

impl<'a> NetworkArchive<'a> {
    pub(crate) fn open(source: &'a ByteSource) -> Result<Self> {
        let first = source.read(0, source.len().min(4))?;
        if first.is_empty() {
            return Err(checkpoint::Error::Empty.into());
        }
        if first != b"PK\x03\x04" {
            return Err(Error::NotExported("it is not a zip archive".to_owned()));
        }
        let mut zip = Zip::open(source)?;
        if zip.len() > MOST_ENTRIES {
            return Err(limit(format!("its archive has {} entries, and {MOST_ENTRIES} are read at most", zip.len())));
        }
        let names = zip.names()?;
        let folder = folder(names.keys())?;
        if names.len() != zip.len() {
            return Err(damaged("its archive has an entry whose name is not UTF-8"));
        }
        let mut entries = HashMap::new();
        let mut places = Vec::new();
        for (name, index) in names {
            let inner = name.strip_prefix(&folder).filter(|inner| is_plain(inner));
            let Some(inner) = inner else {
                return Err(damaged(format!("its archive has an entry outside of its folder, {}", shown(&name))));
            };
            let place = zip.place(index)?;
            if place.is_packed {
                let message = format!(
                    "{} in its archive is compressed: torch.export.save stores entries as they are",
                    shown(&name)
                );
                return Err(checkpoint::Error::Unsupported(message).into());
            }
            places.push((place.whole, name.clone()));
            entries.insert(inner.to_owned(), NetworkEntry { content: place.content, checksum: place.checksum });
        }
        places.sort_by_key(|(place, _)| place.start);
        if let Some([(_, one), (_, two)]) = places.array_windows().find(|[(one, _), (two, _)]| two.start < one.end) {
            return Err(damaged(format!("{} and {} in its archive overlap", shown(one), shown(two))));
        }
        Ok(Self { source, entries })
    }

    /// Where the bytes of an entry are.
    pub(super) fn range(&self, name: &str) -> Option<Range<u64>> {
        self.entries.get(name).map(|entry| entry.content.clone())
    }

    /// The length of an entry, and the CRC-32 of its bytes.
    pub(super) fn fingerprint(&self, name: &str) -> Option<(u64, u32)> {
        self.entries.get(name).map(|entry| (entry.content.end - entry.content.start, entry.checksum))
    }

    /// Compares all bytes with the checksums that the archive names. Reads the file once.
    pub(super) fn check(&self) -> Result<()> {
        let mut entries: Vec<_> = self.entries.iter().filter(|(_, entry)| !entry.content.is_empty()).collect();
        entries.sort_by_key(|(_, entry)| entry.content.start);
        for (name, entry) in entries {
            if checksum(self.source, entry.content.clone())? != entry.checksum {
                return Err(wrong_checksum(name).into());
            }
        }
        Ok(())
    }

    /// The content of an entry that holds one word, if there is such an entry.
    pub(crate) fn word(&self, name: &str) -> Result<Option<String>> {
        let Some(range) = self.range(name) else { return Ok(None) };
        let length = (range.end - range.start).min(LONGEST_WORD);
        let bytes = self.source.read(range.start, length)?;
        Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    pub(super) fn program<T: DeserializeOwned>(&self) -> Result<T> {
        self.json(PROGRAM)
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        parsed(name, &self.document(name)?)
    }

    /// The text of a JSON document.
    pub(crate) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let Some(range) = self.range(name) else {
            return Err(damaged(format!("{name} is missing from its archive")));
        };
        let length = range.end - range.start;
        if length > LONGEST_JSON {
            return Err(limit(format!("{name} in it is longer than {} MiB", LONGEST_JSON >> 20)));
        }
        Ok(self.source.read(range.start, length)?)
    }
}

pub(super) fn parsed<T: DeserializeOwned>(name: &str, document: &[u8]) -> Result<T> {
    serde_json::from_slice(document)
        .map_err(|error| damaged(format!("{name} is not as PyTorch writes it ({})", shown(&error.to_string()))))
}

/// Whether an archive, which may have other faults, has an entry with a program, or with what was compiled of one.
pub(super) fn names_program(source: &ByteSource) -> bool {
    let is_program = |name: &String| {
        let above = name.strip_suffix(PROGRAM);
        let is_read = above.is_some_and(|above| above.is_empty() || above.ends_with('/'));
        is_read || name.ends_with(OLD_PROGRAM) || is_compiled(name)
    };
    let names = Zip::open(source).and_then(|zip| zip.names());
    names.is_ok_and(|names| names.keys().any(is_program))
}

/// Whether an entry below an archive's folder is compiled code.
fn is_compiled(name: &str) -> bool {
    name.split_once('/').is_some_and(|(_, inner)| inner.starts_with(COMPILED))
}

/// The archive's folder, with a slash at its end.
fn folder<'a>(names: impl Iterator<Item = &'a String>) -> Result<String> {
    let (mut folders, mut has_compiled) = (Vec::new(), false);
    for name in names {
        has_compiled |= is_compiled(name);
        if name.ends_with(OLD_PROGRAM) {
            return Err(Error::Version("the layout of PyTorch before 2.8".to_owned()));
        }
        if let Some(folder) = name.strip_suffix(PROGRAM).and_then(|prefix| prefix.strip_suffix('/'))
            && !folder.contains('/')
        {
            folders.push(format!("{folder}/"));
        }
    }
    match folders.len() {
        0 if has_compiled => {
            let message = "it has code that AOTInductor compiled, and not the graph of the network";
            Err(Error::NotExported(message.to_owned()))
        }
        0 => Err(Error::NotExported(format!("its archive has no {PROGRAM}"))),
        1 => Ok(folders.remove(0)),
        _ => Err(damaged("its archive has more than one folder with a program")),
    }
}

/// Whether a path leads to nothing but what its name says.
fn is_plain(path: &str) -> bool {
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
    path.split('/').all(is_plain)
}

pub(super) fn damaged(message: impl Into<String>) -> Error {
    checkpoint::Error::Corrupt(message.into()).into()
}

pub(super) fn limit(message: String) -> Error {
    checkpoint::Error::Limit(message).into()
}
