//! The server's log file.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::space;

/// A log that has grown past this many bytes is renamed at the next start.
const LOG_LIMIT: u64 = 16 << 20;

/// The log, and where this start's part of it begins.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
    from: u64,
}

impl Log {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
            fs::rename(path, path.with_extension("log.old"))?;
        }
        let open = File::options().create(true).append(true).mode(0o600).open(path);
        let file = open.with_context(|| format!("cannot open {}", path.display()))?;
        let from = file.metadata()?.len();
        Ok(Self { file, path: path.to_owned(), from })
    }

    /// Redirects a command's output to the log.
    pub(super) fn receive(&self, command: &mut Command) -> io::Result<()> {
        command.stdout(self.file.try_clone()?).stderr(self.file.try_clone()?);
        Ok(())
    }

    /// The last lines since this start with the path of the file, or that there are none, and whether the disk is full:
    /// the end of a failure's message.
    pub(super) fn told(&self) -> String {
        let lines = self.tail();
        let disk = self.path.parent().map(|dir| space::shortage(dir, &lines)).unwrap_or_default();
        let path = self.path.display();
        match lines.as_str() {
            "" => format!(" and wrote nothing to {path}{disk}"),
            _ => format!(":\n{lines}\n(from {path}){disk}"),
        }
    }

    fn tail(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.from.max(length.saturating_sub(4096))))?;
            let mut bytes = Vec::new();
            file.take(4096).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(20).collect();
        let lines: Vec<_> = lines.into_iter().rev().collect();
        lines.join("\n")
    }
}
