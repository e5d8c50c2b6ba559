//! Promise: a file is stored completely or not at all, and no key leads out of the storage.

use bytes::Bytes;
use distillery::artifacts::{Error, Store};
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("artifacts").to_str().unwrap()).unwrap();
    (dir, store)
}

fn chunks(bytes: &[u8], size: usize) -> impl futures::Stream<Item = Result<Bytes, Error>> + Unpin + use<> {
    stream::iter(bytes.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect::<Vec<_>>())
}

fn files_in(dir: &tempfile::TempDir) -> usize {
    fn count(path: &std::path::Path) -> usize {
        std::fs::read_dir(path)
            .unwrap()
            .flatten()
            .map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 })
            .sum()
    }
    count(dir.path())
}

#[tokio::test]
async fn what_is_stored_is_read_back_whole_and_in_part_with_its_digest() {
    let (dir, store) = store();
    // Empty, one part, and several.
    for size in [0, 1, 1000, 20 << 20] {
        let bytes: Vec<u8> = (0..size).map(|index: usize| ((index * 31) >> 3) as u8).collect();
        let stored = store.put_stream("a/file.bin", chunks(&bytes, 100_000)).await.unwrap();
        assert_eq!(stored.size_bytes, size as u64);
        assert_eq!(stored.sha256, hex::encode(Sha256::digest(&bytes)));
        assert_eq!(store.size("a/file.bin").await.unwrap(), Some(size as u64));
        let out = dir.path().join("out");
        store.fetch("a/file.bin", &out).await.unwrap();
        assert_eq!(std::fs::read(&out).unwrap(), bytes);
        let (start, end) = (size / 3, size / 2);
        let part: Vec<Bytes> =
            store.read("a/file.bin", start as u64..end as u64).await.unwrap().try_collect().await.unwrap();
        assert_eq!(part.concat(), bytes[start..end]);
        assert_eq!(store.put_file("b/copy.bin", &out).await.unwrap(), stored);
        store.fetch_verified("a/file.bin", &out, &stored.sha256).await.unwrap();
        assert_eq!(std::fs::read(&out).unwrap(), bytes);
        let other = hex::encode(Sha256::digest(b"other"));
        let error = store.fetch_verified("a/file.bin", &out, &other).await.unwrap_err().to_string();
        assert!(error.contains("a/file.bin is damaged in storage") && error.contains(&other), "{error}");
        assert!(!out.exists(), "what is damaged is not left for use");
    }
}

#[tokio::test]
async fn an_interrupted_upload_leaves_nothing() {
    for size in [1000, 20 << 20] {
        let (dir, store) = store();
        let broken =
            chunks(&vec![1; size], 1 << 20).chain(stream::iter([Err(Error::BadKey("the client went away".into()))]));
        store.put_stream("a/file.bin", broken).await.unwrap_err();
        assert_eq!(store.size("a/file.bin").await.unwrap(), None);
        assert_eq!(files_in(&dir), 0);
    }
}

#[tokio::test]
async fn a_key_that_leads_out_of_the_storage_is_refused() {
    let (dir, store) = store();
    for key in ["../x", "a/../../x", "/etc/passwd", "a//b", "", "a/.hidden", "a/b\\c", "a/%2e%2e/b", "a\0b", "C:x", "ä"]
    {
        assert!(matches!(store.put_stream(key, chunks(b"x", 1)).await, Err(Error::BadKey(_))), "{key}");
        assert!(matches!(store.read(key, 0..1).await.map(|_| ()), Err(Error::BadKey(_))), "{key}");
        assert!(matches!(store.delete(key).await, Err(Error::BadKey(_))), "{key}");
    }
    assert_eq!(files_in(&dir), 0);
}

#[tokio::test]
async fn deleting_below_a_directory_spares_what_is_kept_and_the_neighbours() {
    let (_dir, store) = store();
    for key in ["jobs/1/a", "jobs/1/b", "jobs/10/a"] {
        store.put_stream(key, chunks(b"x", 1)).await.unwrap();
    }
    store.delete_below("jobs/1", |key| key == "jobs/1/b").await.unwrap();
    assert_eq!(store.size("jobs/1/a").await.unwrap(), None);
    assert_eq!(store.size("jobs/1/b").await.unwrap(), Some(1));
    assert_eq!(store.size("jobs/10/a").await.unwrap(), Some(1));
    store.delete("jobs/1/a").await.expect("deleting twice is no error");
    store.probe().await.expect("the storage works");
}

#[tokio::test]
async fn what_a_killed_upload_left_is_found_and_removed() {
    let (dir, store) = store();
    store.put_stream("jobs/1/attempts/1/whole", chunks(b"x", 1)).await.unwrap();
    let left = dir.path().join("artifacts/jobs/1/attempts/1/student#1");
    std::fs::write(&left, b"half").unwrap();
    assert_eq!(store.list().await.unwrap().len(), 1, "no listing shows it");
    let unfinished = store.unfinished().await.unwrap();
    let [only] = unfinished.as_slice() else { panic!("{unfinished:?}") };
    assert_eq!((only.key.as_str(), only.size_bytes), ("jobs/1/attempts/1/student", Some(4)));
    store.remove_unfinished(only).await.unwrap();
    assert!(!left.exists());
    std::fs::write(&left, b"half").unwrap();
    store.delete_directory("jobs/1").await.unwrap();
    assert!(!dir.path().join("artifacts/jobs/1").exists());
    store.delete_directory("jobs/1").await.expect("deleting twice is no error");
    assert!(matches!(store.delete_directory("jobs/../x").await, Err(Error::BadKey(_))));
}

#[tokio::test]
async fn an_address_that_is_neither_a_directory_nor_s3_is_refused() {
    assert!(Store::open("gs://bucket").unwrap_err().to_string().contains("s3://bucket/prefix"));
}
