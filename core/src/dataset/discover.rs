//! The data sets in a server's directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Dataset, DatasetOptions, DatasetSummary, Error};

/// All data sets that are subdirectories of `base`, sorted by name. Others, and damaged ones, are skipped with a
/// warning.
///
/// # Errors
/// `base` cannot be listed.
pub fn discover(base: &Path) -> io::Result<Vec<DatasetSummary>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(base)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let path = base.join(&name);
        if !is_plain(&name) || !path.is_dir() {
            continue;
        }
        match Dataset::open(&path, &DatasetOptions::default()).and_then(|dataset| dataset.summary()) {
            Ok(summary) => found.push(summary),
            Err(error) => tracing::warn!(%error, "skipping a directory that is not a valid data set"),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The directory of a data set in `base`.
///
/// # Errors
/// The name is not plain (and could be a path), or there is no such directory.
pub fn resolve(base: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = base.join(name);
    if !is_plain(name) {
        let message = format!("{name:?} is not a valid name of a data set: use letters, digits, '-', '_' and '.'");
        return Err(Error::Invalid { path: base.to_owned(), message });
    }
    if path.is_dir() { Ok(path) } else { Err(Error::Missing { path }) }
}

fn is_plain(name: &str) -> bool {
    let plain = |character: char| character.is_alphanumeric() || "-_.+ ".contains(character);
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.chars().all(plain)
}
