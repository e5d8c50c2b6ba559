//! The members of a tar: only their headers are read.

use std::fs::File;
use std::io;
use std::path::Path;

use tar::{Archive, EntryType, PaxExtensions};

use super::super::Error;

/// Longest header that names the next member, in bytes.
const LONGEST_HEADER: u64 = 64 << 10;

/// A file in a tar.
#[derive(Debug)]
pub(super) struct Member {
    pub name: String,
    /// Place of its first byte in the tar.
    pub offset: u64,
    /// In bytes.
    pub size: u64,
}

/// Passes the files of a tar to `take`, in their order, until it returns false. What else is in it is passed over.
pub(super) fn each(path: &Path, file: &File, mut take: impl FnMut(Member) -> Result<bool, Error>) -> Result<(), Error> {
    let broken = |error: io::Error| {
        if error.raw_os_error().is_some() {
            return Error::io(path)(error);
        }
        Error::invalid(path, format!("is not a whole tar ({error}): download it again"))
    };
    let length = file.metadata().map_err(Error::io(path))?.len();
    let mut archive = Archive::new(file);
    let mut announced = None;
    // Raw, since the library would read headers of any length into memory.
    for entry in archive.entries_with_seek().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        let (offset, size) = (entry.raw_file_position(), entry.header().entry_size().map_err(broken)?);
        // The library would seek beyond the end, and take that for the end of the tar.
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(Error::invalid(path, "is truncated: download it again"));
        }
        match entry.header().entry_type() {
            kind @ (EntryType::GNULongName | EntryType::XHeader) => {
                if size > LONGEST_HEADER {
                    return Err(Error::invalid(path, format!("has a header of {size} bytes: pack it again")));
                }
                let mut text = Vec::new();
                io::Read::read_to_end(&mut entry, &mut text).map_err(broken)?;
                if kind == EntryType::GNULongName {
                    announced = Some(text.split(|&byte| byte == 0).next().unwrap_or_default().to_vec());
                } else {
                    announced = described(path, &text)?.or(announced);
                }
            }
            EntryType::GNULongLink | EntryType::XGlobalHeader => {}
            EntryType::Regular | EntryType::Continuous => {
                let name = announced.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                let name = String::from_utf8_lossy(&name).into_owned();
                if !take(Member { name, offset, size })? {
                    return Ok(());
                }
            }
            EntryType::GNUSparse => {
                return Err(Error::invalid(path, "has a sparse file: pack it again without --sparse"));
            }
            _ => announced = None,
        }
    }
    Ok(())
}

/// The name that a pax header gives the next member.
fn described(path: &Path, header: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let mut name = None;
    for record in PaxExtensions::new(header).flatten() {
        match record.key_bytes() {
            b"path" => name = Some(record.value_bytes().to_vec()),
            // The place of the next header would not be known.
            b"size" => {
                let message = "has a file that is too large for its header: pack it with tar --format=gnu";
                return Err(Error::invalid(path, message));
            }
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(Error::invalid(path, "has a sparse file: pack it again without --sparse"));
            }
            _ => {}
        }
    }
    Ok(name)
}
