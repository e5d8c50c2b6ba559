//! Directories that have to be made before it is known whether anything will be in them.

use std::fs;
use std::path::{Path, PathBuf};

/// Removes, when it is dropped, a directory that was not there before and has nothing in it, and likewise those above.
#[derive(Debug)]
pub struct RemovedIfEmpty(Vec<PathBuf>);

impl RemovedIfEmpty {
    /// Comes before the directory is made.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        let is_missing = |path: &&Path| path.try_exists().is_ok_and(|exists| !exists);
        Self(directory.ancestors().take_while(is_missing).map(Path::to_owned).collect())
    }

    /// Leaves the directory, which another process uses.
    pub fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for RemovedIfEmpty {
    fn drop(&mut self) {
        // The kernel removes none that has something in it.
        let _ = self.0.iter().try_for_each(fs::remove_dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_and_stayed_empty_is_removed_and_nothing_else() {
        let above = tempfile::tempdir().unwrap();
        let [there, made, used] = ["there", "made", "used"].map(|name| above.path().join(name));
        fs::create_dir(&there).unwrap();
        for directory in [there.join("below/it"), made.join("below/it"), used.join("below/it")] {
            let _guard = RemovedIfEmpty::new(&directory);
            fs::create_dir_all(&directory).unwrap();
            if directory.starts_with(&used) {
                fs::write(used.join("file"), "").unwrap();
            }
        }
        let left = |path: &Path| fs::read_dir(path).map(Iterator::count).ok();
        assert_eq!((left(&there), left(&made), left(&used)), (Some(0), None, Some(1)));
        drop(RemovedIfEmpty::new(&there));
        assert!(there.exists(), "it was there before");
        let guard = RemovedIfEmpty::new(&made);
        fs::create_dir(&made).unwrap();
        guard.keep();
        assert!(made.exists(), "another process uses it");
    }
}
