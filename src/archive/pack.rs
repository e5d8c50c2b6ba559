//! Packs a directory as a tar that depends on its files alone, so that the SHA-256 of the tar identifies them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use ::tar::{Builder, EntryType, Header};

/// Writes the files of a directory as a tar: sorted by name, without times, owners and permissions. Only empty
/// directories have entries of their own.
///
/// # Errors
/// A file cannot be read, the tar cannot be written, or something is neither a file nor a directory.
pub fn pack(directory: &Path, to: impl Write) -> io::Result<()> {
    let mut tar = Builder::new(to);
    add(directory, Path::new(""), &mut tar)?;
    tar.into_inner()?.flush()
}

fn add(root: &Path, below: &Path, tar: &mut Builder<impl Write>) -> io::Result<()> {
    let mut names =
        fs::read_dir(root.join(below))?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    if names.is_empty() && !below.as_os_str().is_empty() {
        return tar.append_data(&mut header(EntryType::Directory, 0), below, io::empty());
    }
    for name in names {
        let relative = below.join(&name);
        let path = root.join(&relative);
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            add(root, &relative, tar)?;
        } else if kind.is_file() {
            let file = File::open(&path)?;
            let size = file.metadata()?.len();
            tar.append_data(&mut header(EntryType::Regular, size), &relative, file)?;
        } else {
            return Err(io::Error::other(format!("{} is neither a file nor a directory", path.display())));
        }
    }
    Ok(())
}

pub(super) fn header(entry_type: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(entry_type);
    header.set_size(size);
    header.set_mode(if entry_type == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}
