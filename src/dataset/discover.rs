//! The data sets below a server's directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Dataset, Error, Options, Summary};

/// Every data set directly below `base`, by name; what is none, or is damaged, is passed over with a warning.
///
/// # Errors
/// `base` cannot be listed.
pub fn discover(base: &Path) -> io::Result<Vec<Summary>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(base)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let path = base.join(&name);
        if !is_plain(&name) || !path.is_dir() {
            continue;
        }
        match Dataset::open(&path, &Options::default()).and_then(|dataset| dataset.summary()) {
            Ok(summary) => found.push(summary),
            Err(error) => tracing::warn!(%error, "not offered as a data set"),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The directory of a data set below `base`. A name is never a path.
///
/// # Errors
/// The name is not a plain one, or there is no such directory.
pub fn resolve(base: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = base.join(name);
    if !is_plain(name) {
        let message = format!("{name:?} is not the name of a data set: use letters, digits, '-', '_' and '.'");
        return Err(Error::Invalid { path: base.to_owned(), message });
    }
    if path.is_dir() { Ok(path) } else { Err(Error::Missing { path }) }
}

fn is_plain(name: &str) -> bool {
    let plain = |character: char| character.is_alphanumeric() || "-_.+ ".contains(character);
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.chars().all(plain)
}
