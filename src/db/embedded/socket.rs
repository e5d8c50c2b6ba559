//! The directory of the server's Unix socket.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::PORT;
use super::account::Account;
use super::cluster::create_private;

/// A directory that only the server's user, this user and root may enter.
#[derive(Debug)]
pub(super) struct SocketDir {
    pub(super) path: PathBuf,
    /// Removes the directory, where it is a temporary one.
    _temporary: Option<tempfile::TempDir>,
}

impl SocketDir {
    /// `socket` below the data directory, or a temporary directory where that path is too long for the kernel.
    pub(super) fn create(data_dir: &Path, account: &Account) -> anyhow::Result<Self> {
        let path = data_dir.join("socket");
        let place = if fits(&path) {
            create_private(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
            Self { path, _temporary: None }
        } else {
            let above = Some(std::env::temp_dir()).filter(|dir| fits(&dir.join("distillery-xxxxxx")));
            let above = above.unwrap_or_else(|| PathBuf::from("/tmp"));
            let private = fs::Permissions::from_mode(0o700);
            let dir = tempfile::Builder::new().prefix("distillery-").permissions(private).tempdir_in(above);
            let dir = dir.context("cannot create a directory for the database's socket")?;
            Self { path: dir.path().to_owned(), _temporary: Some(dir) }
        };
        account.hand_over(&place.path)?;
        Ok(place)
    }
}

/// Whether the path of a socket in `dir` is short enough: the kernel takes 107 bytes.
fn fits(dir: &Path) -> bool {
    dir.join(format!(".s.PGSQL.{PORT}")).as_os_str().as_bytes().len() <= 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_must_fit() {
        assert!(fits(Path::new("/srv/distillery/data/socket")));
        assert!(!fits(&Path::new("/").join("x".repeat(100))));
    }
}
