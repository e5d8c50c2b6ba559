//! What tells copies of a data set on several machines apart, without reading their files.

use std::collections::BinaryHeap;
use std::fs;
use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{cifar, cifar_python, folder, idx, links, parquet, webdataset};

/// Levels of directories that are looked at: shards and binary files lie in the first or second, and the classes of a
/// folder data set in the second.
const LEVELS: u32 = 2;
/// Most entries that are looked at.
const MOST_ENTRIES: usize = 20_000;

/// A fingerprint of a data set: the first 32 hexadecimal digits of the SHA-256 of the names in the first two levels of
/// its directory and the sizes of the files among them. Files that no layout reads, such as notes, do not count;
/// directories do, since each may be a class.
///
/// It is the same for every copy and takes a few system calls, but does not notice an image that is added to a class.
///
/// # Errors
/// The directory cannot be read.
pub fn fingerprint(path: &Path) -> io::Result<String> {
    fingerprint_of(path, MOST_ENTRIES)
}

fn fingerprint_of(path: &Path, most: usize) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut left = most;
    add(path, LEVELS, &mut left, &mut hash)?;
    let mut digits = hex::encode(hash.finalize());
    digits.truncate(32);
    Ok(digits)
}

fn add(directory: &Path, levels: u32, left: &mut usize, hash: &mut Sha256) -> io::Result<()> {
    let mut count: u64 = 0;
    // The first names in sorted order, which the system does not keep to. No more are held than are looked at.
    let mut names = BinaryHeap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if counts(&entry)? {
            count += 1;
            names.push(entry.file_name());
        }
        if names.len() > *left {
            names.pop();
        }
    }
    hash.update(count.to_le_bytes());
    for name in names.into_sorted_vec() {
        if *left == 0 {
            return Ok(());
        }
        *left -= 1;
        let path = directory.join(&name);
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_encoded_bytes());
        // A link counts as what it points to.
        match fs::metadata(&path) {
            Ok(facts) if facts.is_dir() && levels > 1 => add(&path, levels - 1, left, hash)?,
            Ok(facts) if facts.is_dir() => hash.update(b"directory"),
            Ok(facts) => hash.update(facts.len().to_le_bytes()),
            Err(_) => hash.update(b"nothing"),
        }
    }
    Ok(())
}

/// Whether the entry may tell data sets apart.
fn counts(entry: &fs::DirEntry) -> io::Result<bool> {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    if links::is_passed_over(&name) {
        return Ok(false);
    }
    let layouts = [
        parquet::may_read,
        cifar::may_read,
        cifar_python::may_read,
        idx::may_read,
        folder::may_read,
        webdataset::may_read,
    ];
    if layouts.iter().any(|may_read| may_read(&name)) {
        return Ok(true);
    }
    let kind = entry.file_type()?;
    Ok(kind.is_dir() || (kind.is_symlink() && entry.path().is_dir()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(files: &[(&str, &str)]) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let fingerprint = fingerprint(dir.path()).unwrap();
        (dir, fingerprint)
    }

    #[test]
    fn copies_have_the_same_fingerprint_and_others_do_not() {
        let files = [("data/train.parquet", "12345"), ("data/test.parquet", "123"), ("data/dev.parquet", "x")];
        let (_one, original) = written(&files);
        let (copy, same) = written(&[files[2], files[1], files[0], (".cache/x", "y")]);
        assert_eq!(original, same);
        fs::create_dir(copy.path().join("empty")).unwrap();
        assert_ne!(fingerprint(copy.path()).unwrap(), original);
        for other in [&files[..2], &[files[0], ("data/test.parquet", "1234"), files[2]], &[]] {
            assert_ne!(written(other).1, original, "{other:?}");
        }
        let notes = [("README.md", "y"), ("data/notes.txt", "y"), ("__MACOSX/data/train.parquet", "y")];
        assert_eq!(written(&[files, notes].concat()).1, original, "nothing reads notes");
        let deep = [("train/cat/1.png", "1"), ("train/dog/1.png", "1")];
        let (_deep, classes) = written(&deep);
        assert_eq!(written(&[deep[0], deep[1], ("train/dog/2.png", "22")]).1, classes, "images are not looked at");
        assert_ne!(written(&[deep[0], ("train/cow/1.png", "1")]).1, classes);
    }

    #[test]
    fn of_many_entries_the_first_are_looked_at_and_all_are_counted() {
        let files: Vec<(String, &str)> = (0..50).map(|number| (format!("{number:02}.png"), "1")).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let of = |files: &[(&str, &str)]| fingerprint_of(written(files).0.path(), 20).unwrap();
        let original = of(&files);
        let reversed: Vec<_> = files.iter().rev().copied().collect();
        assert_eq!(of(&reversed), original);
        assert_ne!(of(&files[..49]), original);
        let changed = |place: usize| {
            let mut files = files.clone();
            files[place].1 = "12";
            of(&files)
        };
        assert_ne!(changed(19), original);
        assert_eq!(changed(20), original);
    }
}
