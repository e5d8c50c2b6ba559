//! A directory as a tar that is written nowhere: its size is known at once, and any part of it can be read, so that an
//! upload of it can go on in the middle.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ::tar::{Builder, EntryType};
use sha2::{Digest, Sha256};

use super::destination::{EntryPath, relative};
use super::faults::{ArchiveFaults, shown};
use super::limits::Error;
use super::pack::header;
use crate::text::counted;

/// What tars consist of, in bytes.
const BLOCK: u64 = 512;
/// The end of a tar, in bytes.
const END: u64 = 2 * BLOCK;

/// A directory as a tar of a known size. Hidden entries, and what archivers leave, are not in it.
#[derive(Debug)]
pub struct PackedDirectory {
    root: PathBuf,
    /// In the order of the tar.
    entries: Vec<PackedEntry>,
    size: u64,
    files: u64,
    hidden: u64,
    first_hidden: Option<String>,
}

#[derive(Debug)]
struct PackedEntry {
    /// Below the root.
    path: PathBuf,
    kind: EntryType,
    /// Where its headers begin in the tar.
    start: u64,
    /// Length of its headers.
    head: u64,
    /// Length of its content.
    size: u64,
    modified: SystemTime,
}

impl PackedEntry {
    fn end(&self) -> u64 {
        self.start + self.head + self.size.next_multiple_of(BLOCK)
    }

    /// The headers.
    fn head(&self) -> io::Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        // Without its content: only the header says how much that is.
        tar.append_data(&mut header(self.kind, self.size), &self.path, io::empty())?;
        Ok(tar.get_ref().clone())
    }
}

impl PackedDirectory {
    /// Looks at all files of a directory. Reads none.
    ///
    /// # Errors
    /// All entries that no upload may have, such as links, or the directory cannot be read or has no file.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let (entries, root) = (Vec::new(), root.to_owned());
        let mut directory = Self { root, entries, size: END, files: 0, hidden: 0, first_hidden: None };
        let mut faults = ArchiveFaults::default();
        directory.add(Path::new(""), &mut faults)?;
        if directory.files == 0 && faults.is_empty() {
            faults.add("it holds no file".to_owned());
        }
        if faults.is_empty() { Ok(directory) } else { Err(Error::Refused(faults)) }
    }

    fn add(&mut self, below: &Path, faults: &mut ArchiveFaults) -> io::Result<()> {
        let directory = self.root.join(below);
        let names = fs::read_dir(&directory)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<OsString>>>());
        let mut names = names.map_err(|error| named(&error, &directory))?;
        names.sort();
        let before = self.entries.len();
        for name in names {
            let path = below.join(&name);
            match relative(path.as_os_str().as_bytes()) {
                Ok(EntryPath::Kept(_)) => self.take(path, faults)?,
                Ok(EntryPath::Hidden) => {
                    self.hidden += 1;
                    self.first_hidden.get_or_insert_with(|| shown(path.as_os_str().as_bytes()));
                }
                Err(fault) => faults.add(format!("{} {fault}", shown(path.as_os_str().as_bytes()))),
            }
        }
        if self.entries.len() == before && !below.as_os_str().is_empty() {
            self.push(below.to_owned(), EntryType::Directory, 0, UNIX_EPOCH)?;
        }
        Ok(())
    }

    fn take(&mut self, path: PathBuf, faults: &mut ArchiveFaults) -> io::Result<()> {
        let whole = self.root.join(&path);
        let about = fs::symlink_metadata(&whole).map_err(|error| named(&error, &whole))?;
        if about.is_dir() {
            return self.add(&path, faults);
        }
        if about.is_file() {
            self.files += 1;
            return self.push(path, EntryType::Regular, about.len(), about.modified()?);
        }
        let what = if about.is_symlink() { "a symbolic link" } else { "a device, a pipe or a socket" };
        faults.add(format!("{} is {what}: only files and directories are taken", shown(path.as_os_str().as_bytes())));
        Ok(())
    }

    fn push(&mut self, path: PathBuf, kind: EntryType, size: u64, modified: SystemTime) -> io::Result<()> {
        let mut entry = PackedEntry { path, kind, start: self.size - END, head: 0, size, modified };
        entry.head = entry.head()?.len() as u64;
        self.size = entry.end() + END;
        self.entries.push(entry);
        Ok(())
    }

    /// Size of the tar in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of files.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.files
    }

    /// What is not in the tar; `None` if everything is.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let first = self.first_hidden.as_ref()?;
        let entries = counted(self.hidden, "entry", "entries");
        Some(format!("left out: {entries}, hidden or made by an archiver, such as {first}"))
    }

    /// A hash of the names, sizes and times of all files, which another state of the directory does not have.
    #[must_use]
    pub fn identity(&self) -> String {
        let mut hash = Sha256::new();
        for PackedEntry { path, size, modified, .. } in &self.entries {
            let nanoseconds = modified.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
            hash.update(path.as_os_str().as_bytes());
            hash.update(format!("\0{size} {nanoseconds}\n"));
        }
        hex::encode(hash.finalize())
    }

    /// The bytes of the tar from `start` on. It opens each file when its bytes are read, and fails if the file is no
    /// longer as it was.
    #[must_use]
    pub fn read_from(&self, start: u64) -> DirectoryReader<'_> {
        let next = self.entries.partition_point(|entry| entry.end() <= start);
        DirectoryReader { directory: self, next, at: start, current: Box::new(io::empty()) }
    }

    /// The entry from `from` on, which counts from its headers.
    fn entry(&self, entry: &PackedEntry, from: u64) -> io::Result<Box<dyn Read + Send>> {
        let padding = entry.size.next_multiple_of(BLOCK) - entry.size;
        let mut head = io::Cursor::new(entry.head()?);
        head.set_position(from.min(entry.head));
        let skipped = from.saturating_sub(entry.head);
        let mut tail = io::Cursor::new(vec![0; usize::try_from(padding).unwrap_or_default()]);
        tail.set_position(skipped.saturating_sub(entry.size));
        let path = self.root.join(&entry.path);
        let content = ExactContent::open(path, entry, skipped.min(entry.size))?;
        Ok(Box::new(head.chain(content).chain(tail)))
    }
}

/// A part of a tar.
pub struct DirectoryReader<'a> {
    directory: &'a PackedDirectory,
    /// Number of the entry after the current one.
    next: usize,
    at: u64,
    current: Box<dyn Read + Send>,
}

impl Read for DirectoryReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let read = self.current.read(buffer)?;
            self.at += read as u64;
            if read > 0 {
                return Ok(read);
            }
            if let Some(entry) = self.directory.entries.get(self.next) {
                self.next += 1;
                self.current = self.directory.entry(entry, self.at - entry.start)?;
            } else if self.at < self.directory.size {
                self.current = Box::new(io::repeat(0).take(self.directory.size - self.at));
            } else {
                return Ok(0);
            }
        }
    }
}

/// The content of a file that must stay as it was.
struct ExactContent {
    path: PathBuf,
    file: Option<File>,
    left: u64,
}

impl ExactContent {
    fn open(path: PathBuf, entry: &PackedEntry, from: u64) -> io::Result<Self> {
        let left = entry.size - from;
        if left == 0 {
            return Ok(Self { path, file: None, left });
        }
        let open = || -> io::Result<(File, bool)> {
            let mut file = File::open(&path)?;
            io::Seek::seek(&mut file, io::SeekFrom::Start(from))?;
            let about = file.metadata()?;
            Ok((file, about.len() == entry.size && about.modified()? == entry.modified))
        };
        match open().map_err(|error| named(&error, &path))? {
            (file, true) => Ok(Self { path, file: Some(file), left }),
            (_, false) => Err(changed(&path)),
        }
    }
}

impl Read for ExactContent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(file) = self.file.as_mut().filter(|_| self.left > 0) else { return Ok(0) };
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = file.read(&mut buffer[..most]).map_err(|error| named(&error, &self.path))?;
        if read == 0 && most > 0 {
            return Err(changed(&self.path));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

fn changed(path: &Path) -> io::Error {
    io::Error::other(format!("{} has changed since the upload began: begin again", path.display()))
}

fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Limits, unpack};
    use super::*;

    fn directory(files: &[(&str, usize)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, size) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![7; *size]).unwrap();
        }
        root
    }

    fn bytes_from(packed: &PackedDirectory, start: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        packed.read_from(start).read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn any_part_of_the_tar_is_that_of_the_whole() {
        let long = format!("train/{}/1.ppm", "long".repeat(40));
        let root = directory(&[("a/empty", 0), ("a/x", 511), ("a/y", 512), ("b/z", 1300), (long.as_str(), 3)]);
        fs::create_dir(root.path().join("c")).unwrap();
        let packed = PackedDirectory::open(root.path()).unwrap();
        let whole = bytes_from(&packed, 0);
        assert_eq!((whole.len() as u64, packed.files()), (packed.size(), 5));
        for start in (0..=whole.len()).step_by(97).chain([512, 1024, whole.len()]) {
            assert!(bytes_from(&packed, start as u64) == whole[start..], "{start}");
        }
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &whole).unwrap();
        let into = tempfile::tempdir().unwrap();
        let unpacked = unpack(Format::of_file(&file).unwrap(), &file, into.path(), Limits::new(1 << 20)).unwrap();
        assert_eq!((unpacked.files, unpacked.bytes), (5, 511 + 512 + 1300 + 3));
        assert_eq!(fs::read(into.path().join(long)).unwrap(), [7; 3]);
        assert!(into.path().join("c").is_dir());
    }

    #[test]
    fn links_and_special_files_are_named_and_hidden_ones_left_out() {
        let root = directory(&[("train/cat/1.ppm", 3), (".git/config", 3), ("train/.DS_Store", 3)]);
        let packed = PackedDirectory::open(root.path()).unwrap();
        assert_eq!((packed.files(), packed.note().unwrap().contains("2 entries")), (1, true), "{:?}", packed.note());
        std::os::unix::fs::symlink("1.ppm", root.path().join("train/cat/2.ppm")).unwrap();
        std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
        let Err(Error::Refused(faults)) = PackedDirectory::open(root.path()) else { panic!("a link is refused") };
        let lines = faults.lines();
        assert!(lines[0].starts_with("socket is a device, a pipe or a socket"), "{lines:?}");
        assert!(lines[1].starts_with("train/cat/2.ppm is a symbolic link"), "{lines:?}");
    }

    #[test]
    fn a_file_that_changes_is_noticed_and_changes_the_identity() {
        let root = directory(&[("a", 3), ("b", 3)]);
        let packed = PackedDirectory::open(root.path()).unwrap();
        assert_eq!(packed.identity(), PackedDirectory::open(root.path()).unwrap().identity());
        fs::write(root.path().join("b"), "four").unwrap();
        let error = packed.read_from(0).read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("has changed since the upload began"), "{error}");
        assert_ne!(packed.identity(), PackedDirectory::open(root.path()).unwrap().identity());
        let empty = tempfile::tempdir().unwrap();
        let Err(Error::Refused(faults)) = PackedDirectory::open(empty.path()) else { panic!("nothing is refused") };
        assert!(faults.to_string().contains("it holds no file"), "{faults}");
    }
}
