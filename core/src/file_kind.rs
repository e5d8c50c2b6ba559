//! Regular files, told from everything else that a path can lead to.

use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;

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
