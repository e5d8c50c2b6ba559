//! The format of torch.save before PyTorch 1.6: five pickles, then each storage, preceded by its number of elements.
//!
//! The pickles are a magic number, the version, facts about the machine, the object, and the storages' keys in the
//! order in which the storages follow. Storages are little-endian on every machine.

use std::collections::HashMap;

use super::error::{Error, Result, corrupt, shown};
use super::pickle::{Machine, PickleValue, StorageKind, refused};
use super::tensor::StoredBytes;
use super::{FileContents, LONGEST_PICKLE, state_dict};
use crate::byte_source::ByteSource;

/// 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const VERSION: i64 = 1001;

/// Reads the state dict, if possible the one under the key `wanted`.
pub(super) fn read(source: &ByteSource, wanted: Option<&str>) -> Result<FileContents> {
    let head = source.read(0, source.len().min(LONGEST_PICKLE))?;
    pickles(source, &head, wanted).map_err(|error| match error {
        Error::Truncated(_) if (head.len() as u64) < source.len() => {
            Error::Limit(format!("its pickles are longer than {} MiB", LONGEST_PICKLE >> 20))
        }
        other => other,
    })
}

fn pickles(source: &ByteSource, head: &[u8], wanted: Option<&str>) -> Result<FileContents> {
    let mut machine = Machine::new(head);
    let magic = machine.load()?;
    if let Some((module, name)) = machine.maker(magic) {
        return Err(refused(module, name));
    }
    if magic != PickleValue::Long(&MAGIC) {
        return Err(Error::NotACheckpoint { found: "a Python pickle not written by torch.save".to_owned() });
    }
    match machine.load()? {
        PickleValue::Int(VERSION) => {}
        _ => return Err(Error::Unsupported(format!("its format is not version {VERSION} of torch.save"))),
    }
    machine.load()?;
    let root = machine.load()?;
    let found = state_dict::find(&machine, root, wanted)?;
    let keys = machine.load()?;
    let storages = storages(source, &machine, keys)?;
    FileContents::of_pickle(found, false, |storage| {
        let data = storages.get(storage.key).cloned();
        data.map_or_else(|| corrupt(format!("storage {} is missing", shown(storage.key))), Ok)
    })
}

fn storages<'a>(
    source: &ByteSource,
    machine: &Machine<'a>,
    keys: PickleValue<'a>,
) -> Result<HashMap<&'a str, StoredBytes>> {
    let mut types: HashMap<&str, (StorageKind<'_>, u64)> = HashMap::new();
    for storage in machine.storages() {
        let storage_type = (storage.kind, storage.elements);
        if *types.entry(storage.key).or_insert(storage_type) != storage_type {
            return corrupt(format!("storage {} has two types", shown(storage.key)));
        }
    }
    let Some(keys) = machine.sequence(keys) else { return corrupt("it has no list of storages") };
    let mut found = HashMap::new();
    let mut offset = machine.position() as u64;
    for &key in keys {
        let PickleValue::Str(key) = key else { return corrupt("the key of a storage is not text") };
        let Some(&(kind, expected)) = types.get(key) else {
            return corrupt(format!("storage {} belongs to no tensor", shown(key)));
        };
        let truncated = || Error::Truncated(format!("it ends before the end of storage {}", shown(key)));
        if source.len().saturating_sub(offset) < 8 {
            return Err(truncated());
        }
        let mut elements = [0; 8];
        elements.copy_from_slice(&source.read(offset, 8)?);
        let elements = u64::from_le_bytes(elements);
        if elements != expected {
            let message = format!("storage {} has {elements} elements where {expected} are expected", shown(key));
            return corrupt(message);
        }
        let Some(size) = kind.size() else {
            let message = format!("storage {} has elements of an unknown size; save it again", shown(key));
            return Err(Error::Unsupported(message));
        };
        let length = elements.checked_mul(size).ok_or_else(truncated)?;
        let end = (offset + 8).checked_add(length).filter(|&end| end <= source.len()).ok_or_else(truncated)?;
        if found.insert(key, StoredBytes::Range { offset: offset + 8, length }).is_some() {
            return corrupt(format!("storage {} occurs twice", shown(key)));
        }
        offset = end;
    }
    Ok(found)
}
