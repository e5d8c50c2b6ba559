//! Regular files, told from everything else that a path can lead to, and from each other.

use std::fs::{self, FileType};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// What a path leads to that is no regular file, such as "a pipe"; `None` for a regular file.
#[must_use]
pub fn irregular(file_type: FileType) -> Option<&'static str> {
    let kinds = [
        (file_type.is_file(), None),
        (file_type.is_dir(), Some("a directory")),
        (file_type.is_fifo(), Some("a pipe")),
        (file_type.is_socket(), Some("a socket")),
        (file_type.is_char_device() || file_type.is_block_device(), Some("a device")),
        (file_type.is_symlink(), Some("a broken link")),
    ];
    kinds.into_iter().find(|(is_it, _)| *is_it).map_or(Some("of an unknown kind"), |(_, name)| name)
}

/// Whether two paths lead to one file, through links or not.
#[must_use]
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|facts| (facts.dev(), facts.ino()));
    identity(one).is_some_and(|found| identity(other) == Some(found))
}
