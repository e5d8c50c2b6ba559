//! A machine's copies of uploaded data sets.

use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};

use distillery::archive;
use distillery::artifacts::{self, Store};
use distillery::dataset_cache::{CopyProgress, DatasetCache, Error};
use distillery::db::datasets::{self, StoredDataset};
use sha2::{Digest, Sha256};

use crate::support::PATIENCE;
use crate::support::worker::files_below;

struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("storage").to_str().unwrap()).unwrap();
        Self { dir, store }
    }

    fn directory(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// A cache with room for this number of bytes.
    fn cache(&self, limit: u64) -> DatasetCache {
        DatasetCache::new(self.directory(), limit)
    }

    /// Stores a data set of one file of 1000 bytes.
    async fn store(&self, name: &str) -> StoredDataset {
        let files = self.dir.path().join(format!("unpacked-{name}"));
        std::fs::create_dir_all(files.join("train")).unwrap();
        std::fs::create_dir_all(files.join("empty")).unwrap();
        std::fs::write(files.join("train/data.bin"), name.repeat(1000 / name.len())).unwrap();
        let mut tar = Vec::new();
        archive::pack(&files, &mut tar).unwrap();
        let sha256 = hex::encode(Sha256::digest(&tar));
        let path = self.dir.path().join("tar");
        std::fs::File::create(&path).unwrap().write_all(&tar).unwrap();
        let key = format!("datasets/{sha256}-1");
        self.store.put_file(&key, &path).await.unwrap();
        StoredDataset {
            id: datasets::id_of(name, &sha256),
            name: name.to_owned(),
            key,
            sha256,
            size_bytes: tar.len() as i64,
            unpacked_bytes: 1000,
            fingerprint: distillery::dataset::fingerprint(&files).unwrap(),
        }
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory()).unwrap().map(|entry| entry.unwrap().path());
        let names = entries
            .filter(|path| path.is_dir())
            .map(|path| path.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().to_owned());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

fn nothing(_: CopyProgress) {}

#[tokio::test]
async fn a_copy_has_the_files_that_were_packed_and_is_fetched_once() {
    let place = Place::new();
    let (cache, stored) = (place.cache(5000), place.store("pets!").await);
    assert!(cache.find(&stored).unwrap().is_none());
    let fetched = Cell::new(0);
    let count = |progress| {
        if let CopyProgress::Fetched(bytes) = progress {
            fetched.set(bytes);
        }
    };
    let copy = cache.get(&place.store, &stored, count).await.unwrap();
    assert_eq!(fetched.get(), stored.size_bytes.unsigned_abs());
    assert_eq!(copy.path().file_name().unwrap(), "pets!");
    assert_eq!(std::fs::read_to_string(copy.path().join("train/data.bin")).unwrap(), "pets!".repeat(200));
    assert!(copy.path().join("empty").is_dir());
    place.store.delete(&stored.key).await.unwrap();
    let again = cache.get(&place.store, &stored, nothing).await.unwrap();
    assert_eq!(again.path(), copy.path());
}

#[tokio::test]
async fn the_copy_that_was_used_longest_ago_goes_first_and_none_that_is_used() {
    let place = Place::new();
    let cache = place.cache(2500);
    let [one, two, three] = [place.store("one..").await, place.store("two..").await, place.store("three").await];
    drop(cache.get(&place.store, &one, nothing).await.unwrap());
    drop(cache.get(&place.store, &two, nothing).await.unwrap());
    // Longer than the resolution of the file system's clock.
    let lock = |stored: &StoredDataset| place.directory().join(format!("{}-{}.lock", stored.name, stored.sha256));
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    std::fs::File::options().write(true).open(lock(&two)).unwrap().set_modified(past).unwrap();
    let kept = cache.get(&place.store, &three, nothing).await.unwrap();
    assert_eq!(place.names(), ["one..", "three"]);
    std::fs::File::options().write(true).open(lock(&three)).unwrap().set_modified(past).unwrap();
    let other = cache.get(&place.store, &two, nothing).await.unwrap();
    assert_eq!(place.names(), ["three", "two.."], "the older one is in use");
    assert!(!lock(&one).exists());

    let waits = Cell::new(0);
    let count = |progress| match progress {
        CopyProgress::NoRoom => waits.set(waits.get() + 1),
        other => assert!(matches!(other, CopyProgress::Fetched(_)), "{other:?}"),
    };
    let free = async {
        while waits.get() < 2 {
            tokio::task::yield_now().await;
        }
        drop(other);
        std::future::pending::<()>().await;
    };
    let got = async {
        tokio::select! {
            got = cache.get(&place.store, &one, count) => got.unwrap(),
            () = free => unreachable!(),
        }
    };
    let _got = tokio::time::timeout(PATIENCE, got).await.expect("room is made");
    assert_eq!(place.names(), ["one..", "three"]);
    drop(kept);
}

#[tokio::test]
async fn what_is_larger_than_the_cache_is_refused_and_what_is_damaged_leaves_nothing() {
    let place = Place::new();
    let stored = place.store("pets!").await;
    let too_large = place.cache(999).get(&place.store, &stored, nothing).await.unwrap_err();
    assert!(matches!(too_large, Error::TooLarge { bytes: 1000, limit: 999, .. }), "{too_large}");

    let cache = place.cache(5000);
    let path = place.dir.path().join("storage").join(&stored.key);
    let whole = std::fs::read(&path).unwrap();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
    };
    for change in
        [&(|bytes: &mut Vec<u8>| *bytes.iter_mut().rev().nth(1200).unwrap() ^= 1) as &dyn Fn(&mut Vec<u8>), &|bytes| {
            bytes[0] ^= 1;
        }]
    {
        changed(change);
        let error = cache.get(&place.store, &stored, nothing).await.unwrap_err();
        assert!(matches!(error, Error::Stored(artifacts::Error::Damaged { .. })), "{error}");
        assert_eq!(place.names(), Vec::<String>::new());
    }
    place.store.delete(&stored.key).await.unwrap();
    let error = cache.get(&place.store, &stored, nothing).await.unwrap_err();
    assert!(matches!(error, Error::Stored(artifacts::Error::NotFound(_))), "{error}");
    std::fs::write(&path, &whole).unwrap();
    cache.get(&place.store, &stored, nothing).await.unwrap();
}

#[tokio::test]
async fn a_copy_that_somebody_has_changed_is_fetched_again() {
    let place = Place::new();
    let (cache, stored) = (place.cache(5000), place.store("pets!").await);
    let copy = cache.get(&place.store, &stored, nothing).await.unwrap();
    let file = copy.path().join("train/data.bin");
    drop(copy);
    std::fs::write(&file, "other").unwrap();
    assert!(cache.find(&stored).unwrap().is_none());
    let copy = cache.get(&place.store, &stored, nothing).await.unwrap();
    assert_eq!(std::fs::metadata(copy.path().join("train/data.bin")).unwrap().len(), 1000);
}

#[tokio::test]
async fn a_fetch_that_is_given_up_leaves_nothing_in_the_way() {
    let place = Place::new();
    let (cache, stored) = (place.cache(5000), place.store("pets!").await);
    let getting = Box::pin(cache.get(&place.store, &stored, nothing));
    // Polled once, and dropped.
    assert!(futures::future::poll_immediate(getting).await.is_none());
    cache.get(&place.store, &stored, nothing).await.unwrap();
    let left = files_below(Path::new(&place.directory()));
    assert!(left.iter().all(|file| !file.contains(".partial")), "{left:?}");
}

#[tokio::test]
async fn what_another_process_is_fetching_takes_room_too() {
    let place = Place::new();
    let (cache, one, two) = (place.cache(1500), place.store("one..").await, place.store("two..").await);
    let beside = |ending: &str| place.directory().join(format!("{}-{}.{ending}", one.name, one.sha256));
    std::fs::create_dir_all(beside("partial")).unwrap();
    std::fs::write(beside("partial").join("facts.json"), r#"{"bytes": 1000, "fingerprint": ""}"#).unwrap();
    let other = std::fs::File::create(beside("lock")).unwrap();
    other.lock().unwrap();

    let waits = Cell::new(0);
    let count = |progress: CopyProgress| waits.set(waits.get() + u32::from(progress == CopyProgress::NoRoom));
    let free = async {
        while waits.get() == 0 {
            tokio::task::yield_now().await;
        }
        drop(other);
        std::future::pending::<()>().await;
    };
    let got = async {
        tokio::select! {
            got = cache.get(&place.store, &two, count) => got.unwrap(),
            () = free => unreachable!(),
        }
    };
    let _got = tokio::time::timeout(PATIENCE, got).await.expect("room is made");
    assert!(waits.get() > 0);
    assert_eq!(place.names(), ["two.."]);
}
