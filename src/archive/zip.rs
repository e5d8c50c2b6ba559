//! Zip archives. Their directory says what is in them; the entries' own headers do not count.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::rc::Rc;

use ::zip::read::{ArchiveOffset, Config};
use ::zip::result::ZipError;
use ::zip::{CompressionMethod, ZipArchive};

use super::destination::{ArchiveEntry, ArchiveEntryKind, Destination, Halt};
use super::faults::shown;

/// Where an archive's last record may be: it has a comment of up to 64 KiB.
const TAIL: u64 = 22 + 65_535;
/// Bytes of an entry's header in the directory, without its name.
const HEADER: usize = 46;

pub(super) fn unpack(file: &File, to: &mut Destination<'_>) -> Result<(), Halt> {
    // Checked before the directory is read into memory.
    let entries = announced_entries(file)?;
    if entries > to.limits().entries {
        let most = to.limits().entries;
        to.refuse(format!("it has {entries} files and directories; at most {most} are taken"));
        return Err(Halt::Refused);
    }
    let config = Config { archive_offset: ArchiveOffset::Known(0) };
    let most = to.limits().directory;
    let left = Rc::new(Cell::new(most));
    let reader = MeteredReader { file: BufReader::new(file), left: left.clone() };
    let mut archive = match ZipArchive::with_config(config, reader) {
        Ok(archive) => archive,
        Err(_) if left.get() == 0 => {
            to.refuse(format!(
                "its list of entries has more than {most} bytes, or cannot be found: upload it whole, or pack the files \
                 as a tar"
            ));
            return Err(Halt::Refused);
        }
        Err(error) => return damaged(error, "its directory", to),
    };
    left.set(u64::MAX);
    if archive.has_duplicate_names() {
        for name in duplicates(file, archive.central_directory_start(), entries)? {
            to.refuse(format!("{} appears twice: which of them is meant cannot be known", shown(&name)));
        }
        return Err(Halt::Refused);
    }
    for index in 0..archive.len() {
        let (name, kind, size) = {
            let entry = match archive.by_index_data(index) {
                Ok(entry) => entry,
                Err(error) => return damaged(error, "its directory", to),
            };
            let flags = EntryFlags {
                mode: entry.unix_mode(),
                is_directory: entry.is_dir(),
                is_link: entry.is_symlink(),
                is_encrypted: entry.encrypted(),
                method: entry.compression(),
            };
            (entry.name_raw().to_vec(), flags.kind(), entry.size())
        };
        let head = ArchiveEntry { name: &name, kind, size, is_streamed: false };
        if kind != ArchiveEntryKind::File {
            to.add(head, &mut io::empty())?;
            continue;
        }
        match archive.by_index(index) {
            Ok(mut content) => to.add(head, &mut content)?,
            Err(error) => return damaged(error, &shown(&name), to),
        }
    }
    Ok(())
}

/// Ends after a number of bytes: those of the directory stay in memory, and names and comments may be long.
struct MeteredReader<'a> {
    file: BufReader<&'a File>,
    left: Rc<Cell<u64>>,
}

impl Read for MeteredReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::other("too many bytes"));
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..most])?;
        self.left.set(left - read as u64);
        Ok(read)
    }
}

impl Seek for MeteredReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

const OTHER_METHOD: &str = "packed by another method than deflate (pack it again with zip)";

/// What the directory of an archive says about the kind of an entry.
struct EntryFlags {
    /// As on Unix, if the archive has it.
    mode: Option<u32>,
    is_directory: bool,
    is_link: bool,
    is_encrypted: bool,
    method: CompressionMethod,
}

impl EntryFlags {
    fn kind(&self) -> ArchiveEntryKind {
        /// The bits of a mode that tell the kind of a file.
        const TYPE: u32 = 0o170_000;
        if self.is_encrypted {
            return ArchiveEntryKind::Other("encrypted (pack it again without a password)");
        }
        if self.is_link {
            return ArchiveEntryKind::Other("a symbolic link");
        }
        match self.mode.map(|mode| mode & TYPE) {
            Some(0o020_000 | 0o060_000) => ArchiveEntryKind::Other("a device"),
            Some(0o010_000) => ArchiveEntryKind::Other("a pipe"),
            Some(0o140_000) => ArchiveEntryKind::Other("a socket"),
            _ if self.is_directory => ArchiveEntryKind::Directory,
            _ if matches!(self.method, CompressionMethod::Stored | CompressionMethod::Deflated) => {
                ArchiveEntryKind::File
            }
            _ => ArchiveEntryKind::Other(OTHER_METHOD),
        }
    }
}

fn damaged(error: ZipError, place: &str, to: &mut Destination<'_>) -> Result<(), Halt> {
    match error {
        ZipError::Io(error) if error.raw_os_error().is_some() => Err(Halt::Io(error)),
        error => {
            to.refuse(format!("{place} cannot be read: the archive is damaged, or was not uploaded whole ({error})"));
            Err(Halt::Refused)
        }
    }
}

/// The largest number of entries that a record at the end of the file announces: what a reader would make room for.
fn announced_entries(mut file: &File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let start = size.saturating_sub(TAIL + 20);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(TAIL + 20).read_to_end(&mut tail)?;
    let mut most = 0;
    for at in (0..tail.len().saturating_sub(21)).filter(|&at| tail[at..].starts_with(b"PK\x05\x06")) {
        most = most.max(u64::from(u16::from_le_bytes([tail[at + 10], tail[at + 11]])));
        let Some(locator) = at.checked_sub(20).map(|from| &tail[from..at]).filter(|it| it.starts_with(b"PK\x06\x07"))
        else {
            continue;
        };
        let place = u64::from_le_bytes(locator[8..16].try_into().expect("eight bytes"));
        let mut record = Vec::new();
        file.seek(SeekFrom::Start(place.min(size)))?;
        file.take(56).read_to_end(&mut record)?;
        if record.len() == 56 && record.starts_with(b"PK\x06\x06") {
            most = most.max(u64::from_le_bytes(record[32..40].try_into().expect("eight bytes")));
        }
    }
    Ok(most)
}

/// The names that the directory has more than once, in the order of their second places.
fn duplicates(mut file: &File, start: u64, entries: u64) -> io::Result<Vec<Vec<u8>>> {
    file.seek(SeekFrom::Start(start))?;
    let mut directory = BufReader::new(file);
    let mut counts: HashMap<Vec<u8>, u32> = HashMap::new();
    let mut found = Vec::new();
    for _ in 0..entries {
        let mut header = [0; HEADER];
        // The number may be another record's.
        if directory.read_exact(&mut header).is_err() || !header.starts_with(b"PK\x01\x02") {
            break;
        }
        let length = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let mut name = vec![0; length(28).into()];
        if directory.read_exact(&mut name).is_err() {
            break;
        }
        directory.seek_relative(i64::from(length(30)) + i64::from(length(32)))?;
        let count = counts.entry(name.clone()).or_default();
        *count += 1;
        if *count == 2 {
            found.push(name);
        }
    }
    Ok(found)
}
