//! Archives from untrusted sources: unpacks zip and tar (plain, gzip, zstd) into a directory, and packs a directory so
//! that equal files give equal bytes.
//!
//! Everything is limited: bytes written, entries, lengths of names, and how many times its own
//! size an archive may unpack to. Only files and directories are made, and only below the directory. Names that lead
//! out of it, links, devices and names that come twice are faults, and an archive with a fault is refused as a whole.

mod bridge;
mod destination;
mod directory;
mod faults;
mod limits;
mod pack;
mod tar;
mod zip;

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

pub use bridge::{ChannelReader, ChannelWriter};
pub use directory::PackedDirectory;
pub use faults::ArchiveFaults;
pub use limits::{Error, Limits, Unpacked};
pub use pack::pack;

use destination::Destination;

/// Number of leading bytes by which the formats are told apart.
const HEAD: usize = 512;
/// Most memory that a zstd stream may ask for, as a power of two in bytes: what `zstd` itself accepts by default.
const ZSTD_WINDOW: u32 = 27;

/// What is wrong with a file of weights or a network, as the rest of a sentence that begins with "the file".
pub const IS_NETWORK: &str =
    "is a network or its weights, and no data set: upload it to /v1/checkpoints (curl -T FILE)";

/// The format of a file, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Zip,
    Tar,
    /// A tar behind gzip.
    Gzip,
    /// A tar behind zstd.
    Zstd,
    /// Not an archive, but a shard of a data set.
    Parquet,
}

impl Format {
    /// Recognises the format.
    ///
    /// # Errors
    /// It is none of these. The text is the rest of a sentence that begins with "the file".
    pub fn of(head: &[u8]) -> Result<Self, String> {
        let instead = "pack the files as zip, tar, tar.gz or tar.zst";
        let known = [
            (b"BZh".as_slice(), "is packed with bzip2"),
            (b"\xfd7zXZ\0", "is packed with xz"),
            (b"7z\xbc\xaf\x27\x1c", "is a 7z archive"),
            (b"Rar!", "is a rar archive"),
        ];
        if let Some((_, what)) = known.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(format!("{what}, which is not read: {instead}"));
        }
        if is_weights(head) {
            return Err(IS_NETWORK.to_owned());
        }
        match head {
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Ok(Self::Zip),
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            [b'P', b'A', b'R', b'1', ..] => Ok(Self::Parquet),
            _ if tar::is_header(head) => Ok(Self::Tar),
            _ => Err(format!("is neither an archive nor a parquet file: {instead}")),
        }
    }

    /// Recognises the format of an open file.
    ///
    /// # Errors
    /// It is none of them, or cannot be read.
    pub fn of_file(mut file: &File) -> Result<Self, Error> {
        file.rewind()?;
        let mut head = Vec::with_capacity(HEAD);
        file.take(HEAD as u64).read_to_end(&mut head)?;
        file.rewind()?;
        Self::of(&head).map_err(|what| Error::Refused(ArchiveFaults::one(format!("the file {what}"))))
    }
}

/// Whether a file is of safetensors, or was written by `torch.save` before it wrote zips.
fn is_weights(head: &[u8]) -> bool {
    let header = head.first_chunk().map(|length| u64::from_le_bytes(*length));
    let is_safetensors = head.get(8) == Some(&b'{') && header.is_some_and(|length| length < 1 << 30);
    is_safetensors || head.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9")
}

/// Unpacks an archive into an empty directory. If it fails, the directory has parts of it.
///
/// # Errors
/// All that is wrong with the archive, or the disk fails.
pub fn unpack(format: Format, file: &File, into: &Path, limits: Limits) -> Result<Unpacked, Error> {
    let size = file.metadata()?.len();
    let mut destination = Destination::new(into, limits, Some(size));
    let mut file = file;
    file.rewind()?;
    let unpacked = match format {
        Format::Zip => zip::unpack(file, &mut destination),
        Format::Tar => tar::unpack(BufReader::new(file), &mut destination),
        Format::Gzip => tar::unpack(flate2::bufread::MultiGzDecoder::new(BufReader::new(file)), &mut destination),
        Format::Zstd => {
            let mut stream = zstd::stream::read::Decoder::new(file)?;
            stream.window_log_max(ZSTD_WINDOW)?;
            tar::unpack(stream, &mut destination)
        }
        Format::Parquet => {
            destination.refuse("the file is a parquet shard, not an archive".to_owned());
            Ok(())
        }
    };
    destination.finish(unpacked)
}

/// Unpacks a tar that [`pack`] has written, as it comes.
///
/// # Errors
/// It is damaged, has more than `bytes` bytes in its files, or the disk fails.
pub fn unpack_packed(stream: impl Read, into: &Path, bytes: u64) -> Result<Unpacked, Error> {
    let limits = Limits { bytes, entries: u64::MAX, directory: u64::MAX, growth: u64::MAX };
    let mut destination = Destination::new(into, limits, None);
    let unpacked = tar::unpack(stream, &mut destination);
    destination.finish(unpacked)
}
