//! The data sets that a worker has.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::dataset;

/// How long a fingerprint is good for at least, if nothing tells of a change. A wrong one costs a claim or its delay:
/// what an attempt trained on is looked at again when it fails.
const FRESH: Duration = Duration::from_secs(2);
/// A fingerprint that takes long to read, as over a network, is good for at least this multiple of that time.
const FRESH_FACTOR: u32 = 10;

/// The data sets in a directory, with the fingerprints that were read a moment ago: a worker asks for them before every
/// claim.
#[derive(Debug)]
pub(super) struct Datasets {
    directory: PathBuf,
    fresh: Duration,
    known: Mutex<BTreeMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    /// When its directory was changed last, which tells of files that come and go there.
    modified: Option<SystemTime>,
    until: Instant,
    fingerprint: String,
}

impl Datasets {
    pub(super) fn below(directory: PathBuf) -> Self {
        Self { directory, fresh: FRESH, known: Mutex::default() }
    }

    /// The data sets with their fingerprints. One that cannot be read is none that this worker has.
    pub(super) async fn fingerprints(self: &Arc<Self>) -> BTreeMap<String, String> {
        let datasets = self.clone();
        tokio::task::spawn_blocking(move || datasets.scan()).await.unwrap_or_default()
    }

    fn scan(&self) -> BTreeMap<String, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = BTreeMap::new();
        let names = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
            let Ok(path) = dataset::resolve(&self.directory, &name) else { continue };
            let Some(fingerprint) = self.fingerprint(known.remove(&name), &path) else { continue };
            found.insert(name, fingerprint);
        }
        let fingerprints = found.iter().map(|(name, known)| (name.clone(), known.fingerprint.clone())).collect();
        *known = found;
        fingerprints
    }

    fn fingerprint(&self, known: Option<Known>, path: &Path) -> Option<Known> {
        let modified = fs::metadata(path).and_then(|facts| facts.modified()).ok();
        let start = Instant::now();
        if let Some(known) = known.filter(|known| known.modified == modified && start < known.until) {
            return Some(known);
        }
        let fingerprint = dataset::fingerprint(path).ok()?;
        let until = Instant::now() + self.fresh.max(start.elapsed() * FRESH_FACTOR);
        Some(Known { modified, until, fingerprint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn fingerprints_are_kept_for_a_while_unless_the_directory_tells_of_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        write(&one.join("train/data.bin"), "1");
        write(&other.join("train.bin"), "1");
        // Longer ago than the file system's clock is coarse.
        let past = SystemTime::now() - Duration::from_secs(60);
        fs::File::open(&one).unwrap().set_modified(past).unwrap();
        let kept = Datasets { fresh: Duration::from_secs(3600), ..Datasets::below(dir.path().to_owned()) };
        let first = kept.scan();
        assert_eq!(first.keys().collect::<Vec<_>>(), ["one", "other"]);
        write(&one.join("train/data.bin"), "12");
        assert_eq!(kept.scan(), first);
        write(&one.join("more.bin"), "1");
        let changed = kept.scan();
        assert_ne!(changed["one"], first["one"]);
        assert_eq!(changed["other"], first["other"]);
        fs::remove_dir_all(&other).unwrap();
        assert_eq!(kept.scan().keys().collect::<Vec<_>>(), ["one"]);
        let outdated = Datasets { fresh: Duration::ZERO, ..Datasets::below(dir.path().to_owned()) };
        let first = outdated.scan();
        outdated.known.lock().unwrap().values_mut().for_each(|known| known.until = Instant::now());
        write(&one.join("train/data.bin"), "123");
        assert_ne!(outdated.scan(), first);
    }
}
