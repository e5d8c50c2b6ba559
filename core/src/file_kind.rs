//! Regular files, told from everything else that a path can lead to.

use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;

/// What a path leads to that is no regular file, such as "a pipe"; `None` for a regular file.
#[must_use]
pub fn irregular(file_type: FileType) -> Option<&'static str> {
    let kinds: [(fn(&FileType) -> bool, _); 6] = [
        (FileType::is_dir, "a directory"),
        (FileType::is_fifo, "a pipe"),
        (FileType::is_socket, "a socket"),
        (FileType::is_char_device, "a device"),
        (FileType::is_block_device, "a device"),
        (FileType::is_symlink, "a broken link"),
    ];
    let kind = kinds.into_iter().find(|(is_it, _)| is_it(&file_type));
    kind.map(|(_, name)| name).or_else(|| (!file_type.is_file()).then_some("of an unknown kind"))
}
