//! The format of torch.save since PyTorch 1.6: a zip archive with a pickle and an entry per storage.

use std::collections::HashMap;

use super::archive::{Archive, Checksums, wrong_checksum};
use super::error::{Error, Result, corrupt, shown};
use super::pickle::Machine;
use super::tensor::StoredBytes;
use super::{FileContents, state_dict};
use crate::byte_source::ByteSource;

/// The note on an archive in which no checksum is right.
const NO_CHECKSUMS: &str = "the checksums in its archive are wrong for every entry, as torch.save leaves them with \
                            set_crc32_options(False): whether the file is damaged cannot be seen";

/// Reads the state dict, if possible the one under the key `wanted`.
pub(super) fn read(source: &ByteSource, wanted: Option<&str>) -> Result<FileContents> {
    let mut archive = Archive::open(source)?;
    let names = archive.names()?;
    // At the top level, or in the directory that torch.save names after the file.
    let prefix = |name: &'_ str| name.strip_suffix("data.pkl").filter(|prefix| at_top(prefix)).map(str::to_owned);
    let mut prefixes = names.keys().filter_map(|name| prefix(name));
    let (prefix, another) = (prefixes.next(), prefixes.next());
    let Some(prefix) = prefix else {
        if names.keys().any(|name| name.ends_with("/models/model.json")) {
            let message = "it is a network written by torch.export.save, which jobs and the commands take as it is; for a \
                           file of its weights, use distillery convert, or save model.state_dict() with torch.save";
            return Err(Error::Unsupported(message.to_owned()));
        }
        return Err(Error::NotACheckpoint { found: described(&names) });
    };
    if another.is_some() {
        return corrupt("its archive has more than one data.pkl");
    }
    if names.contains_key(&format!("{prefix}constants.pkl")) {
        let message = "it is a TorchScript archive, which contains a program; save model.state_dict() with torch.save, \
                       or the network, whatever its architecture, with torch.export.save";
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
    let mut contents = FileContents::of_pickle(found, big_endian, |storage| {
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

/// What a zip archive is that torch.save has not written, and what to do with it.
fn described(names: &HashMap<String, usize>) -> String {
    let first = |endings: &[&str]| {
        let is_one = |name: &&String| endings.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending));
        names.keys().filter(is_one).min().map(|name| shown(name))
    };
    if let Some(name) = first(&[".pth", ".pt", ".pt2", ".ckpt", ".safetensors", ".pth.tar", ".bin"]) {
        return format!("a zip archive with {name} in it: unpack it, and name that file instead");
    }
    if let Some(name) = first(&[".jpg", ".jpeg", ".png", ".webp", ".parquet"]) {
        return format!("a zip archive with data, such as {name}: data sets go to PUT /v1/datasets/NAME");
    }
    if let Some(name) = first(&[".npy"]) {
        return format!("a zip archive of NumPy's arrays, such as {name}: save model.state_dict() with torch.save");
    }
    "a zip archive without the data.pkl of torch.save or the models/model.json of torch.export.save: write the weights \
     with torch.save(model.state_dict(), …), or the network with torch.export.save"
        .to_owned()
}

fn at_top(prefix: &str) -> bool {
    prefix.is_empty() || prefix.strip_suffix('/').is_some_and(|directory| !directory.contains('/'))
}
