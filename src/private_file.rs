//! Files with secrets, which only their owner may read.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The permissions of everybody but the owner.
const OTHERS: u32 = 0o077;

/// The text of a file; `None` if there is no such file.
///
/// # Errors
/// The file cannot be read, is not a regular one, has more than `longest` bytes, or can be read or changed by others;
/// then the text has the command that corrects that.
pub fn read(path: &Path, longest: u64) -> Result<Option<String>, String> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| format!("cannot read {shown}: {error}");
    match std::fs::metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(unreadable(error)),
        // Opening a pipe would wait for its writer.
        Ok(facts) if !facts.is_file() => return Err(format!("{shown} is not a regular file")),
        Ok(_) => {}
    }
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(format!(
            "other users may read or change the secret in {shown}, whose mode is {mode:04o}: run `chmod 600 {}`. If \
             they may have read it, replace the secret",
            shell_word(&path.to_string_lossy())
        ));
    }
    let mut text = String::new();
    file.take(longest + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > longest {
        return Err(format!("{shown} has more than {longest} bytes"));
    }
    Ok(Some(text))
}

/// Quotes a text for a shell.
#[must_use]
pub fn shell_word(text: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(is_safe) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_a_quoted_word_as_it_is() {
        for (text, word) in [
            ("/home/ada/token", "/home/ada/token"),
            ("/home/ada/my token", "'/home/ada/my token'"),
            ("it's", r"'it'\''s'"),
            ("$(reboot)", "'$(reboot)'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }
}
