//! Opens files, and unpacks those that gzip has packed.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;

use super::Error;
use crate::byte_source::ByteSource;
use crate::text::without_mark;

/// Largest content, in bytes, of a `.gz` file that is unpacked into memory.
const LARGEST_UNPACKED: u64 = 8 << 30;
/// Largest text file, in bytes.
const LARGEST_TEXT: u64 = 256 << 20;

/// How the file begins that Git leaves in place of one that Git LFS keeps.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/";

/// What to do about a Git LFS pointer, as the predicate of a sentence.
pub(super) const IS_LFS_POINTER: &str =
    "is a Git LFS pointer, not the file itself: install Git LFS and run git lfs pull where it was cloned";

/// Whether bytes are the beginning of a Git LFS pointer.
pub(super) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(LFS_POINTER)
}

/// Refuses a Git LFS pointer.
pub(super) fn refuse_lfs_pointer(path: &Path, source: &ByteSource) -> Result<(), Error> {
    let mut start = [0; LFS_POINTER.len()];
    if source.len() < start.len() as u64 || source.len() > 1 << 12 {
        return Ok(());
    }
    source.read_at(&mut start, 0).map_err(Error::io(path))?;
    if is_lfs_pointer(&start) { Err(Error::invalid(path, IS_LFS_POINTER)) } else { Ok(()) }
}

/// A text file, without its byte-order mark.
pub(super) fn text(path: &Path) -> Result<String, Error> {
    let source = ByteSource::from_file(File::open(path).map_err(Error::io(path))?).map_err(Error::io(path))?;
    if source.len() > LARGEST_TEXT {
        return Err(Error::invalid(path, "is larger than 256 MiB"));
    }
    refuse_lfs_pointer(path, &source)?;
    let bytes = source.read(0, source.len()).map_err(Error::io(path))?;
    Ok(String::from_utf8_lossy(without_mark(&bytes)).into_owned())
}

/// Opens a file. If its name ends in `.gz`, it is unpacked into memory.
pub(super) fn open(path: &Path) -> Result<ByteSource, Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    let packed = ByteSource::from_file(file.try_clone().map_err(Error::io(path))?).map_err(Error::io(path))?;
    refuse_lfs_pointer(path, &packed)?;
    if path.extension().is_none_or(|extension| extension != "gz") {
        return Ok(packed);
    }
    let mut content = Vec::new();
    let mut packed = io::BufReader::new(file);
    loop {
        let left = LARGEST_UNPACKED + 1 - content.len() as u64;
        let unpacked = flate2::bufread::GzDecoder::new(&mut packed).take(left).read_to_end(&mut content);
        unpacked.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::invalid(path, "is truncated: download it again"),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
                Error::invalid(path, format!("is not a valid gzip file ({error}): download it again"))
            }
            _ => Error::io(path)(error),
        })?;
        // Zeros behind a gzip stream are padding, as for gzip(1) and Python.
        let is_over = content.len() as u64 > LARGEST_UNPACKED;
        if is_over || !skip_zeros(&mut packed).map_err(Error::io(path))? {
            break;
        }
    }
    if content.len() as u64 > LARGEST_UNPACKED {
        return Err(Error::invalid(path, "unpacks to more than 8 GiB: unpack it beforehand"));
    }
    Ok(ByteSource::Memory(content))
}

/// Whether something other than zeros follows, which are skipped.
fn skip_zeros(reader: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let bytes = reader.fill_buf()?;
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        if bytes.is_empty() || zeros < bytes.len() {
            let has_more = !bytes.is_empty();
            reader.consume(zeros);
            return Ok(has_more);
        }
        reader.consume(zeros);
    }
}
