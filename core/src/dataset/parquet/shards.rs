//! Which files belong to which split.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::links::{self, Links};
use super::super::{Error, splits};

/// The shards of each split, in order of their names: those in the directory itself, or else those in its
/// subdirectories, which are named like the splits.
pub(super) fn by_split(root: &Path, links: &Links) -> Result<BTreeMap<String, Vec<PathBuf>>, Error> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let entries = links::entries(root)?;
    for file in links.files(&entries, is_parquet)? {
        if !split(&file.name).is_empty() {
            found.entry(split(&file.name).to_owned()).or_default().push(file.path.clone());
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    for directory in links.directories(&entries)? {
        // A subdirectory that is passed over may hold anything.
        let entries = links::entries(&directory.path)?;
        let files = links.files(&entries, is_parquet)?;
        // A subdirectory of files that are themselves named like splits is a data set of its own.
        let is_dataset =
            files.iter().any(|file| shard_number(&file.name).is_some() || splits::is_usual(split(&file.name)));
        if !files.is_empty() && (splits::is_usual(&directory.name) || !is_dataset) {
            found.insert(directory.name.clone(), files.into_iter().map(|file| file.path.clone()).collect());
        }
    }
    Ok(found)
}

pub(in super::super) fn is_parquet(name: &str) -> bool {
    name.ends_with(".parquet")
}

/// The split in the name of a file.
fn split(name: &str) -> &str {
    stem(name).split('-').next().unwrap_or_default()
}

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Checks that a split has each of its numbered shards once, and no others: files of two generations, as a push that
/// replaced the shards leaves in an old clone, hold the same images.
pub(in super::super) fn check_numbers(root: &Path, split: &str, paths: &[PathBuf]) -> Result<(), Error> {
    let names: Vec<&str> = paths.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    let numbered: Vec<(&str, (u64, u64))> =
        names.iter().filter_map(|name| Some((*name, shard_number(name)?))).collect();
    let Some(&(first, (_, total))) = numbered.first() else { return Ok(()) };
    let contradiction = |one: &str, other: &str| {
        let message = format!(
            "the {split} split has shards of two generations, {one} and {other}, which usually hold the same images: \
             remove those that are out of date"
        );
        Err(Error::invalid(root, message))
    };
    let other = numbered.iter().find(|(_, (_, other))| *other != total).map(|(name, _)| *name);
    let unnumbered = || names.iter().find(|name| shard_number(name).is_none()).copied();
    if let Some(other) = other.or_else(unnumbered) {
        return contradiction(first, other);
    }
    let mut by_number: BTreeMap<u64, &str> = BTreeMap::new();
    for (name, (number, _)) in numbered {
        if let Some(earlier) = by_number.insert(number, name) {
            return contradiction(earlier, name);
        }
    }
    match (0..total).find(|number| !by_number.contains_key(number)) {
        None => Ok(()),
        Some(missing) => {
            let message = format!("shard {missing} of {total} of the {split} split is missing: add it");
            Err(Error::invalid(root, message))
        }
    }
}

/// Parses `train-00002-of-00003.parquet`, with or without a suffix such as a hash behind the numbers, into (2, 3).
fn shard_number(name: &str) -> Option<(u64, u64)> {
    let (_, rest) = stem(name).split_once('-')?;
    let (number, rest) = rest.split_once("-of-")?;
    let total = rest.split('-').next()?;
    // A total beyond what could be listed is not a number of shards.
    Some((number.parse().ok()?, total.parse().ok().filter(|&total| total <= 1_000_000)?))
}
