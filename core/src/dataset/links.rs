//! Entries of directories, and which symbolic links are followed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::Error;

/// Directories that archivers and file managers leave behind.
const DEBRIS: [&str; 2] = ["__MACOSX", "$RECYCLE.BIN"];
/// Extensions that a message counts.
const NAMED: usize = 5;

/// Which links are followed: all, or those that stay within a directory.
#[derive(Debug, Clone)]
pub(super) struct Links {
    /// Canonical.
    boundary: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub(super) struct DirectoryEntry {
    /// With replacement characters if it is not valid UTF-8.
    pub name: String,
    pub path: PathBuf,
    file_type: fs::FileType,
    is_utf8: bool,
}

/// What an entry is once links are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Directory,
    /// A directory behind a link: where it is.
    LinkedDirectory(PathBuf),
    Other,
}

impl EntryKind {
    pub(super) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory | Self::LinkedDirectory(_))
    }
}

impl Links {
    /// Follows links within `root`, or wherever they lead.
    pub(super) fn new(root: &Path, follow_all: bool) -> Result<Self, Error> {
        let boundary = fs::canonicalize(root).map_err(Error::io(root))?;
        Ok(Self { boundary: (!follow_all).then_some(boundary) })
    }

    /// Where a link leads.
    pub(super) fn target(&self, link: &Path) -> Result<PathBuf, Error> {
        let target = fs::canonicalize(link)
            .map_err(|_| Error::invalid(link, "is a broken link: remove it, or restore what it leads to"))?;
        if self.boundary.as_ref().is_some_and(|boundary| !target.starts_with(boundary)) {
            let message = "is a link that leads out of the data set's directory: replace it by a copy, or start server \
                           and workers with --follow-links";
            return Err(Error::invalid(link, message));
        }
        Ok(target)
    }

    /// What an entry is.
    ///
    /// # Errors
    /// It is a link that is broken or not followed, or its name is not valid UTF-8.
    pub(super) fn kind(&self, entry: &DirectoryEntry) -> Result<EntryKind, Error> {
        if !entry.is_utf8 {
            return Err(Error::invalid(&entry.path, "has a name that is not valid UTF-8: rename it"));
        }
        let of = |file_type: fs::FileType, directory: EntryKind| {
            if file_type.is_dir() {
                directory
            } else if file_type.is_file() {
                EntryKind::File
            } else {
                EntryKind::Other
            }
        };
        if !entry.file_type.is_symlink() {
            return Ok(of(entry.file_type, EntryKind::Directory));
        }
        let target = self.target(&entry.path)?;
        let file_type = fs::metadata(&target).map_err(Error::io(&entry.path))?.file_type();
        Ok(of(file_type, EntryKind::LinkedDirectory(target)))
    }

    /// The subdirectories among the entries.
    pub(super) fn directories<'a>(&self, entries: &'a [DirectoryEntry]) -> Result<Vec<&'a DirectoryEntry>, Error> {
        let mut found = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.file_type.is_file()) {
            // A link to a file that nobody asks for may lead anywhere.
            let is_file = entry.file_type.is_symlink() && entry.path.is_file();
            if !is_file && self.kind(entry)?.is_directory() {
                found.push(entry);
            }
        }
        Ok(found)
    }

    /// The files among the entries whose names are as wanted.
    pub(super) fn files<'a>(
        &self,
        entries: &'a [DirectoryEntry],
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<&'a DirectoryEntry>, Error> {
        let mut found = Vec::new();
        for entry in entries.iter().filter(|entry| is_wanted(&entry.name)) {
            if self.kind(entry)? == EntryKind::File {
                found.push(entry);
            }
        }
        Ok(found)
    }
}

/// Whether data sets do not read an entry of that name: it is hidden, or what archivers and file managers leave.
#[must_use]
pub fn is_passed_over(name: &str) -> bool {
    name.starts_with('.') || DEBRIS.contains(&name)
}

/// The entries of a directory, sorted by name, without hidden ones and debris.
pub(super) fn entries(directory: &Path) -> Result<Vec<DirectoryEntry>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(Error::io(directory))? {
        let entry = entry.map_err(Error::io(directory))?;
        let raw = entry.file_name();
        let name = raw.to_string_lossy().into_owned();
        if is_passed_over(&name) {
            continue;
        }
        let path = entry.path();
        let file_type = entry.file_type().map_err(Error::io(&path))?;
        found.push(DirectoryEntry { name, path, file_type, is_utf8: raw.to_str().is_some() });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The part of a name behind its last dot, in lower case.
pub(super) fn extension(name: &str) -> Option<String> {
    let (stem, extension) = name.rsplit_once('.')?;
    (!stem.is_empty()).then(|| extension.to_ascii_lowercase())
}

/// As in `12 files (.png 10, .txt 2)`.
pub(super) fn count_by_extension<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        let extension = extension(name).map_or_else(|| "without extension".to_owned(), |end| format!(".{end}"));
        *counts.entry(extension).or_default() += 1;
    }
    let total: usize = counts.values().sum();
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let more = if counts.len() > NAMED { ", …" } else { "" };
    let named: Vec<String> = counts.iter().take(NAMED).map(|(end, count)| format!("{end} {count}")).collect();
    format!("{total} {} ({}{more})", if total == 1 { "file" } else { "files" }, named.join(", "))
}
