//! Parquet shards that are uploaded one by one.

use serde_json::{Value, json};

use crate::support::api::{Api, plain_job};
use crate::support::archives::{parquet, pets, ppm, tar, zip};
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
