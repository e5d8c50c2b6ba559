//! Where an archive is unpacked to: checks the name of every entry before anything is made of it, and counts what is
//! written.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::faults::{ArchiveFaults, shown};
use super::limits::{Error, Limits, Unpacked};
use crate::dataset;
use crate::text::counted;

/// Longest path of an entry, in bytes.
const LONGEST_PATH: usize = 1024;
/// Longest name between two slashes, in bytes: what Linux's file systems take.
const LONGEST_NAME: usize = 255;
/// Most directories around a file.
const DEEPEST: usize = 40;
/// Bytes that an entry counts for besides its content: each takes some of the disk.
const ENTRY: u64 = 512;
/// Number of faults after which the rest of the archive is not read.
const MOST_FAULTS: u64 = 1000;
const BUFFER: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArchiveEntryKind {
    File,
    Directory,
    /// Neither, and so refused: what it is, with its article.
    Other(&'static str),
}

/// What an archive says of an entry before its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArchiveEntry<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: ArchiveEntryKind,
    pub(super) size: u64,
    /// Whether the next entry comes after its content, so that passing over it means reading it.
    pub(super) is_streamed: bool,
}

/// Why unpacking ends before the end of the archive.
#[derive(Debug)]
pub(super) enum Halt {
    /// The faults say why.
    Refused,
    Io(io::Error),
}

impl From<io::Error> for Halt {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(super) struct Destination<'a> {
    root: &'a Path,
    limits: Limits,
    /// Bytes, with [`ENTRY`] for each entry, that an archive of this size may unpack to.
    allowance: u64,
    faults: ArchiveFaults,
    entries: u64,
    files: u64,
    bytes: u64,
    /// Bytes of files, whether or not they were kept.
    seen: u64,
    /// Bytes of headers that only describe other entries.
    described: u64,
    hidden: u64,
    first_hidden: Option<String>,
    buffer: Vec<u8>,
}

impl<'a> Destination<'a> {
    /// `packed` is the archive's own size.
    pub(super) fn new(root: &'a Path, limits: Limits, packed: Option<u64>) -> Self {
        let allowance = packed.map_or(u64::MAX, |packed| packed.saturating_mul(limits.growth).max(Limits::FREE_GROWTH));
        Self {
            root,
            limits,
            allowance,
            faults: ArchiveFaults::default(),
            entries: 0,
            files: 0,
            bytes: 0,
            seen: 0,
            described: 0,
            hidden: 0,
            first_hidden: None,
            buffer: vec![0; BUFFER],
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Notes what is wrong with the archive.
    pub(super) fn refuse(&mut self, fault: String) {
        self.faults.add(fault);
    }

    /// Returns what came of the archive, once its reader has ended with `outcome`.
    pub(super) fn finish(mut self, outcome: Result<(), Halt>) -> Result<Unpacked, Error> {
        match outcome {
            Err(Halt::Io(error)) => return Err(Error::Io(error)),
            Ok(()) | Err(Halt::Refused) => {}
        }
        if self.files == 0 && self.faults.is_empty() {
            self.refuse("it holds no file".to_owned());
        }
        if !self.faults.is_empty() {
            return Err(Error::Refused(self.faults));
        }
        let notes = self.first_hidden.map(|first| {
            let files = counted(self.hidden, "entry", "entries");
            format!("left out of the archive: {files}, hidden or made by an archiver, such as {first}")
        });
        Ok(Unpacked { files: self.files, bytes: self.bytes, notes: notes.into_iter().collect() })
    }

    /// Takes an entry: makes it, or notes why not.
    pub(super) fn add(&mut self, entry: ArchiveEntry<'_>, content: &mut dyn Read) -> Result<(), Halt> {
        let ArchiveEntry { name, kind, size, is_streamed } = entry;
        self.entries += 1;
        if self.entries > self.limits.entries {
            let most = self.limits.entries;
            self.refuse(format!("it has more than {most} files and directories: pack fewer, or use parquet shards"));
            return Err(Halt::Refused);
        }
        let path = match (kind, relative(name)) {
            (_, Err(fault)) => Err(format!("{} {fault}", shown(name))),
            (_, Ok(EntryPath::Hidden)) => {
                self.hidden += 1;
                self.first_hidden.get_or_insert_with(|| shown(name));
                return if is_streamed { self.count(size) } else { Ok(()) };
            }
            (ArchiveEntryKind::Other(what), Ok(_)) => {
                Err(format!("{} is {what}: only files and directories are taken", shown(name)))
            }
            (_, Ok(EntryPath::Kept(path))) => Ok(path),
        };
        let path = match path {
            Ok(path) => path,
            Err(fault) => {
                self.refuse(fault);
                if self.faults.len() >= MOST_FAULTS {
                    return Err(Halt::Refused);
                }
                return if is_streamed { self.count(size) } else { Ok(()) };
            }
        };
        match kind {
            ArchiveEntryKind::Directory => self.make_directory(&path, name),
            _ => self.write(&path, name, content),
        }
    }

    /// Counts a header that describes another entry, or the whole archive. Reading it takes time, too.
    pub(super) fn describe(&mut self, bytes: u64) -> Result<(), Halt> {
        self.described = self.described.saturating_add(bytes);
        self.count(0)
    }

    /// Counts bytes that were read, and refuses the archive if they are too many.
    fn count(&mut self, bytes: u64) -> Result<(), Halt> {
        self.seen = self.seen.saturating_add(bytes);
        let Limits { bytes: most, growth, .. } = self.limits;
        if self.seen > most {
            self.refuse(format!("it unpacks to more than {most} bytes, which is the limit"));
            return Err(Halt::Refused);
        }
        let overhead = self.entries.saturating_mul(ENTRY).saturating_add(self.described);
        if self.seen.saturating_add(overhead) > self.allowance {
            self.refuse(format!(
                "it unpacks to more than {growth} times its own size, as archives do that are made to fill disks: pack \
                 the files without compression (zip -0, or tar without gzip)"
            ));
            return Err(Halt::Refused);
        }
        Ok(())
    }

    fn make_directory(&mut self, path: &Path, name: &[u8]) -> Result<(), Halt> {
        self.count(0)?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(self.root.join(path));
        match made {
            Ok(()) => Ok(()),
            Err(error) if is_in_the_way(&error) => {
                self.refuse(format!("{} is a directory, and a file before it has the same name", shown(name)));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self, path: &Path, name: &[u8], content: &mut dyn Read) -> Result<(), Halt> {
        if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
            match DirBuilder::new().recursive(true).mode(0o700).create(self.root.join(above)) {
                Ok(()) => {}
                Err(error) if is_in_the_way(&error) => {
                    self.refuse(format!("{} lies below a file of the archive", shown(name)));
                    return self.skip(content);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let path = self.root.join(path);
        let file = match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let what = if path.is_dir() { "is a file, and a directory has the same name" } else { "appears twice" };
                self.refuse(format!("{} {what}: which of them is meant cannot be known", shown(name)));
                return self.skip(content);
            }
            Err(error) => return Err(error.into()),
        };
        self.files += 1;
        self.copy(Some(file), name, content)
    }

    /// Reads an entry that is not kept, since the next one of a stream is behind it.
    fn skip(&mut self, content: &mut dyn Read) -> Result<(), Halt> {
        self.copy(None, b"", content)
    }

    fn copy(&mut self, mut file: Option<File>, name: &[u8], content: &mut dyn Read) -> Result<(), Halt> {
        // Taken out, since `count` needs all of `self`.
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcome = loop {
            match content.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(read) => {
                    if let Err(halt) = self.count(read as u64) {
                        break Err(halt);
                    }
                    // After a fault nothing more is kept.
                    if let Some(file) = file.as_mut().filter(|_| self.faults.is_empty()) {
                        if let Err(error) = file.write_all(&buffer[..read]) {
                            break Err(Halt::Io(error));
                        }
                        self.bytes += read as u64;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error().is_some() => break Err(Halt::Io(error)),
                Err(error) => {
                    self.refuse(format!("{} cannot be unpacked: the archive is damaged there ({error})", shown(name)));
                    break Err(Halt::Refused);
                }
            }
        };
        self.buffer = buffer;
        outcome
    }
}

/// Whether a directory cannot be made because something else has its name.
fn is_in_the_way(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory)
}

/// Where an entry goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntryPath {
    Kept(PathBuf),
    /// Nowhere: data sets do not read it.
    Hidden,
}

/// The path of an entry below the directory, or what is wrong with its name: the rest of a sentence that begins with
/// the name.
pub(super) fn relative(name: &[u8]) -> Result<EntryPath, String> {
    let Ok(text) = std::str::from_utf8(name) else {
        return Err("has a name that is not valid UTF-8: rename it".to_owned());
    };
    if text.len() > LONGEST_PATH {
        return Err(format!("has a path of {} bytes; at most {LONGEST_PATH} are taken", text.len()));
    }
    if text.starts_with('/') {
        return Err("is an absolute path: pack paths relative to the data set".to_owned());
    }
    if text.contains('\\') {
        return Err("has a backslash in its name: pack it with an archiver that separates directories by /".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("has a control character in its name: rename it".to_owned());
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err("leads out of its directory with ..".to_owned());
    }
    if let Some(part) = parts.iter().find(|part| part.len() > LONGEST_NAME) {
        return Err(format!("has a name of {} bytes; at most {LONGEST_NAME} are taken", part.len()));
    }
    if parts.len() > DEEPEST {
        return Err(format!("lies {} directories deep; at most {DEEPEST} are taken", parts.len() - 1));
    }
    let is_hidden = parts.iter().any(|part| dataset::is_passed_over(part));
    Ok(if is_hidden { EntryPath::Hidden } else { EntryPath::Kept(parts.iter().collect()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_directory_or_are_refused() {
        let kept = |name: &str| match relative(name.as_bytes()) {
            Ok(EntryPath::Kept(path)) => path.to_str().unwrap().to_owned(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(kept("./train//cat/1.png"), "train/cat/1.png");
        assert_eq!(kept("train/cat..s/1..png"), "train/cat..s/1..png");
        for hidden in [".git/config", "__MACOSX/train/cat/._1.png", "train/cat/.DS_Store"] {
            assert_eq!(relative(hidden.as_bytes()), Ok(EntryPath::Hidden), "{hidden}");
        }
        let long = "n".repeat(256);
        let deep = "d/".repeat(41);
        for (name, fault) in [
            ("../x", "leads out"),
            (".hidden/../../x", "leads out"),
            ("train/../../x", "leads out"),
            ("/etc/passwd", "absolute"),
            ("train\\cat\\1.png", "backslash"),
            ("a\nb", "control character"),
            (long.as_str(), "256 bytes"),
            (deep.as_str(), "directories deep"),
        ] {
            let found = relative(name.as_bytes()).unwrap_err();
            assert!(found.contains(fault), "{name}: {found}");
        }
        assert!(relative(b"caf\xe9.png").unwrap_err().contains("UTF-8"));
        assert!(relative("x/".repeat(600).as_bytes()).unwrap_err().contains("1200 bytes"));
    }
}
