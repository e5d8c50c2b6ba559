//! Uploads in pieces.

use std::ops::Range;

use distillery::db::dataset_pieces::{self, StoredPiece};
use distillery::db::file_deletions;
use futures::SinkExt;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::api::{Answer, Api};
use crate::support::archives::{parquet, pets, ppm, zip};
use crate::support::worker::files_below;

/// Sends a part of the bytes.
async fn put(api: &Api, path: &str, bytes: &[u8], range: Range<usize>) -> Answer {
    let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, bytes.len());
    let request = api.request(Method::PUT, &format!("/v1/datasets/{path}")).header("content-range", content_range);
    api.send(request.body(bytes[range].to_vec())).await
}

async fn received(api: &Api) -> Value {
    api.get("/v1/datasets/pets/uploads/mine").await.expect(200)["received_bytes"].clone()
}

#[tokio::test]
async fn an_upload_in_pieces_is_the_same_as_a_whole_one() {
    let api = Api::start().await;
    let bytes = zip(&pets());
    let (third, end) = (bytes.len() / 3, bytes.len());
    let first = put(&api, "pets?upload=mine", &bytes, 0..third).await.expect(202);
    assert_eq!(
        (&first["upload"], &first["received_bytes"], &first["size_bytes"]),
        (&json!("mine"), &json!(third), &json!(end))
    );
    api.get("/v1/datasets/pets").await.problem(404);
    put(&api, "pets?upload=mine", &bytes, third..2 * third).await.expect(202);
    assert_eq!(received(&api).await, 2 * third);
    let done = put(&api, "pets?upload=mine", &bytes, 2 * third..end).await.expect(201);
    assert_eq!(api.upload_dataset("pets", bytes).await.expect(200)["id"], done["id"]);
    assert_eq!(files_below(&api.dir.path().join("storage/datasets")).len(), 1);
}

#[tokio::test]
async fn a_client_that_lost_the_last_answer_gets_the_version_for_the_last_piece() {
    let api = Api::start().await;
    let bytes = zip(&pets());
    let (half, end) = (bytes.len() / 2, bytes.len());
    put(&api, "pets?upload=mine", &bytes, 0..half).await.expect(202);
    let done = put(&api, "pets?upload=mine", &bytes, half..end).await.expect(201);
    assert_eq!(received(&api).await, end);
    let again = put(&api, "pets?upload=mine", &bytes, half..end).await.expect(200);
    assert_eq!(again["id"], done["id"]);
    let mut other = bytes.clone();
    other[half] ^= 1;
    put(&api, "pets?upload=mine", &other, half..end).await.says(409, &["use another name for another file"]);
    put(&api, "pets?upload=yours", &bytes, half..end).await.says(409, &["the next piece begins at byte 0"]);
    // It is not remembered longer than the version is there.
    api.delete(&format!("/v1/datasets/{}", done["id"].as_str().unwrap())).await.expect(204);
    api.get("/v1/datasets/pets/uploads/mine").await.says(404, &["begin at byte 0"]);
    put(&api, "pets?upload=mine", &bytes, half..end).await.says(409, &["the next piece begins at byte 0"]);
    put(&api, "pets?upload=mine", &bytes, 0..half).await.expect(202);
    put(&api, "pets?upload=mine", &bytes, half..end).await.expect(201);
    let day = "update finished_uploads set finished_at = now() - interval '25 hours'";
    sqlx::query(day).execute(&api.db.pool).await.unwrap();
    api.get("/v1/datasets/pets/uploads/mine").await.problem(404);
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_broken_and_nowhere_else() {
    let api = Api::start().await;
    let bytes = zip(&pets());
    let (half, end) = (bytes.len() / 2, bytes.len());
    put(&api, "pets?upload=mine", &bytes, 0..half).await.expect(202);
    // The connection breaks before the second piece is complete.
    let begun = futures::stream::iter([Ok(bytes[half..half + 10].to_vec()), Err(std::io::Error::other("broken"))]);
    let request = api.request(Method::PUT, "/v1/datasets/pets?upload=mine");
    let request = request.header("content-range", format!("bytes {half}-{}/{end}", end - 1));
    assert!(request.body(reqwest::Body::wrap_stream(begun)).send().await.is_err());
    assert_eq!(received(&api).await, half);
    for wrong in [0..half, half + 1..end] {
        put(&api, "pets?upload=mine", &bytes, wrong)
            .await
            .says(409, &[&format!("the next piece begins at byte {half}")]);
    }
    let longer = [bytes.clone(), vec![0]].concat();
    put(&api, "pets?upload=mine", &longer, half..end).await.says(409, &["use another name for another file"]);
    put(&api, "pets?upload=mine", &bytes, half..end).await.expect(201);
}

/// Stores a piece as a server does that is killed before it goes on.
async fn leave_behind(api: &Api, bytes: &[u8], range: Range<usize>) {
    let part = &bytes[range.clone()];
    let sha256 = hex::encode(Sha256::digest(part));
    let key = format!("datasets/{sha256}-1");
    let file = api.dir.path().join("piece");
    std::fs::write(&file, part).unwrap();
    file_deletions::announce(&api.db.pool, &key).await.unwrap();
    api.store.put_file(&key, &file).await.unwrap();
    let number = |bytes: usize| i64::try_from(bytes).unwrap();
    let piece = StoredPiece {
        start_at: number(range.start),
        size_bytes: number(part.len()),
        total_bytes: number(bytes.len()),
        key,
        sha256,
        expires_at: chrono::Utc::now(),
    };
    assert!(dataset_pieces::add(&api.db.pool, "pets", "mine", &piece).await.unwrap().is_some());
}

#[tokio::test]
async fn the_last_piece_can_be_sent_again_if_the_server_was_killed_after_it() {
    let api = Api::start().await;
    let bytes = zip(&pets());
    let (half, end) = (bytes.len() / 2, bytes.len());
    put(&api, "pets?upload=mine", &bytes, 0..half).await.expect(202);
    leave_behind(&api, &bytes, half..end).await;
    assert_eq!(received(&api).await, end);
    let mut other = bytes.clone();
    other[half] ^= 1;
    put(&api, "pets?upload=mine", &other, half..end).await.says(409, &["another request has sent the same piece"]);
    put(&api, "pets?upload=mine", &bytes, half..end).await.expect(201);
    assert_eq!(files_below(&api.dir.path().join("storage/datasets")).len(), 1);
}

#[tokio::test]
async fn an_upload_in_pieces_that_would_have_no_room_is_refused_with_its_first() {
    let api = Api::start_with(|settings| settings.uploads_limit = Some(5000)).await;
    let bytes = vec![1; 6000];
    put(&api, "pets?upload=mine", &bytes, 0..10).await.says(409, &["no space for this data set", "5000 bytes"]);
    put(&api, "pets?upload=mine", &bytes[..4000], 0..10).await.expect(202);
    // Of the first upload only what has come counts.
    put(&api, "pets?upload=other", &bytes[..4990], 0..10).await.expect(202);
}

#[tokio::test]
async fn an_upload_has_a_bounded_number_of_pieces() {
    let api = Api::start().await;
    let rows = "insert into dataset_pieces (name, upload, start_at, size_bytes, total_bytes, key, sha256)
        select 'pets', 'mine', at, 1, 20000, 'datasets/' || at, '' from generate_series(0, 9998) as at";
    let announced = "insert into file_deletions (key, is_directory, is_decided, due_at)
        select 'datasets/' || at, false, false, now() + interval '1 day' from generate_series(0, 9998) as at";
    for query in [rows, announced] {
        sqlx::query(query).execute(&api.db.pool).await.unwrap();
    }
    let bytes = vec![1; 20_000];
    put(&api, "pets?upload=mine", &bytes, 9999..10_000).await.expect(202);
    put(&api, "pets?upload=mine", &bytes, 10_000..10_001)
        .await
        .says(409, &["has 10000 pieces, which is the limit", "larger pieces"]);
}

#[tokio::test]
async fn what_is_no_data_set_leaves_no_pieces_and_so_does_a_deletion() {
    let api = Api::start().await;
    let bytes = b"this is no archive at all".to_vec();
    put(&api, "pets?upload=mine", &bytes, 0..10).await.expect(202);
    put(&api, "pets?upload=mine", &bytes, 10..bytes.len()).await.says(422, &["neither an archive"]);
    let storage = api.dir.path().join("storage/datasets");
    assert_eq!(files_below(&storage), Vec::<String>::new());
    put(&api, "pets?upload=mine", &bytes, 0..10).await.expect(202);
    api.delete("/v1/datasets/pets").await.expect(204);
    assert_eq!(files_below(&storage), Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_nothing_and_disturbs_no_other() {
    let api = Api::start_with(|settings| settings.uploads_limit = Some(30_000)).await;
    let bytes = vec![1; 20_000];
    let storage = api.dir.path().join("storage/datasets");
    api.delete("/v1/datasets/pets/uploads/mine").await.says(404, &["no unfinished upload of that name"]);
    put(&api, "pets?upload=mine", &bytes, 0..10_000).await.expect(202);
    put(&api, "pets?upload=mine", &bytes, 10_000..19_000).await.expect(202);
    put(&api, "pets?upload=other", &bytes, 0..10)
        .await
        .says(409, &["no space for this data set", "DELETE /v1/datasets/{name}/uploads/{upload}"]);
    api.delete("/v1/datasets/pets/uploads/mine").await.expect(204);
    assert_eq!(files_below(&storage), Vec::<String>::new());
    api.get("/v1/datasets/pets/uploads/mine").await.problem(404);
    put(&api, "pets?upload=other", &bytes, 0..10).await.expect(202);
    api.delete("/v1/datasets/pets/uploads/mine").await.problem(404);
    assert_eq!(api.get("/v1/datasets/pets/uploads/other").await.expect(200)["received_bytes"], 10);
}

/// Bytes that the sockets and the server cannot hold: once the client has handed over so many, a handler reads them.
const MORE_THAN_BUFFERS: usize = 32 << 20;

#[tokio::test]
async fn a_piece_that_comes_while_its_upload_is_given_up_is_not_kept() {
    let api = Api::start().await;
    let size = MORE_THAN_BUFFERS + 20;
    put(&api, "pets?upload=mine", &vec![0; size], 0..10).await.expect(202);
    let (mut send, receive) = futures::channel::mpsc::channel::<std::io::Result<Vec<u8>>>(0);
    let request = api.request(Method::PUT, "/v1/datasets/pets?upload=mine");
    let request = request.header("content-range", format!("bytes 10-{}/{size}", size - 2));
    let piece = tokio::spawn(request.body(reqwest::Body::wrap_stream(receive)).send());
    for _ in 0..MORE_THAN_BUFFERS >> 20 {
        send.send(Ok(vec![0; 1 << 20])).await.unwrap();
    }
    api.delete("/v1/datasets/pets/uploads/mine").await.expect(204);
    send.send(Ok(vec![0; 9])).await.unwrap();
    drop(send);
    Answer::read(piece.await.unwrap().unwrap()).await.says(409, &["deleted in the meantime: begin again at byte 0"]);
    assert_eq!(files_below(&api.dir.path().join("storage/datasets")), Vec::<String>::new());
}

#[tokio::test]
async fn a_piece_that_storage_has_damaged_is_noticed() {
    let api = Api::start().await;
    let bytes = zip(&pets());
    let half = bytes.len() / 2;
    put(&api, "pets?upload=mine", &bytes, 0..half).await.expect(202);
    let storage = api.dir.path().join("storage/datasets");
    let [piece] = <[String; 1]>::try_from(files_below(&storage)).unwrap();
    std::fs::write(storage.join(piece), vec![0; half]).unwrap();
    put(&api, "pets?upload=mine", &bytes, half..bytes.len()).await.says(409, &["damaged", "begin again at byte 0"]);
    put(&api, "pets?upload=mine", &bytes, 0..half).await.expect(202);
    put(&api, "pets?upload=mine", &bytes, half..bytes.len()).await.expect(201);
}

#[tokio::test]
async fn shards_come_in_pieces_too() {
    let api = Api::start().await;
    let bytes = parquet(&[(ppm([1, 2, 3]), 0), (ppm([3, 2, 1]), 1)]);
    put(&api, "pets?upload=mine&split=train", &bytes, 0..100).await.expect(202);
    let details = put(&api, "pets?upload=mine&split=train", &bytes, 100..bytes.len()).await.expect(201);
    assert_eq!((&details["format"], &details["images"]), (&json!("parquet"), &json!(2)));
}

#[tokio::test]
async fn a_piece_says_what_it_is() {
    let api = Api::start().await;
    let send = async |query: &str, range: Option<&str>| {
        let request = api.request(Method::PUT, &format!("/v1/datasets/pets{query}")).body(vec![1; 10]);
        let request = if let Some(range) = range { request.header("content-range", range) } else { request };
        api.send(request).await
    };
    send("", Some("bytes 0-9/20")).await.says(400, &["upload: is required with Content-Range"]);
    send("?upload=mine", None).await.says(400, &["Content-Range is required with upload"]);
    send("?upload=a.b", Some("bytes 0-9/20")).await.says(400, &["letters, digits and characters of _-"]);
    for range in ["0-9/20", "bytes 9-0/20", "bytes 0-20/20", "bytes 0-9/*", "bytes */20", "bytes -1-9/20"] {
        send("?upload=mine", Some(range)).await.says(400, &["FIRST-LAST/SIZE"]);
    }
    send("?upload=mine", Some("bytes 0-8/20"))
        .await
        .says(400, &["the body has 10 bytes, but its Content-Range says 9"]);
    api.get("/v1/datasets/pets/uploads/mine").await.problem(404);
}
