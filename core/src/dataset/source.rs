//! Opens files, and unpacks those that gzip has packed.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::Error;
use crate::byte_source::ByteSource;

/// Largest content, in bytes, of a `.gz` file that is unpacked into memory.
const LARGEST_UNPACKED: u64 = 8 << 30;

/// Opens a file. If its name ends in `.gz`, it is unpacked into memory.
pub(super) fn open(path: &Path) -> Result<ByteSource, Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    if path.extension().is_none_or(|extension| extension != "gz") {
        return ByteSource::from_file(file).map_err(Error::io(path));
    }
    let mut content = Vec::new();
    let unpacked = flate2::read::MultiGzDecoder::new(io::BufReader::new(file));
    unpacked.take(LARGEST_UNPACKED + 1).read_to_end(&mut content).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::invalid(path, "is truncated: download it again"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            Error::invalid(path, format!("is not a valid gzip file ({error}): download it again"))
        }
        _ => Error::io(path)(error),
    })?;
    if content.len() as u64 > LARGEST_UNPACKED {
        return Err(Error::invalid(path, "unpacks to more than 8 GiB: unpack it beforehand"));
    }
    Ok(ByteSource::Memory(content))
}
