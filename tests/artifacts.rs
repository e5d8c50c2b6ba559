//! Files come back as they were stored, whole or in part, and no key leads out of the storage.

use std::os::unix::fs::PermissionsExt;

use distillery::artifacts::{Error, Store};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};

const KEY: &str = "jobs/job_1/attempts/1/student.safetensors";

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("a/storage").to_str().unwrap()).unwrap();
    (dir, store)
}

async fn read(store: &Store, key: &str, range: Option<std::ops::Range<u64>>) -> Vec<u8> {
    let opened = store.get(key, range).await.unwrap();
    opened.bytes.map_ok(|bytes| bytes.to_vec()).try_concat().await.unwrap()
}

/// Longer than what is buffered, and no two parts alike.
fn long() -> Vec<u8> {
    (0..40_000_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test]
async fn what_is_stored_comes_back() {
    let (_dir, store) = store();
    for content in [Vec::new(), b"short".to_vec(), long()] {
        let stored = store.put(KEY, content.as_slice()).await.unwrap();
        assert_eq!(stored.size_bytes, content.len() as u64);
        assert_eq!(stored.sha256, hex::encode(Sha256::digest(&content)));
        assert_eq!(store.size(KEY).await.unwrap(), stored.size_bytes);
        assert!(read(&store, KEY, None).await == content);
        if content.len() > 10 {
            assert!(read(&store, KEY, Some(20_000_001..20_000_100)).await == content[20_000_001..20_000_100]);
        }
    }
}

#[tokio::test]
async fn files_are_the_owners_alone() {
    let (dir, _store) = store();
    let mode = std::fs::metadata(dir.path().join("a/storage")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_what_was_there() {
    let (_dir, store) = store();
    store.put(KEY, b"before".as_slice()).await.unwrap();
    for length in [3, 40_000_000] {
        let start = long()[..length].to_vec();
        let broken = tokio_util::io::StreamReader::new(futures::stream::iter([
            Ok(bytes::Bytes::from(start)),
            Err(std::io::Error::other("the client went away")),
        ]));
        store.put(KEY, broken).await.unwrap_err();
        assert_eq!(read(&store, KEY, None).await, b"before");
    }
}

#[tokio::test]
async fn a_fetched_file_is_checked() {
    let (dir, store) = store();
    let stored = store.put(KEY, b"bytes".as_slice()).await.unwrap();
    let to = dir.path().join("fetched");
    assert_eq!(store.fetch(KEY, &to, Some(&stored.sha256)).await.unwrap(), stored);
    assert_eq!(std::fs::read(&to).unwrap(), b"bytes");
    assert!(matches!(store.fetch(KEY, &to, Some("00")).await, Err(Error::Damaged { .. })));
}

#[tokio::test]
async fn what_is_deleted_or_renamed_is_gone() {
    let (_dir, store) = store();
    for key in ["jobs/job_1/attempts/1/a", "jobs/job_1/attempts/2/b", "jobs/job_12/attempts/1/c", "uploads/d"] {
        store.put(key, b"x".as_slice()).await.unwrap();
    }
    store.delete_below("jobs/job_1").await.unwrap();
    store.delete_below("jobs/job_1").await.unwrap();
    assert!(matches!(store.size("jobs/job_1/attempts/2/b").await, Err(Error::Missing(_))));
    assert_eq!(store.size("jobs/job_12/attempts/1/c").await.unwrap(), 1);
    store.rename("uploads/d", "checkpoints/e").await.unwrap();
    assert!(matches!(store.size("uploads/d").await, Err(Error::Missing(_))));
    store.delete("checkpoints/e").await.unwrap();
    store.delete("checkpoints/e").await.unwrap();
    assert!(matches!(store.get("checkpoints/e", None).await, Err(Error::Missing(_))));
    store.check().await.unwrap();
}

#[tokio::test]
async fn no_key_leads_elsewhere() {
    let (_dir, store) = store();
    let long = "x".repeat(256);
    for key in [
        "",
        "/etc/passwd",
        "a/../../b",
        "..",
        ".",
        "a//b",
        "a/",
        "a\\b",
        "a b",
        "a\0",
        "a#1",
        ".hidden",
        "%2e%2e",
        &long,
    ] {
        assert!(matches!(store.put(key, b"x".as_slice()).await, Err(Error::Key(_))), "{key:?}");
        assert!(matches!(store.get(key, None).await, Err(Error::Key(_))), "{key:?}");
        assert!(matches!(store.delete_below(key).await, Err(Error::Key(_))), "{key:?}");
    }
    assert!(matches!(Store::open("s3://bucket/../x"), Err(Error::Key(_))));
}
