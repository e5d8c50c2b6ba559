//! Finds out in which layout a directory is.

use std::path::Path;

use super::links::{self, Links, count_by_extension};
use super::{DatasetOptions, Error, FormatReader, cifar, cifar_python, folder, idx, parquet, webdataset};

/// Subdirectories in which usual downloads and archives put the files.
const ROOTS: [&str; 8] = [
    "",
    "data",
    "cifar-10-batches-bin",
    "cifar-100-binary",
    "cifar-10-batches-py",
    "cifar-100-python",
    "raw",
    "MNIST/raw",
];
/// Most subdirectories that are searched for a data set.
const MOST_SEARCHED: usize = 20;
/// Entries that are named in a message.
const NAMED: usize = 5;

/// A layout that was found.
pub(super) struct Detected {
    pub layout: Box<dyn FormatReader>,
    /// Where it was found, if that is not obvious.
    pub search: Option<String>,
}

/// Recognises the layout of a directory, or that of its only subdirectory which has one.
pub(super) fn detect(path: &Path, options: &DatasetOptions) -> Result<Detected, Error> {
    let links = Links::new(path, options.follow_links)?;
    if let Some(layout) = at(path, options, &links)? {
        return Ok(Detected { layout, search: None });
    }
    let entries = links::entries(path)?;
    let directories = links.directories(&entries)?;
    let mut found = Vec::new();
    let mut fault = None;
    for directory in directories.iter().take(MOST_SEARCHED) {
        match at(&directory.path, options, &links) {
            Ok(Some(layout)) => found.push((directory.name.as_str(), layout)),
            Ok(None) => {}
            Err(error) => fault = fault.or(Some(error)),
        }
    }
    match (found.len(), fault) {
        (1, _) => {
            let (name, layout) = found.remove(0);
            let search = Some(format!("the data set is the subdirectory {name}"));
            Ok(Detected { layout, search })
        }
        // What was recognised, but is faulty, tells more than what the directory holds.
        (0, Some(fault)) => Err(fault),
        _ => {
            let names: Vec<&str> = found.into_iter().map(|(name, _)| name).collect();
            Err(Error::UnknownLayout { path: path.to_owned(), found: describe(&entries, &directories, &names) })
        }
    }
}

fn at(path: &Path, options: &DatasetOptions, links: &Links) -> Result<Option<Box<dyn FormatReader>>, Error> {
    let mut fault = None;
    for root in ROOTS {
        let root = if root.is_empty() { path.to_owned() } else { path.join(root) };
        if !root.is_dir() {
            continue;
        }
        // On the way there may be a link.
        links.target(&root)?;
        match parquet::detect(&root, options, links)? {
            Ok(layout) => return Ok(Some(layout)),
            Err(unusable) => fault = fault.or(unusable),
        }
        let binary = [cifar::detect(&root, links)?, cifar_python::detect(&root, links)?, idx::detect(&root, links)?];
        if let Some(layout) = binary.into_iter().flatten().next() {
            return Ok(Some(layout));
        }
    }
    // Tars last: they may be the archives of what lies beside them.
    let found = match folder::detect(path, options, links)? {
        Some(layout) => Some(layout),
        None => webdataset::detect(path, links)?,
    };
    match (found, fault) {
        (None, Some(fault)) => Err(fault),
        (layout, _) => Ok(layout),
    }
}

/// What a directory holds that is not recognised, and what to do about it.
fn describe(entries: &[links::DirectoryEntry], directories: &[&links::DirectoryEntry], candidates: &[&str]) -> String {
    let is_directory = |name: &str| directories.iter().any(|directory| directory.name == name);
    let files: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).filter(|name| !is_directory(name)).collect();
    let mut parts = Vec::new();
    if !directories.is_empty() {
        let names: Vec<&str> = directories.iter().map(|directory| directory.name.as_str()).collect();
        let noun = if names.len() == 1 { "the directory" } else { "the directories" };
        parts.push(format!("{noun} {}", first_of(&names)));
    }
    if !files.is_empty() {
        parts.push(count_by_extension(files.iter().copied()));
    }
    let holds = if parts.is_empty() { "nothing".to_owned() } else { parts.join(" and ") };
    let mut text = format!("it holds {holds}");
    if candidates.len() > 1 {
        let names = first_of(candidates);
        text.push_str(&format!("; each of {names} is a data set: move each to a directory of its own, or link to it"));
    }
    if let Some(advice) = files.iter().find_map(|name| advice(name)) {
        text.push_str("; ");
        text.push_str(advice);
    }
    text
}

fn first_of(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let first = names[..names.len() - more].join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}

/// What to do with a file of a kind that people try.
fn advice(name: &str) -> Option<&'static str> {
    match links::extension(name)?.as_str() {
        "cls" => Some(
            "images beside .cls files are an unpacked WebDataset: keep its tars as they are, and upload each with \
             ?split=train, or pack them as they are",
        ),
        "zip" | "tar" | "gz" | "tgz" | "xz" | "bz2" | "7z" | "rar" => Some("unpack the archive"),
        "arrow" => Some(".arrow files are what save_to_disk writes: write parquet with to_parquet instead"),
        "npz" | "npy" | "mat" | "h5" | "hdf5" | "tfrecord" | "lmdb" => Some("export the images as files or parquet"),
        _ => None,
    }
}
