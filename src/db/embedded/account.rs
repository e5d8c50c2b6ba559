//! The user that PostgreSQL runs as: it refuses root.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::process;

/// The user that PostgreSQL runs as when this process is root: `nobody` by custom.
const UNPRIVILEGED: u32 = 65534;

/// Who PostgreSQL runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Account {
    /// The user of this process.
    Own,
    /// Another user, without any capability but, where it could not reach its files otherwise, that of reading past
    /// directories that are closed to it.
    Other { uid: u32, gid: u32, reads_everything: bool },
}

impl Account {
    /// The user that the cluster belongs to, if there is one; else this process's user, or `nobody` for root.
    pub(super) fn choose(cluster: &Path, bin_dir: &Path) -> anyhow::Result<Self> {
        let own = rustix::process::geteuid().as_raw();
        let existing = match fs::metadata(cluster) {
            Ok(metadata) => Some((metadata.uid(), metadata.gid())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", cluster.display())),
        };
        match existing {
            _ if own == 0 => {
                let (uid, gid) = existing.filter(|&(uid, _)| uid != 0).unwrap_or((UNPRIVILEGED, UNPRIVILEGED));
                let reachable = [cluster, bin_dir].iter().all(|path| is_reachable(path, uid, gid));
                Ok(Self::Other { uid, gid, reads_everything: !reachable })
            }
            Some((owner, _)) if owner != own => bail!(
                "the database in {} belongs to user {owner}, this is user {own}: start as the user that created it \
                 (root, if that was root), or hand it over with chown -R",
                cluster.display()
            ),
            _ => Ok(Self::Own),
        }
    }

    /// A command that runs `program` as this user, and that the kernel signals when this process dies.
    pub(super) fn command(self, death_signal: &str, program: &Path) -> Command {
        let mut command = match self {
            Self::Own => process::command(death_signal, program),
            Self::Other { uid, gid, reads_everything } => {
                let mut options = vec![format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()];
                if reads_everything {
                    // PostgreSQL asks access(2), which knows the capabilities of a real user only without the fix-up.
                    let set = "-all,+dac_read_search";
                    options.extend(["inh-caps", "ambient-caps", "bounding-set"].map(|name| format!("--{name}={set}")));
                    options.push("--securebits=+no_setuid_fixup".into());
                } else {
                    options.extend(["--inh-caps=-all".into(), "--no-new-privs".into()]);
                }
                options.extend(["--pdeathsig".into(), death_signal.into()]);
                process::privileged_command(options, program)
            }
        };
        // Nothing of the user's environment changes how the database sorts, or what it may read.
        command.env_clear().env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin")));
        command
    }

    /// Gives a file or directory to the account.
    pub(super) fn hand_over(self, path: &Path) -> anyhow::Result<()> {
        if let Self::Other { uid, gid, .. } = self {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .with_context(|| format!("cannot give {} to user {uid}", path.display()))?;
        }
        Ok(())
    }
}

/// Whether a user gets through every directory above `path`.
fn is_reachable(path: &Path, uid: u32, gid: u32) -> bool {
    path.ancestors().skip(1).all(|dir| {
        fs::metadata(dir).is_ok_and(|metadata| {
            let may_enter = match (metadata.uid() == uid, metadata.gid() == gid) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            metadata.mode() & may_enter != 0
        })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_closed_to_a_user_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let owner = fs::metadata(dir.path()).unwrap().uid();
        let inside = dir.path().join("cluster");
        assert!(is_reachable(&inside, owner, u32::MAX));
        assert!(!is_reachable(&inside, owner + 1, u32::MAX));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o701)).unwrap();
        assert!(is_reachable(&inside, owner + 1, u32::MAX));
    }
}
