//! What is uploaded as a data set: a file, or a directory that is packed while it is sent.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use sha2::{Digest, Sha256};
use zip::ZipArchive;

use crate::archive::{self, Format, PackedDirectory};
use crate::client::error::Error;
use crate::client::text::plain;
use crate::exported;

/// Bytes of a SHA-256 that stand for a file among those of a user.
const IDENTITY: usize = 8;

/// Bytes of a known number, any part of which can be read.
#[derive(Debug)]
pub struct UploadSource {
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    content: SourceContent,
}

#[derive(Debug)]
enum SourceContent {
    File { modified: SystemTime },
    Directory(PackedDirectory),
}

impl UploadSource {
    /// Reads no file to its end.
    ///
    /// # Errors
    /// It cannot be read, is empty, or has links and other entries that the server would refuse.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let shown = path.display();
        let about = fs::metadata(path).with_context(|| format!("cannot read {shown}"))?;
        let (size, content) = if about.is_dir() {
            let packed = PackedDirectory::open(path).map_err(|error| unusable(error, path))?;
            (packed.size(), SourceContent::Directory(packed))
        } else if about.is_file() {
            (about.len(), SourceContent::File { modified: about.modified()? })
        } else {
            return Err(Error::Local(anyhow::anyhow!("{shown} is neither a regular file nor a directory")));
        };
        if size == 0 {
            return Err(Error::Local(anyhow::anyhow!("{shown} is empty")));
        }
        Ok(Self { path: path.to_owned(), size, content })
    }

    /// What is not sent of a directory.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        match &self.content {
            SourceContent::File { .. } => None,
            SourceContent::Directory(packed) => packed.note(),
        }
    }

    /// The name of its upload: the same for the same files, so that a later command goes on with it. `place` is
    /// whatever else its pieces depend on.
    #[must_use]
    pub fn upload_name(&self, place: &str) -> String {
        let name = self.path.file_name().unwrap_or_default().as_encoded_bytes();
        let state = match &self.content {
            SourceContent::File { modified } => {
                modified.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos()).to_string()
            }
            SourceContent::Directory(packed) => packed.identity(),
        };
        let mut hash = Sha256::new();
        hash.update(name);
        hash.update(format!("\0{} {state} {place}", self.size));
        format!("command-{}", hex::encode(&hash.finalize()[..IDENTITY]))
    }

    /// Writes a part of it.
    ///
    /// # Errors
    /// It cannot be read, or is no longer what it was.
    pub fn copy(&self, part: Range<u64>, to: &mut impl Write) -> io::Result<()> {
        let length = part.end - part.start;
        let copied = match &self.content {
            SourceContent::Directory(packed) => io::copy(&mut packed.read_from(part.start).take(length), to)?,
            SourceContent::File { modified } => {
                let mut file = File::open(&self.path)?;
                let about = file.metadata()?;
                if about.len() != self.size || about.modified()? != *modified {
                    return Err(self.changed());
                }
                file.seek(SeekFrom::Start(part.start))?;
                io::copy(&mut file.take(length), to)?
            }
        };
        if copied < length { Err(self.changed()) } else { to.flush() }
    }

    fn changed(&self) -> io::Error {
        io::Error::other(format!("{} has changed since the upload began: begin again", self.path.display()))
    }
}

fn unusable(error: archive::Error, path: &Path) -> Error {
    let shown = path.display();
    match error {
        archive::Error::Refused(faults) => {
            let faults = faults.lines().join("\n");
            Error::Local(anyhow::anyhow!(
                "{shown} was not uploaded. Replace links by copies (cp -rL), and remove what is no file:\n{faults}"
            ))
        }
        archive::Error::Io(error) => Error::Local(error.into()),
    }
}

/// Whether a path leads to a data set, and not to a network or its weights.
///
/// # Errors
/// It cannot be read.
pub fn is_dataset(path: &Path) -> Result<bool, Error> {
    let shown = path.display();
    let about = fs::metadata(path).with_context(|| format!("cannot read {shown}"))?;
    if !about.is_file() {
        return Ok(about.is_dir());
    }
    let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    match Format::of_file(&file) {
        Ok(Format::Zip) => Ok(!is_network(path, file)),
        Ok(Format::Tar | Format::Gzip | Format::Zstd | Format::Parquet) => Ok(true),
        // The server says what is wrong with it.
        Err(archive::Error::Refused(_)) => Ok(false),
        Err(archive::Error::Io(error)) => Err(Error::Local(error.into())),
    }
}

/// Whether a zip is an exported network or was written by `torch.save`.
fn is_network(path: &Path, file: File) -> bool {
    let slashes = |name: &[u8]| name.iter().filter(|byte| **byte == b'/').count();
    let is_weights = |name: &[u8]| name == b"data.pkl" || (name.ends_with(b"/data.pkl") && slashes(name) == 1);
    match ZipArchive::new(BufReader::new(file)) {
        Ok(archive) => exported::is_exported(path) || archive.file_names_raw().any(is_weights),
        // Of a damaged one, the name tells what it should be.
        Err(_) => path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("zip")),
    }
}

/// A name for the data set in a file or directory, which the server accepts; `None` if nothing is left of its own.
#[must_use]
pub fn name_of(path: &Path) -> Option<String> {
    const ENDINGS: [&str; 6] = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"];
    const LONGEST: usize = 64;
    let whole = if path.file_name().is_some() { path.to_owned() } else { path.canonicalize().ok()? };
    let name = plain(whole.file_name()?.to_str()?);
    let lower = name.to_ascii_lowercase();
    let ending = ENDINGS.iter().filter(|ending| lower.ends_with(**ending)).map(|ending| ending.len()).max();
    let stem = &name[..name.len() - ending.unwrap_or(0)];
    let is_taken = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let parts = stem.split(|c| !is_taken(c)).filter(|part| !part.is_empty());
    let name = parts.collect::<Vec<_>>().join("-");
    let name: String = name.trim_start_matches(['.', '_', '-']).chars().take(LONGEST).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_set_is_named_after_its_file_or_directory() {
        for (path, expected) in [
            ("pets.zip", "pets"),
            ("data/Pets.TAR.GZ", "Pets"),
            ("my pets (new).tar.zst", "my-pets-new"),
            ("pets/", "pets"),
            (".hidden", "hidden"),
            ("v1.2", "v1.2"),
        ] {
            assert_eq!(name_of(Path::new(path)).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(name_of(Path::new("\u{732b}.zip")), None);
        assert!(name_of(Path::new(".")).is_some());
    }

    #[test]
    fn an_upload_has_the_same_name_as_long_as_the_file_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pets.tar");
        fs::write(&path, "four").unwrap();
        let name = |place: &str| UploadSource::open(&path).unwrap().upload_name(place);
        let first = name("1");
        assert_eq!(first, name("1"));
        assert!(first.len() <= 64 && first.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{first}");
        assert_ne!(first, name("2"));
        let source = UploadSource::open(&path).unwrap();
        fs::write(&path, "seven 7").unwrap();
        assert_ne!(first, name("1"));
        let error = source.copy(0..4, &mut Vec::<u8>::new()).unwrap_err();
        assert!(error.to_string().contains("has changed since the upload began"), "{error}");
    }
}
