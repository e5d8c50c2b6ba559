//! The format of torch.save since PyTorch 1.6: a zip archive with a pickle and an entry per storage.

use std::collections::HashMap;

use super::archive::{Archive, Checksums, wrong_checksum};
use super::error::{Error, Result, corrupt, shown};
use super::pickle::Machine;
use super::tensor::StoredBytes;
use super::{Contents, state_dict};
use crate::byte_source::ByteSource;

/// The note on an archive in which no checksum is right.
const NO_CHECKSUMS: &str = "the checksums in its archive are wrong for every entry, as torch.save leaves them with \
                            set_crc32_options(False): whether the file is damaged cannot be seen";

/// Reads the state dict, if possible the one under the key `wanted`.
pub(super) fn read(source: &ByteSource, wanted: Option<&str>) -> Result<Contents> {
    let mut archive = Archive::open(source)?;
    let names = archive.names()?;
    // At the top level, or in the directory that torch.save names after the file.
    let prefix = |name: &'_ str| name.strip_suffix("data.pkl").filter(|prefix| at_top(prefix)).map(str::to_owned);
    let mut prefixes = names.keys().filter_map(|name| prefix(name));
    let (prefix, another) = (prefixes.next(), prefixes.next());
    let Some(prefix) = prefix else {
        if names.keys().any(|name| name.ends_with("/models/model.json")) {
            let message = "it is a network written by torch.export.save, which jobs and the commands evaluate and \
                           inspect take as it is; for a file of its weights, save model.state_dict() with torch.save";
            return Err(Error::Unsupported(message.to_owned()));
        }
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
        Checksums { wrong: Some(name), .. } => return Err(wrong_checksum(&name)),
    }
    Ok(contents)
}

fn at_top(prefix: &str) -> bool {
    prefix.is_empty() || prefix.strip_suffix('/').is_some_and(|directory| !directory.contains('/'))
}
