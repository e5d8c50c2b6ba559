//! What the limit for all uploads counts.

use std::time::Duration;

use distillery::db::upload_space;
use distillery::removals;
use reqwest::Method;
use serde_json::Value;

use crate::support::PATIENCE;
use crate::support::api::{Answer, Api, checkpoint};
use crate::support::archives::{parquet, pets, ppm, zip};
use crate::support::worker::files_below;

async fn with_limit(bytes: usize) -> Api {
    Api::start_with(|settings| settings.uploads_limit = Some(bytes as u64)).await
}

/// A shard with so many images.
fn shard(images: u8, blue: u8) -> Vec<u8> {
    let image = |number: u8| (ppm([number, 1, blue]), i64::from(number % 2));
    parquet(&(0..images).map(image).collect::<Vec<_>>())
}

/// Sends a piece of an upload that has so many bytes.
async fn put_piece(api: &Api, path: &str, bytes: &[u8], start: usize, end: usize) -> Answer {
    let range = format!("bytes {start}-{}/{}", end - 1, bytes.len());
    let request = api.request(Method::PUT, &format!("/v1/datasets/{path}")).header("content-range", range);
    api.send(request.body(bytes[start..end].to_vec())).await
}

/// Bytes of the tar of a data set in storage.
fn stored_size(details: &Value) -> usize {
    usize::try_from(details["versions"][0]["size_bytes"].as_u64().unwrap()).unwrap()
}

#[tokio::test]
async fn what_waits_for_the_rest_of_its_upload_counts_for_every_other_upload() {
    let (pieces, few) = (vec![1; 40_000], shard(100, 0));
    let api = with_limit(30_000 + few.len() + 1000).await;
    put_piece(&api, "pets?upload=mine", &pieces, 0, 30_000).await.expect(202);
    // What has come of it counts, and all that it will have.
    let waiting = ["no space for this data set", "(30000 of them in shards and pieces of unfinished uploads"];
    api.upload_dataset("more?split=train&shard=0&shards=2", shard(200, 1)).await.says(409, &waiting);
    let large = [pets(), vec![("train/cat/large.ppm", vec![7; 30_000])]].concat();
    api.upload_dataset("whole", zip(&large)).await.says(409, &waiting);
    api.upload("", checkpoint("resnet8", 10)).await.says(409, &["no space for this checkpoint", waiting[1]]);
    api.upload_dataset("more?split=train&shard=0&shards=2", few.clone()).await.expect(202);
    let both = format!("({} of them in shards and pieces", 30_000 + few.len());
    put_piece(&api, "other?upload=mine", &pieces, 0, 10).await.says(409, &[&both]);
    assert_eq!(files_below(&api.dir.path().join("storage/datasets")).len(), 2);
    // Given up, they leave room.
    for name in ["pets", "more"] {
        api.delete(&format!("/v1/datasets/{name}")).await.expect(204);
    }
    api.upload_dataset("whole", zip(&pets())).await.expect(201);
}

#[tokio::test]
async fn what_becomes_a_version_does_not_count_beside_it() {
    let unlimited = Api::start().await;
    let archive = zip(&pets());
    let tar = stored_size(&unlimited.upload_dataset("pets", archive.clone()).await.expect(201));
    let api = with_limit(tar + archive.len() - 1).await;
    let half = archive.len() / 2;
    put_piece(&api, "pets?upload=mine", &archive, 0, half).await.expect(202);
    put_piece(&api, "pets?upload=mine", &archive, half, archive.len()).await.expect(201);

    let [first, second] = [shard(40, 1), shard(40, 2)];
    unlimited.upload_dataset("shards?split=train&shard=0&shards=2", first.clone()).await.expect(202);
    let whole = unlimited.upload_dataset("shards?split=train&shard=1&shards=2", second.clone()).await.expect(201);
    let api = with_limit(stored_size(&whole) + first.len() - 1).await;
    api.upload_dataset("shards?split=train&shard=0&shards=2", first.clone()).await.expect(202);
    let half = second.len() / 2;
    let path = "shards?split=train&shard=1&shards=2&upload=mine";
    put_piece(&api, path, &second, 0, half).await.expect(202);
    let details = put_piece(&api, path, &second, half, second.len()).await.expect(201);
    assert_eq!(details["id"], whole["id"]);
}

#[tokio::test]
async fn a_shard_does_not_count_beside_the_one_that_replaces_it() {
    let bytes = shard(40, 1);
    let api = with_limit(2 * bytes.len() - 1).await;
    for place in ["shard=0&shards=3", "shard=0&shards=3", "shard=1&shards=2"] {
        api.upload_dataset(&format!("pets?split=train&{place}"), bytes.clone()).await.expect(202);
    }
    api.upload_dataset("pets?split=train&shard=0&shards=2", bytes).await.says(409, &["no space for this data set"]);
}

#[tokio::test]
async fn of_uploads_that_arrive_at_once_only_those_are_taken_that_fit_together() {
    let bytes = &shard(40, 1);
    let api = &with_limit(3 * bytes.len()).await;
    let puts = (0..8).map(|number| async move {
        let path = format!("pets?split=train&shard={number}&shards=9");
        api.upload_dataset(&path, bytes.clone()).await
    });
    let answers = futures::future::join_all(puts).await;
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 202);
    assert_eq!(taken.len(), 3);
    for answer in refused {
        answer.says(409, &["no space for this data set"]);
    }
    // What was stored meanwhile is counted once.
    let reserved = "select coalesce(sum(reserved_bytes), 0)::bigint from file_deletions where not is_decided";
    let reserved: i64 = sqlx::query_scalar(reserved).fetch_one(&api.db.pool).await.unwrap();
    assert_eq!(reserved, 0);
}

#[tokio::test]
async fn what_is_being_stored_counts_while_its_server_says_so() {
    let bytes = shard(40, 1);
    let api = with_limit(2 * bytes.len() - 1).await;
    let (key, size, path) = ("datasets/slow", bytes.len(), "pets?split=train&shard=0&shards=2");
    let pool = api.db.pool.clone();
    upload_space::reserve(&pool, key, size as u64, "", |_| true).await.unwrap().unwrap();
    let storing = format!("{size} of which are being stored now");
    api.upload_dataset(path, bytes.clone()).await.says(409, &[&storing]);
    // As after a minute.
    let expire = "update file_deletions set reserved_until = now()";
    sqlx::query(expire).execute(&pool).await.unwrap();
    let kept = async {
        while upload_space::used(&pool, "").await.unwrap().arriving == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        kept = tokio::time::timeout(PATIENCE, kept) => kept.expect("it is renewed"),
        () = removals::keep_space(&pool, key, Duration::from_millis(10)) => unreachable!("it goes on"),
    }
    api.upload_dataset(path, bytes.clone()).await.says(409, &[&storing]);
    // The server has ended.
    sqlx::query(expire).execute(&pool).await.unwrap();
    api.upload_dataset(path, bytes).await.expect(202);
}
