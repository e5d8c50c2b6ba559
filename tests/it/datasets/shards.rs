//! Shards that are uploaded one by one.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use distillery::db::dataset_shards::{self, AddedShard, StoredShard};
use distillery::db::datasets::{self, InsertedDataset, Predecessor};
use distillery::db::file_deletions;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::support::api::{Api, plain_job};
use crate::support::archives::{parquet, pets, ppm, tar, zip};
use crate::support::db::TestDb;
use crate::support::worker::files_below;

/// A shard with images of two classes.
fn shard(images: u8, start: u8) -> Vec<u8> {
    let image = |number: u8| (ppm([number, start, 0]), i64::from(number % 2));
    parquet(&(0..images).map(image).collect::<Vec<_>>())
}

fn images(details: &Value) -> Vec<(&str, u64)> {
    let splits = details["splits"].as_array().unwrap();
    splits.iter().map(|split| (split["name"].as_str().unwrap(), split["images"].as_u64().unwrap())).collect()
}

#[tokio::test]
async fn shards_become_a_version_once_all_of_their_split_are_there() {
    let api = Api::start().await;
    let test = api.upload_dataset("pets?split=test", shard(4, 1)).await.expect(201);
    assert_eq!(images(&test), [("test", 4)]);
    let pending = api.upload_dataset("pets?split=train&shard=1&shards=3", shard(4, 2)).await.expect(202);
    assert_eq!(
        (&pending["name"], &pending["splits"]),
        (&json!("pets"), &json!([{"split": "train", "shards": 3, "missing": [0, 2]}]))
    );
    api.upload_dataset("pets?split=train&shard=2&shards=3", shard(6, 3)).await.expect(202);
    assert_eq!(images(&api.get("/v1/datasets/pets").await.expect(200)), [("test", 4)]);
    let whole = api.upload_dataset("pets?split=train&shard=0&shards=3", shard(8, 4)).await.expect(201);
    assert_eq!((images(&whole), &whole["format"]), (vec![("test", 4), ("train", 18)], &json!("parquet")));
    let mut job = plain_job();
    job["dataset"] = json!({"name": "pets"});
    let dry = api.post("/v1/jobs?dry_run=true", &job).await.expect(200);
    assert_eq!(
        (&dry["spec"]["dataset"]["name"], &dry["train_images"], &dry["eval_images"]),
        (&whole["id"], &json!(18), &json!(4))
    );
    // The tars of two versions; the shards are gone.
    assert_eq!(files_below(&api.dir.path().join("storage/datasets")).len(), 2);

    let replaced = api.upload_dataset("pets?split=test", shard(2, 5)).await.expect(201);
    assert_eq!(images(&replaced), [("test", 2), ("train", 18)]);
    let names: Vec<String> = (0..3).map(|number| format!("train-{number:05}-of-00003.parquet")).collect();
    let all = [
        ("test-00000-of-00001.parquet", shard(2, 5)),
        (&names[0], shard(8, 4)),
        (&names[1], shard(4, 2)),
        (&names[2], shard(6, 3)),
    ];
    assert_eq!(api.upload_dataset("pets", tar(&all)).await.expect(200)["id"], replaced["id"]);
}

#[tokio::test]
async fn a_client_that_lost_the_last_answer_gets_the_version_for_the_last_shard() {
    let api = Api::start().await;
    let (first, last) = ("pets?split=train&shard=0&shards=2", "pets?split=train&shard=1&shards=2");
    api.upload_dataset(first, shard(4, 1)).await.expect(202);
    let whole = api.upload_dataset(last, shard(4, 2)).await.expect(201);
    assert_eq!(api.upload_dataset(last, shard(4, 2)).await.expect(200)["id"], whole["id"]);
    // Another set may begin with that shard, and is whole with the others.
    let other = api.upload_dataset(first, shard(6, 3)).await.expect(201);
    assert_eq!(images(&other), [("train", 10)]);
    // Other bytes are no repetition, nor is another shard.
    api.upload_dataset(first, shard(8, 4)).await.expect(202);
    assert_eq!(images(&api.upload_dataset(last, shard(2, 5)).await.expect(201)), [("train", 10)]);
    api.upload_dataset(last, shard(2, 6)).await.expect(202);
}

#[tokio::test]
async fn shards_that_are_replaced_or_given_up_leave_storage() {
    let api = Api::start().await;
    let put =
        async |query: &str, start: u8| api.upload_dataset(&format!("pets?{query}"), shard(4, start)).await.expect(202);
    put("split=train&shard=0&shards=3", 1).await;
    put("split=train&shard=0&shards=3", 2).await;
    let pending = put("split=train&shard=0&shards=2", 3).await;
    assert_eq!(pending["splits"], json!([{"split": "train", "shards": 2, "missing": [1]}]));
    let storage = api.dir.path().join("storage/datasets");
    assert_eq!(files_below(&storage).len(), 1);
    api.get("/v1/datasets/pets").await.problem(404);
    api.delete("/v1/datasets/pets").await.expect(204);
    assert_eq!(files_below(&storage), Vec::<String>::new());
    api.delete("/v1/datasets/pets").await.problem(404);
}

#[tokio::test]
async fn shards_of_other_things_are_refused() {
    let api = Api::start().await;
    api.upload_dataset("folder", zip(&pets())).await.expect(201);
    api.upload_dataset("folder?split=train", shard(2, 1)).await.says(409, &["does not consist of parquet shards"]);
    api.upload_dataset("pets?split=train", zip(&pets())).await.says(422, &["is not a parquet shard"]);
    api.upload_dataset("pets?split=train", b"PAR1 and nothing else PAR1".to_vec())
        .await
        .says(422, &["pets/train-00000-of-00001.parquet"]);
    api.upload_dataset("pets", shard(2, 1)).await.says(422, &["say of which split with ?split=train"]);
    for (query, said) in [
        ("shard=1", "split: is required"),
        ("split=train&shard=3&shards=3", "expected a number below shards, which is 3"),
        ("split=a-b", "without dashes"),
        ("split=train&shards=0", "from 1 to 100000"),
        ("slice=train", "unknown field"),
    ] {
        api.upload_dataset(&format!("pets?{query}"), shard(2, 1)).await.says(400, &[said]);
    }
    assert_eq!(files_below(&api.dir.path().join("storage/datasets")).len(), 1);
}

#[tokio::test]
async fn a_shard_need_not_have_the_classes_of_the_others() {
    let api = Api::start().await;
    let sorted = |labels: [i64; 2]| parquet(&labels.map(|label| (ppm([label as u8, 0, 0]), label)));
    api.upload_dataset("pets?split=train&shard=1&shards=2", sorted([2, 3])).await.expect(202);
    let whole = api.upload_dataset("pets?split=train&shard=0&shards=2", sorted([0, 1])).await.expect(201);
    assert_eq!((&whole["class_count"], images(&whole)), (&json!(4), vec![("train", 4)]));
}

/// A tar of WebDataset with two classes.
fn webdataset(red: u8) -> Vec<u8> {
    tar(&[
        ("0.ppm", ppm([red, 0, 0])),
        ("0.cls", b"cat".to_vec()),
        ("1.ppm", ppm([red, 1, 0])),
        ("1.cls", b"dog".to_vec()),
    ])
}

#[tokio::test]
async fn tars_of_webdataset_are_uploaded_one_by_one_or_in_an_archive_and_read_in_place() {
    let api = Api::start().await;
    api.upload_dataset("pets?split=test", webdataset(1)).await.expect(201);
    api.upload_dataset("pets?split=train&shard=1&shards=2", webdataset(2)).await.expect(202);
    let whole = api.upload_dataset("pets?split=train&shard=0&shards=2", webdataset(3)).await.expect(201);
    assert_eq!((images(&whole), &whole["format"]), (vec![("test", 2), ("train", 4)], &json!("webdataset")));
    assert_eq!(whole["classes"]["listed"][1], json!({"label": 1, "name": "dog", "images": {"test": 1, "train": 2}}));
    let shards = [
        ("test-00000-of-00001.tar", webdataset(1)),
        ("train-00000-of-00002.tar", webdataset(3)),
        ("train-00001-of-00002.tar", webdataset(2)),
    ];
    assert_eq!(api.upload_dataset("pets", zip(&shards)).await.expect(200)["id"], whole["id"]);
    let page = api.get("/v1/datasets/pets/images?class=dog").await.expect(200);
    let thumbnails = page["data"].as_array().unwrap().iter().filter(|image| image["thumbnail"].is_string());
    assert_eq!(thumbnails.count(), 2);
    let one = api.upload_dataset("one", webdataset(1)).await.expect(201);
    assert_eq!((images(&one), &one["format"]), (vec![("train", 2)], &json!("webdataset")));
    assert!(one["notes"][0].as_str().unwrap().starts_with("the tar is a shard of WebDataset"), "{one}");
    assert_eq!(api.upload_dataset("one?split=train", webdataset(1)).await.expect(200)["id"], one["id"]);
    api.upload_dataset("pets?split=train", shard(2, 1)).await.says(409, &["consists of shards of another format"]);
    api.upload_dataset("zoo?split=train", tar(&pets())).await.says(422, &["has no image with a label", "000.cls"]);
}

/// Adds a shard of the training split.
async fn put(db: &TestDb, name: &str, shard: i32, shards: i32) -> AddedShard {
    static KEYS: AtomicU32 = AtomicU32::new(0);
    let key = format!("datasets/{name}-{}", KEYS.fetch_add(1, Ordering::Relaxed));
    file_deletions::announce(&db.pool, &key).await.unwrap();
    let (split, sha256) = ("train".to_owned(), "0".repeat(64));
    let new = StoredShard { split, shard, shards, key, sha256, size_bytes: 1 };
    dataset_shards::put(&db.pool, name, &new).await.unwrap().expect("it is announced")
}

/// Adds a shard of the training split. Returns the numbers of those that are missing then; `None` if it is whole.
async fn missing(db: &TestDb, name: &str, shard: i32, shards: i32) -> Option<Vec<i32>> {
    let added = put(db, name, shard, shards).await;
    added.waiting.map(|waiting| waiting.splits.into_iter().next().unwrap().missing)
}

#[tokio::test]
async fn what_is_missing_is_known_in_whatever_order_shards_come_and_after_some_are_gone() {
    let db = TestDb::new().await;
    for (shard, expected) in [
        (5, Some(vec![0, 1, 2, 3, 4])),
        (1, Some(vec![0, 2, 3, 4])),
        (0, Some(vec![2, 3, 4])),
        (1, Some(vec![2, 3, 4])),
        (3, Some(vec![2, 4])),
        (2, Some(vec![4])),
        (4, None),
        (4, None),
    ] {
        assert_eq!(missing(&db, "pets", shard, 6).await, expected, "{shard}");
    }
    // Another total begins again.
    assert_eq!(missing(&db, "pets", 1, 3).await, Some(vec![0, 2]));
    assert_eq!(missing(&db, "pets", 0, 3).await, Some(vec![2]));
    // What was not completed is removed in the end, which no count tells.
    let removed = "update file_deletions set is_decided = true
        where key = (select key from dataset_shards where name = 'pets' and shard = 1)";
    for statement in [removed, "update dataset_shard_splits set changed_at = now() - interval '1 day'"] {
        sqlx::query(statement).execute(&db.pool).await.unwrap();
    }
    assert_eq!(missing(&db, "pets", 2, 3).await, Some(vec![1]));
    assert_eq!(missing(&db, "pets", 1, 3).await, None);
}

#[tokio::test]
async fn a_shard_keeps_the_others_and_touches_them_once_an_hour() {
    let db = TestDb::new().await;
    missing(&db, "pets", 0, 9).await;
    let due = "select min(due_at) > now() + interval '23 hours 50 minutes'
        from file_deletions join dataset_shards using (key)";
    let sooner = "update file_deletions set due_at = now() + interval '1 hour'";
    for (announced, is_kept) in [("1 minute", false), ("2 hours", true)] {
        let earlier = format!("update dataset_shard_splits set announced_at = now() - interval '{announced}'");
        for statement in [sooner.to_owned(), earlier] {
            sqlx::query(AssertSqlSafe(statement)).execute(&db.pool).await.unwrap();
        }
        missing(&db, "pets", 1, 9).await;
        let found: bool = sqlx::query_scalar(due).fetch_one(&db.pool).await.unwrap();
        assert_eq!(found, is_kept, "{announced}");
    }
}

#[tokio::test]
async fn every_shard_is_kept_for_as_long_as_the_newest_promises() {
    let db = TestDb::new().await;
    missing(&db, "pets", 0, 9).await;
    put(&db, "pets", 1, 9).await;
    // Most of the hour passes in which no shard is announced again.
    let passes = "update file_deletions set due_at = due_at - interval '59 minutes'";
    let earlier = "update dataset_shard_splits set announced_at = announced_at - interval '59 minutes'";
    for statement in [passes, earlier] {
        sqlx::query(statement).execute(&db.pool).await.unwrap();
    }
    let promised = put(&db, "pets", 2, 9).await.waiting.expect("others are missing").expires_at;
    let kept = "select min(due_at) >= $1, $1 > now() + interval '23 hours 50 minutes' from file_deletions";
    let kept: (bool, bool) = sqlx::query_as(kept).bind(promised).fetch_one(&db.pool).await.unwrap();
    assert_eq!(kept, (true, true));
}

#[tokio::test]
async fn the_file_of_a_replaced_shard_is_soon_due_if_nobody_removes_it() {
    let db = TestDb::new().await;
    for _ in 0..2 {
        missing(&db, "pets", 0, 2).await;
    }
    let due = "select due_at < now() + interval '2 minutes' from file_deletions where is_decided";
    let is_soon: bool = sqlx::query_scalar(due).fetch_one(&db.pool).await.unwrap();
    assert!(is_soon);
}

#[tokio::test]
async fn a_data_set_with_very_many_waiting_shards_is_deleted_within_a_request() {
    let api = Api::start_with(|settings| settings.timeout = Duration::from_secs(10)).await;
    for statement in [
        "insert into dataset_shards (name, split, shard, shards, key, sha256, size_bytes)
            select 'pets', 'train', at, 99999, 'datasets/' || at, '', 1 from generate_series(0, 29999) as at",
        "insert into file_deletions (key, is_directory, is_decided, due_at)
            select 'datasets/' || at, false, false, now() + interval '1 day' from generate_series(0, 29999) as at",
    ] {
        sqlx::query(statement).execute(&api.db.pool).await.unwrap();
    }
    api.delete("/v1/datasets/pets").await.expect(204);
    let left: i64 = sqlx::query_scalar("select count(*) from dataset_shards").fetch_one(&api.db.pool).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn of_shards_that_come_at_the_same_time_the_last_sees_all() {
    let db = TestDb::new().await;
    for round in 0..20 {
        let name = format!("pets{round}");
        let put = |shard: i32| {
            let (db, name) = (&db, &name);
            async move { Some(missing(db, name, shard, 8).await?.len()) }
        };
        let mut missing = futures::future::join_all((0..8).map(put)).await;
        missing.sort_unstable();
        assert_eq!(missing, [vec![None], (1..8).map(Some).collect()].concat());
    }
}

#[tokio::test]
async fn a_version_with_splits_of_another_follows_only_that_one() {
    let api = Api::start().await;
    let first = api.upload_dataset("pets?split=train", shard(4, 1)).await.expect(201);
    let found = datasets::versions(&api.db.pool, "pets").await.unwrap().remove(0);
    let mut new = found.read.unwrap();
    let sha256 = "1".repeat(64);
    new.id = datasets::id_of("pets", &sha256);
    (new.stored.id, new.stored.key, new.stored.sha256) = (new.id.clone(), format!("datasets/{sha256}-1"), sha256);
    for (after, follows) in [(None, false), (first["id"].as_str(), true)] {
        file_deletions::announce(&api.db.pool, &new.stored.key).await.unwrap();
        let after = Predecessor::Exactly(after.map(str::to_owned));
        let inserted = datasets::insert(&api.db.pool, &new, None, &after).await.unwrap();
        match inserted {
            InsertedDataset::Done { is_new, .. } => assert!(is_new && follows),
            InsertedDataset::Overtaken => assert!(!follows),
            other => panic!("{other:?}"),
        }
        new.stored.key.push('x');
    }
}

#[tokio::test]
async fn two_splits_that_come_at_the_same_time_are_both_in_the_latest_version() {
    let api = Api::start().await;
    for round in 0..5 {
        let name = format!("pets{round}");
        let put = async |split: &str, start: u8| {
            let answer = api.upload_dataset(&format!("{name}?split={split}"), shard(4, start)).await;
            assert!(answer.status.is_success(), "{}", answer.text());
        };
        tokio::join!(put("train", 1), put("test", 2));
        let details = api.get(&format!("/v1/datasets/{name}")).await.expect(200);
        assert_eq!(images(&details), [("test", 4), ("train", 4)]);
    }
}

#[tokio::test]
async fn shards_that_are_too_large_together_are_refused_before_they_are_fetched() {
    let shards = [shard(40, 1), shard(40, 2)];
    let together = shards[0].len() + shards[1].len();
    let api = Api::start_with(|settings| settings.dataset_limit = together as u64 - 1).await;
    let [first, second] = shards;
    api.upload_dataset("pets?split=train&shard=0&shards=2", first).await.expect(202);
    // Fetching it would fail.
    let storage = api.dir.path().join("storage/datasets");
    let [stored] = <[String; 1]>::try_from(files_below(&storage)).unwrap();
    std::fs::remove_file(storage.join(stored)).unwrap();
    let limit = format!("the data set has {together} bytes, and the limit is {}", together - 1);
    api.upload_dataset("pets?split=train&shard=1&shards=2", second).await.says(422, &[&limit]);
}
