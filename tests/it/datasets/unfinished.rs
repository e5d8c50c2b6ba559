//! Uploads that are not complete are listed, with what is here of them, and can be given up.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::archives::{parquet, pets, ppm, zip};
use crate::support::worker::files_below;

fn shard(red: u8) -> Vec<u8> {
    parquet(&[(ppm([red, 1, 2]), 0), (ppm([red, 2, 1]), 1)])
}

async fn put_piece(api: &Api, path: &str, bytes: &[u8], end: usize) {
    let range = format!("bytes 0-{}/{}", end - 1, bytes.len());
    let request = api.request(Method::PUT, &format!("/v1/datasets/{path}")).header("content-range", range);
    api.send(request.body(bytes[..end].to_vec())).await.expect(202);
}

async fn unfinished(api: &Api) -> Vec<Value> {
    api.get("/v1/datasets").await.expect(200)["unfinished"].as_array().unwrap().clone()
}

#[tokio::test]
async fn an_upload_in_pieces_is_listed_until_it_is_given_up_or_complete() {
    let api = Api::start().await;
    let bytes = zip(&pets());
    put_piece(&api, "pets?upload=mine", &bytes, 100).await;
    let [upload] = <[Value; 1]>::try_from(unfinished(&api).await).unwrap();
    let progress = api.get("/v1/datasets/pets/uploads/mine").await.expect(200);
    for member in ["upload", "received_bytes", "size_bytes", "expires_at"] {
        assert_eq!(upload[member], progress[member], "{upload}");
    }
    assert_eq!((&upload["name"], &upload["split"]), (&json!("pets"), &Value::Null));
    let next = upload["next"].as_str().unwrap();
    assert!(next.contains("begins at byte 100") && next.contains("/v1/datasets/pets/uploads/mine"), "{next}");
    api.get("/v1/datasets/pets").await.says(404, &["no data set \"pets\" yet", "is not complete", next]);
    api.get("/v1/datasets/pets/images").await.says(404, &["is not complete", next]);
    api.get("/v1/datasets/dogs").await.says(404, &["no data set \"dogs\": GET /v1/datasets lists all"]);
    api.delete("/v1/datasets/pets/uploads/mine").await.expect(204);
    assert_eq!(unfinished(&api).await, Vec::<Value>::new());
    api.get("/v1/datasets/pets").await.says(404, &["no data set \"pets\": GET /v1/datasets lists all"]);
}

#[tokio::test]
async fn a_name_of_which_only_shards_are_here_says_how_to_go_on_with_them() {
    let api = Api::start().await;
    for split in ["train", "test"] {
        api.upload_dataset(&format!("pets?split={split}&shard=0&shards=2"), shard(1)).await.expect(202);
    }
    let words = ["no data set \"pets\" yet", "uploads are not complete", "DELETE /v1/datasets/pets/shards/test"];
    api.get("/v1/datasets/pets").await.says(404, &words);
}

#[tokio::test]
async fn shards_that_wait_are_listed_and_given_up_without_the_versions_of_their_data_set() {
    let api = Api::start().await;
    api.upload_dataset("pets?split=test", shard(1)).await.expect(201);
    let train = [shard(2), shard(3)];
    for (number, bytes) in train.iter().enumerate() {
        api.upload_dataset(&format!("pets?split=train&shard={number}&shards=3"), bytes.clone()).await.expect(202);
    }
    let pending = api.upload_dataset("pets?split=more&shard=1&shards=2", shard(4)).await.expect(202);
    let [more, waiting] = <[Value; 2]>::try_from(unfinished(&api).await).unwrap();
    let bytes: usize = train.iter().map(Vec::len).sum();
    for (member, expected) in [
        ("name", json!("pets")),
        ("upload", Value::Null),
        ("split", json!("train")),
        ("shards_here", json!(2)),
        ("shards", json!(3)),
        ("received_bytes", json!(bytes)),
        ("size_bytes", Value::Null),
    ] {
        assert_eq!(waiting[member], expected, "{waiting}");
    }
    assert_eq!((&more["split"], &more["expires_at"]), (&json!("more"), &pending["expires_at"]));
    let found = api.get("/v1/datasets/pets/shards/train").await.expect(200);
    let numbers: Vec<_> = found["data"].as_array().unwrap().iter().map(|shard| shard["shard"].clone()).collect();
    assert_eq!((&found["shards"], numbers), (&json!(3), vec![json!(0), json!(1)]));

    api.delete("/v1/datasets/pets/shards/train").await.expect(204);
    assert_eq!(unfinished(&api).await, [more]);
    api.get("/v1/datasets/pets/shards/train").await.says(404, &["GET /v1/datasets lists unfinished uploads"]);
    api.delete("/v1/datasets/pets/shards/train").await.problem(404);
    assert_eq!(api.get("/v1/datasets/pets").await.expect(200)["images"], 2);
    // The tar of the version, and the shard of the other split.
    assert_eq!(files_below(&api.dir.path().join("storage/datasets")).len(), 2);
}
