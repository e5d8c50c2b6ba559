//! The data sets in a server's directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Dataset, DatasetOptions, DatasetSummary, Error};
use crate::text::{is_blank, quoted};

/// Most characters of a data set's name.
pub const LONGEST_NAME: usize = 100;

/// The names of data sets and splits that a job can write, as a regular expression.
pub const NAME_PATTERN: &str = r"^[^\x00-\x1f\x7f-\x9f/\\. ][^\x00-\x1f\x7f-\x9f/\\]*$";

/// What a server's directory holds.
#[derive(Debug, Default)]
pub struct Discovered {
    /// Sorted by name.
    pub datasets: Vec<DatasetSummary>,
    /// Sorted by name.
    pub unusable: Vec<UnusableDirectory>,
}

/// A directory that jobs cannot use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnusableDirectory {
    /// The directory's name.
    pub name: String,
    /// Why it cannot be used, and what to do.
    pub reason: String,
}

/// Reads every subdirectory of `base` that is not hidden, and links that lead to nothing.
///
/// # Errors
/// `base` cannot be listed.
pub fn discover(base: &Path, follow_links: bool) -> io::Result<Discovered> {
    let mut names = Vec::new();
    for entry in fs::read_dir(base)? {
        let name = entry?.file_name();
        // A link that leads nowhere or round in a circle may have been meant as a data set.
        let may_be = |path: &Path| path.is_dir() || (path.is_symlink() && fs::metadata(path).is_err());
        if !name.as_encoded_bytes().starts_with(b".") && may_be(&base.join(&name)) {
            names.push(name);
        }
    }
    names.sort();
    let options = DatasetOptions { follow_links, ..DatasetOptions::default() };
    let mut found = Discovered::default();
    for name in names {
        let path = base.join(&name);
        let result = match name.to_str() {
            _ if !path.is_dir() => Err(unfollowed(&path)),
            Some(name) if is_name(name) => Dataset::open(&path, &options)
                .and_then(|dataset| dataset.usable_summary())
                .map_err(|error| error.relative_to(base)),
            _ => Err(format!("its name cannot be written in a job: rename it ({NAME_RULE})")),
        };
        match result {
            Ok(summary) => found.datasets.push(summary),
            Err(reason) => {
                let name = name.to_string_lossy().into_owned();
                tracing::debug!(name, reason, "not a data set");
                found.unusable.push(UnusableDirectory { name, reason });
            }
        }
    }
    Ok(found)
}

/// Why a link leads to no directory, and what to do.
fn unfollowed(link: &Path) -> String {
    let why = fs::metadata(link).err().map_or_else(String::new, |error| format!(" ({error})"));
    format!("it is a broken link{why}: remove it, or restore what it leads to")
}

/// The directory of a data set in `base`.
///
/// # Errors
/// The name could be a path, or there is no such directory.
pub fn resolve(base: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = base.join(name);
    if !is_name(name) {
        let message = format!("{name} is not a valid name of a data set: it {NAME_RULE}", name = quoted(name));
        return Err(Error::Invalid { path: base.to_owned(), message });
    }
    if path.is_dir() { Ok(path) } else { Err(Error::Missing { path }) }
}

/// What [`is_name`] accepts, as the predicate of a sentence.
pub const NAME_RULE: &str =
    "has at most 100 characters, no slash, backslash or control character, and no dot or space at its start";

/// Whether a job can give a data set or a split this name: it must be an entry of a directory, neither hidden nor a
/// path.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_plain = |character: char| !character.is_control() && !matches!(character, '/' | '\\');
    !is_blank(name)
        && name.chars().count() <= LONGEST_NAME
        && !name.starts_with(['.', ' '])
        && name.chars().all(is_plain)
}
