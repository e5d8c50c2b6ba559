//! A file that is being downloaded: stored beside its target until it is complete, or written to standard output.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::error::Error;
use super::facts::FileFacts;
use distillery_core::tell;

/// The bytes of a file that were received so far.
#[derive(Debug)]
pub struct PartialFile {
    pub facts: FileFacts,
    /// Number of bytes received.
    pub length: u64,
    hash: Sha256,
    /// Number of these that an earlier download received.
    earlier: u64,
    /// `None` for standard output.
    file: Option<PartFile>,
}

#[derive(Debug)]
struct PartFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl PartialFile {
    #[must_use]
    pub fn stdout(facts: FileFacts) -> Self {
        Self { facts, length: 0, hash: Sha256::new(), earlier: 0, file: None }
    }

    /// Opens the partial file beside the target. Its name has the SHA-256 of the whole file, so that a download never
    /// continues another file's bytes.
    ///
    /// # Errors
    /// It cannot be written, or another download writes to it.
    pub fn open(target: PathBuf, facts: FileFacts) -> Result<Self, Error> {
        let name = target.file_name().context("the output has no name")?.to_string_lossy().into_owned();
        let tag: String = facts.sha256.as_deref().unwrap_or("unnamed").chars().take(16).collect();
        let path = target.with_file_name(format!(".{name}.{tag}.part"));
        let shown = path.display().to_string();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // In a directory that others may write to, a link could lead anywhere.
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .with_context(|| format!("cannot write {shown}"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Local(anyhow::anyhow!(
                    "another download is writing {shown}: wait until it has ended"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(Error::Local(anyhow::Error::from(error).context(shown))),
        }
        if facts.sha256.is_none() {
            // Without a SHA-256, nothing tells whether the bytes belong to this file.
            file.set_len(0)?;
        }
        let mut hash = Sha256::new();
        let earlier = io::copy(&mut file, &mut hash)?;
        let mut part = Self { facts, length: earlier, hash, earlier, file: Some(PartFile { file, path, target }) };
        if part.facts.size.is_some_and(|size| size < earlier) {
            part.restart()?;
        }
        Ok(part)
    }

    #[must_use]
    pub fn is_stdout(&self) -> bool {
        self.file.is_none()
    }

    /// Whether some of the bytes are from an earlier download.
    #[must_use]
    pub fn began_earlier(&self) -> bool {
        self.earlier > 0
    }

    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.facts.size == Some(self.length)
    }

    /// The SHA-256 of the bytes received, in hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> String {
        hex::encode(self.hash.clone().finalize())
    }

    /// Where the bytes are, and how to continue: the end of a sentence.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.file {
            Some(file) => format!("in {}, and the same command continues after them", file.path.display()),
            None => "on standard output".to_owned(),
        }
    }

    /// Discards the bytes received.
    ///
    /// # Errors
    /// They were written to standard output, or the file cannot be truncated.
    pub fn restart(&mut self) -> Result<(), Error> {
        match &mut self.file {
            Some(file) => {
                file.file.set_len(0)?;
                file.file.seek(SeekFrom::Start(0))?;
            }
            None if self.length > 0 => {
                return Err(Error::Damaged(format!(
                    "the connection was lost after {} bytes, and the server does not send the rest alone: download \
                     into a file instead of standard output",
                    self.length
                )));
            }
            None => {}
        }
        (self.length, self.earlier, self.hash) = (0, 0, Sha256::new());
        Ok(())
    }

    /// # Errors
    /// It cannot be written, or has more bytes than the server announced.
    pub fn append(&mut self, piece: &[u8]) -> Result<(), Error> {
        let length = self.length + piece.len() as u64;
        if self.facts.size.is_some_and(|size| length > size) {
            return Err(Error::Damaged("more bytes came than the server announced".to_owned()));
        }
        match &mut self.file {
            Some(PartFile { file, path, .. }) => {
                file.write_all(piece).with_context(|| format!("cannot write {}", path.display()))?;
            }
            None => io::stdout().write_all(piece)?,
        }
        self.hash.update(piece);
        self.length = length;
        Ok(())
    }

    /// Removes the partial file.
    pub fn remove(&self) {
        if let Some(PartFile { path, .. }) = &self.file
            && let Err(error) = std::fs::remove_file(path)
        {
            tell!("cannot remove {}: {error}", path.display());
        }
    }

    /// Renames the partial file to its target, and returns that; `None` for standard output.
    ///
    /// # Errors
    /// It cannot be renamed, or the target has been made in the meantime.
    pub fn publish(self, replaces: bool) -> Result<Option<PathBuf>, Error> {
        let Some(PartFile { file, path, target }) = self.file else {
            io::stdout().flush()?;
            return Ok(None);
        };
        file.sync_all().with_context(|| format!("cannot write {}", path.display()))?;
        if !replaces && target.symlink_metadata().is_ok() {
            return Err(Error::Local(anyhow::anyhow!(
                "{} was made in the meantime; the download is complete in {}",
                target.display(),
                path.display()
            )));
        }
        std::fs::rename(&path, &target).with_context(|| format!("cannot write {}", target.display()))?;
        Ok(Some(target))
    }
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// It cannot be read.
pub fn sha256_of(path: &Path) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if read == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}
