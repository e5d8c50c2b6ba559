//! Tar archives, as they come from GNU tar, bsdtar and Python.
//!
//! The entries are read raw: the library would read headers of any length into memory, and join names itself.

use std::io::{self, ErrorKind, Read};

use ::tar::{Archive, EntryType, Header, PaxExtensions};

use super::destination::{ArchiveEntry, ArchiveEntryKind, Destination, Halt};
use super::faults::shown;

/// Longest header that names the next entry, in bytes.
const LONGEST_HEADER: u64 = 64 << 10;
/// Most bytes behind the end of a tar: it is padded to whole records.
const MOST_PADDING: u64 = 64 << 20;
const BLOCK: usize = 512;

/// What headers before an entry say of it.
#[derive(Default)]
struct Announced {
    name: Option<Vec<u8>>,
    /// What this reader cannot do with the entry.
    fault: Option<&'static str>,
}

/// Whether a file may be a tar, by its first bytes.
pub(super) fn is_header(head: &[u8]) -> bool {
    let Some(block) = head.first_chunk::<BLOCK>() else { return false };
    let header = Header::from_byte_slice(block);
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| match at {
            // The checksum is computed with blanks in its own field.
            148..156 => u32::from(b' '),
            _ => u32::from(*byte),
        })
        .sum();
    header.cksum().is_ok_and(|stored| stored == sum)
}

pub(super) fn unpack(mut stream: impl Read, to: &mut Destination<'_>) -> Result<(), Halt> {
    let mut head = Vec::with_capacity(BLOCK);
    if let Err(error) = (&mut stream).take(BLOCK as u64).read_to_end(&mut head) {
        return damaged(error, to);
    }
    if !is_header(&head) {
        to.refuse("what is compressed is no tar archive: pack a directory, with tar or zip".to_owned());
        return Err(Halt::Refused);
    }
    let mut archive = Archive::new(io::Cursor::new(head).chain(stream));
    let mut announced = Announced::default();
    for entry in archive.entries()?.raw(true) {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(error) => return damaged(error, to),
        };
        let size = entry.header().entry_size().unwrap_or(0);
        let entry_type = entry.header().entry_type();
        match entry_type {
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader => {
                if size > LONGEST_HEADER {
                    to.refuse(format!("it has a header of {size} bytes; at most {LONGEST_HEADER} are taken"));
                    return Err(Halt::Refused);
                }
                to.describe(BLOCK as u64 + size.next_multiple_of(BLOCK as u64))?;
                let mut text = Vec::new();
                if let Err(error) = entry.read_to_end(&mut text) {
                    return damaged(error, to);
                }
                announced.add(entry_type, &text);
            }
            _ => {
                let Announced { name, fault } = std::mem::take(&mut announced);
                let name = name.unwrap_or_else(|| entry.path_bytes().into_owned());
                let kind = fault.map_or_else(|| kind(entry_type, &name), ArchiveEntryKind::Other);
                to.add(ArchiveEntry { name: &name, kind, size, is_streamed: true }, &mut entry)?;
                if fault == Some(LARGE) {
                    // Its header does not say how long it is, so the place of the next header is not known.
                    return Err(Halt::Refused);
                }
            }
        }
    }
    if let Some(name) = announced.name {
        to.refuse(format!("it ends before {}, which it announces: it was not uploaded whole", shown(&name)));
    }
    // The checksums of gzip and zstd come last.
    let mut rest = archive.into_inner();
    match io::copy(&mut (&mut rest).take(MOST_PADDING + 1), &mut io::sink()) {
        Ok(bytes) if bytes > MOST_PADDING => {
            to.refuse(format!("more than {MOST_PADDING} bytes are behind its end"));
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(error) => damaged(error, to),
    }
}

const LARGE: &str = "too large for its header (above 8 GiB: pack it with tar --format=gnu)";
const SPARSE: &str = "a sparse file (pack it without --sparse)";

impl Announced {
    fn add(&mut self, entry_type: EntryType, text: &[u8]) {
        match entry_type {
            EntryType::GNULongName => {
                self.name = Some(text.split(|&byte| byte == 0).next().unwrap_or_default().to_vec());
            }
            EntryType::XHeader => {
                for record in PaxExtensions::new(text).flatten() {
                    match record.key_bytes() {
                        b"path" => self.name = Some(record.value_bytes().to_vec()),
                        b"size" => self.fault = Some(LARGE),
                        key if key.starts_with(b"GNU.sparse.") => self.fault = Some(SPARSE),
                        _ => {}
                    }
                }
            }
            // The target of a link, which is refused anyway, and headers for the whole archive, such as the commit
            // that `git archive` notes.
            _ => {}
        }
    }
}

fn kind(entry_type: EntryType, name: &[u8]) -> ArchiveEntryKind {
    match entry_type {
        EntryType::Directory => ArchiveEntryKind::Directory,
        // As the oldest format marks directories.
        EntryType::Regular if name.ends_with(b"/") => ArchiveEntryKind::Directory,
        EntryType::Regular | EntryType::Continuous => ArchiveEntryKind::File,
        EntryType::Symlink => ArchiveEntryKind::Other("a symbolic link"),
        EntryType::Link => ArchiveEntryKind::Other("a hard link"),
        EntryType::Char | EntryType::Block => ArchiveEntryKind::Other("a device"),
        EntryType::Fifo => ArchiveEntryKind::Other("a pipe"),
        EntryType::GNUSparse => ArchiveEntryKind::Other(SPARSE),
        _ => ArchiveEntryKind::Other("of a kind that is unknown"),
    }
}

fn damaged(error: io::Error, to: &mut Destination<'_>) -> Result<(), Halt> {
    // A channel whose other end has failed, or a file that cannot be read, is not the archive's fault.
    if error.raw_os_error().is_some() || error.kind() == ErrorKind::BrokenPipe {
        return Err(Halt::Io(error));
    }
    to.refuse(format!("it cannot be read to its end: the archive is damaged, or was not uploaded whole ({error})"));
    Err(Halt::Refused)
}
