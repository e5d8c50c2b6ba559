//! The user that PostgreSQL runs as: it refuses root.
//!
//! Whoever is that user can read the database's files and is let in by its socket, so root gives each cluster a user of
//! its own, with a number that no other program has and without a name. `nobody`, which many programs run as, only runs
//! initdb, in a directory that is closed to its other processes.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::process::{Gid, Uid};

use crate::process;

/// A user with a name on every system, which initdb asks for.
const NOBODY: u32 = 65534;
/// Users of clusters. systemd assigns these numbers to nothing, and the default mappings of containers include them.
const OF_CLUSTERS: RangeInclusive<u32> = 60578..=61183;

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
    /// The user that the cluster belongs to, if there is one; else this process's user, or for root a user that has
    /// nothing else. Clusters of earlier versions may belong to `nobody`: they get a user of their own too, see
    /// [`take`](Self::take).
    pub(super) fn choose(cluster: &Path, bin_dir: &Path) -> anyhow::Result<Self> {
        let own = rustix::process::geteuid().as_raw();
        let existing = match fs::metadata(cluster) {
            Ok(metadata) => Some((metadata.uid(), metadata.gid())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", cluster.display())),
        };
        match existing {
            _ if own == 0 => {
                let kept = existing.filter(|(uid, _)| ![0, NOBODY].contains(uid));
                let (uid, gid) = match kept {
                    Some(owner) => owner,
                    None => unused_user().map(|user| (user, user))?,
                };
                Ok(Self::other(uid, gid, &[cluster, bin_dir]))
            }
            Some((owner, _)) if owner != own => bail!(
                "the database in {} belongs to user {owner}, this is user {own}: start as the user that created it \
                 (root, if that was root), or hand it over with chown -R",
                cluster.display()
            ),
            _ => Ok(Self::Own),
        }
    }

    /// Who runs initdb in `directory`: a user with a name.
    pub(super) fn initializer(self, directory: &Path, bin_dir: &Path) -> Self {
        match self {
            Self::Own => Self::Own,
            Self::Other { .. } => Self::other(NOBODY, NOBODY, &[directory, bin_dir]),
        }
    }

    fn other(uid: u32, gid: u32, paths: &[&Path]) -> Self {
        let reachable = paths.iter().all(|path| is_reachable(path, uid, gid));
        Self::Other { uid, gid, reads_everything: !reachable }
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

    /// Gives a directory and everything in it to the account, unless it has it already. The directory itself comes
    /// last, so that what was interrupted is done again. Returns whether anything changed.
    pub(super) fn take(self, path: &Path) -> anyhow::Result<bool> {
        let Self::Other { uid, gid, .. } = self else { return Ok(false) };
        let owner = fs::metadata(path)?;
        if (owner.uid(), owner.gid()) == (uid, gid) {
            return Ok(false);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty());
        let given = directory.and_then(|directory| give(&directory, Uid::from_raw(uid), Gid::from_raw(gid)));
        given.with_context(|| format!("cannot give {} to user {uid}", path.display()))?;
        Ok(true)
    }
}

/// Changes the owner of a directory and of all that is in it. Works on open directories and follows no link, because
/// processes of the former owner may move things meanwhile.
fn give(directory: &OwnedFd, uid: Uid, gid: Gid) -> rustix::io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(below) => give(&below, uid, gid)?,
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Err(error) => return Err(error),
        }
    }
    rustix::fs::fchown(directory, Some(uid), Some(gid))
}

/// A number for the user of a new cluster: a random one, so that two clusters on a machine have different ones.
fn unused_user() -> anyhow::Result<u32> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named: Vec<u32> = users.lines().filter_map(|line| line.split(':').nth(2)?.parse().ok()).collect();
    let free: Vec<u32> = OF_CLUSTERS.filter(|user| !named.contains(user)).collect();
    anyhow::ensure!(!free.is_empty(), "every user from 60578 to 61183 exists: start as a user other than root");
    let mut bits = [0; 8];
    getrandom::fill(&mut bits).map_err(|error| anyhow::anyhow!("cannot get random numbers: {error}"))?;
    let chosen = usize::from_ne_bytes(bits) % free.len();
    Ok(free[chosen])
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
