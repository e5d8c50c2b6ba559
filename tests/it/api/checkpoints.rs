//! Promise: an uploaded checkpoint is stored once and described, and a file that is none is refused with a reason.

use std::collections::BTreeMap;

use crate::support::api::{Api, checkpoint, student_job};
use distillery::artifacts::keys;
use distillery::checkpoint::{Dtype, NewTensor};
use distillery::db::checkpoints::{self, UploadedCheckpoint};
use distillery::db::file_deletions;
use futures::StreamExt;
use reqwest::Method;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Files below the storage and the spool.
fn files_left(api: &Api) -> usize {
    fn count(path: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
    }
    count(&api.dir.path().join("storage")) + count(&api.dir.path().join("spool"))
}

#[tokio::test]
async fn an_upload_is_described_and_the_same_bytes_are_the_same_checkpoint() {
    let api = Api::start().await;
    let bytes = checkpoint("resnet20", 10);
    let sha256 = hex::encode(Sha256::digest(&bytes));
    let answer = api.upload("?name=a%20teacher&architecture=resnet20&num_classes=10", bytes.clone()).await;
    let location = answer.header("location").to_owned();
    let first = answer.expect(201);
    assert_eq!(first["id"], format!("ckpt_{}", &sha256[..32]));
    assert_eq!(location, format!("/v1/checkpoints/{}", first["id"].as_str().unwrap()));
    assert_eq!(first["sha256"], sha256);
    assert_eq!(first["size_bytes"], bytes.len());
    assert_eq!(first["format"], "safetensors");
    assert_eq!(first["name"], "a teacher");
    assert_eq!(first["architecture"], "resnet20");
    assert_eq!(first["num_classes"], 10);
    assert_eq!(first["fits"], json!([{"architecture": "resnet20", "num_classes": 10}]));
    let certain = json!({"architecture": "resnet20", "num_classes": 10, "certainty": "certain", "agreement": 1.0});
    assert_eq!(first["guess"], certain);
    assert!(first["tensors"].as_u64() > Some(100) && first["parameters"].as_u64() > Some(200_000), "{first}");

    let second = api.upload("", bytes.clone()).await.expect(200);
    assert_eq!(second, first);
    let third =
        api.send(api.request(Method::POST, "/v1/checkpoints?name=renamed").body(bytes.clone())).await.expect(200);
    assert_eq!((&third["id"], &third["name"]), (&first["id"], &json!("renamed")));
    assert_eq!(api.get(&location).await.expect(200), third);
    assert_eq!(files_left(&api), 1, "stored once");
    assert!(std::fs::read(stored_file(&api, &sha256)).unwrap() == bytes);
}

/// The file of the only checkpoint in storage.
fn stored_file(api: &Api, sha256: &str) -> std::path::PathBuf {
    let found: Vec<_> = std::fs::read_dir(api.dir.path().join("storage/checkpoints")).unwrap().flatten().collect();
    let [only] = found.as_slice() else { panic!("{found:?}") };
    assert!(only.file_name().to_str().unwrap().starts_with(sha256), "{only:?}");
    only.path()
}

#[tokio::test]
async fn an_upload_mends_a_file_that_was_damaged_or_lost_in_storage() {
    let api = Api::start().await;
    let bytes = checkpoint("resnet8", 10);
    let first = api.upload("?name=first", bytes.clone()).await.expect(201);
    let sha256 = first["sha256"].as_str().unwrap();
    let whole = stored_file(&api, sha256);
    assert_eq!(api.upload("", bytes.clone()).await.expect(200), first);
    assert_eq!(stored_file(&api, sha256), whole, "what is whole stays where it is");

    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&whole, damaged).unwrap();
    assert_eq!(api.upload("", bytes.clone()).await.expect(200), first);
    let mended = stored_file(&api, sha256);
    assert!(std::fs::read(&mended).unwrap() == bytes);

    std::fs::remove_file(mended).unwrap();
    assert_eq!(api.upload("", bytes.clone()).await.expect(200), first);
    assert!(std::fs::read(stored_file(&api, sha256)).unwrap() == bytes);
}

/// A checkpoint of resnet20 with one more tensor, of this name.
fn resnet20_with(name: &str) -> Vec<u8> {
    let bytes = [0; 4 * 64 * 10];
    let layout = distillery::architecture::find("resnet20").unwrap().layout(10);
    let sizes: Vec<Vec<u64>> = layout.entries.iter().map(|entry| entry.shape.clone()).collect();
    let zeros: Vec<Vec<u8>> =
        sizes.iter().map(|shape| vec![0; 4 * usize::try_from(shape.iter().product::<u64>()).unwrap()]).collect();
    let mut tensors: Vec<NewTensor<'_>> = layout
        .entries
        .iter()
        .zip(&zeros)
        .map(|(entry, bytes)| NewTensor { name: &entry.key, dtype: Dtype::F32, shape: &entry.shape, bytes })
        .collect();
    tensors.push(NewTensor { name, dtype: Dtype::F32, shape: &[10, 64], bytes: &bytes });
    let file = tempfile::NamedTempFile::new().unwrap();
    distillery::checkpoint::write(file.path(), &tensors, &BTreeMap::new()).unwrap();
    std::fs::read(file.path()).unwrap()
}

#[tokio::test]
async fn a_checkpoint_that_fits_no_network_is_stored_with_a_guess_and_the_difference() {
    let api = Api::start().await;
    let found = api.upload("", resnet20_with("head.weight")).await.expect(201);
    assert_eq!((&found["architecture"], &found["fits"]), (&json!(null), &json!([])));
    let guess = &found["guess"];
    assert_eq!((guess["architecture"].as_str(), guess["certainty"].as_str()), (Some("resnet20"), Some("near")));
    assert!(guess["agreement"].as_f64() > Some(0.98) && guess["agreement"].as_f64() < Some(1.0), "{guess}");
    assert_eq!(guess["difference"], "the network has no head.weight");
    let notes = found["notes"].as_array().unwrap();
    let [note] = notes.as_slice() else { panic!("{notes:?}") };
    let note = note.as_str().unwrap();
    let begins = "it fits no known architecture, so no job can use it, and its values are not checked; the nearest is \
                  resnet20: the network has no head.weight. Export a network of your own";
    assert!(note.starts_with(begins), "{note}");
    assert!(note.contains("torch.export.save(program, \"network.pt2\")"), "{note}");
    let id = found["id"].as_str().unwrap();
    assert_eq!(api.get(&format!("/v1/checkpoints/{id}")).await.expect(200), found);
    assert_eq!(api.get("/v1/checkpoints").await.expect(200)["data"], json!([found]));
}

#[tokio::test]
async fn names_that_the_database_cannot_hold_are_stored_without_their_nul() {
    let api = Api::start().await;
    let id = api.upload("", resnet20_with("head\0.weight")).await.expect(201)["id"].as_str().unwrap().to_owned();
    let found = api.get(&format!("/v1/checkpoints/{id}")).await.expect(200);
    assert_eq!(found["guess"]["difference"], "the network has no head\u{fffd}.weight");
    assert!(found["notes"][0].as_str().unwrap().contains("head\u{fffd}.weight"), "{found}");
}

#[tokio::test]
async fn what_a_newer_server_noted_of_a_checkpoint_keeps_none_from_being_listed() {
    let api = Api::start().await;
    let id = api.upload("", checkpoint("resnet8", 10)).await.expect(201)["id"].as_str().unwrap().to_owned();
    api.upload("", checkpoint("resnet20", 10)).await.expect(201);
    let update = r#"update checkpoints set guess = jsonb_set(guess, '{certainty}', '"proven"') where id = $1"#;
    sqlx::query(update).bind(&id).execute(&api.db.pool).await.unwrap();
    let list = api.get("/v1/checkpoints").await.expect(200);
    assert_eq!((list["data"].as_array().unwrap().len(), &list["data"][0]["notes"]), (2, &json!([])));
    let known = &list["data"][1];
    assert_eq!((&known["guess"], &known["fits"][0]["architecture"]), (&json!(null), &json!("resnet8")));
    let notes = known["notes"].to_string();
    assert!(notes.contains("proven") && notes.contains("update this server"), "{notes}");
    let dry = student_job(json!({"architecture": "resnet8", "checkpoint": id}));
    api.post("/v1/jobs?dry_run=true", &dry).await.expect(200);
}

#[tokio::test]
async fn what_cannot_be_read_of_a_checkpoint_keeps_none_from_being_listed() {
    let api = Api::start().await;
    let id = api.upload("", checkpoint("resnet8", 10)).await.expect(201)["id"].as_str().unwrap().to_owned();
    api.upload("", checkpoint("resnet20", 10)).await.expect(201);
    for (assignment, said) in [
        ("fits = '[1e400]'", "which networks it fits"),
        (r#"fits = '"resnet8"'"#, "which networks it fits"),
        (r#"guess = '{"share": 1e400}'"#, "which networks it fits"),
        ("guess = (repeat('[', 200) || repeat(']', 200))::jsonb", "which networks it fits"),
        (r#"network = '{"macs": 1e400}'"#, "its network"),
        ("notes = array['a note', null]", "a note"),
        ("notes = '{{a note,b},{c,null}}'", "a note"),
    ] {
        let update = format!("update checkpoints set {assignment} where id = $1");
        sqlx::query(sqlx::AssertSqlSafe(update)).bind(&id).execute(&api.db.pool).await.unwrap();
        let list = api.get("/v1/checkpoints").await.expect(200);
        assert_eq!((list["data"].as_array().unwrap().len(), &list["data"][1]["id"]), (2, &json!(id)), "{assignment}");
        let notes = &api.get(&format!("/v1/checkpoints/{id}")).await.expect(200)["notes"];
        assert!(notes.to_string().contains(said), "{assignment}: {notes}");
        let dry = student_job(json!({"architecture": "resnet8", "checkpoint": id}));
        let dry = api.post("/v1/jobs?dry_run=true", &dry).await;
        assert!(!dry.status.is_server_error(), "{assignment}: {}", dry.text());
    }
}

#[tokio::test]
async fn files_of_torch_save_are_read_whatever_their_extension() {
    let api = Api::start().await;
    for (file, format) in [("zip.pth", "torch_zip"), ("legacy.th", "torch_legacy"), ("data_parallel.pth", "torch_zip")]
    {
        let bytes = std::fs::read(format!("tests/fixtures/checkpoints/{file}")).unwrap();
        let found = api.upload("", bytes).await.expect(201);
        assert_eq!(found["format"], format, "{file}");
    }
}

#[tokio::test]
async fn a_checkpoint_of_another_network_is_refused_with_what_it_fits() {
    let api = Api::start().await;
    let bytes = checkpoint("resnet56", 10);
    let answer = api.upload("?architecture=resnet20", bytes.clone()).await;
    answer.says(422, &["the checkpoint does not fit resnet20", "it fits resnet56"]);
    api.upload("?architecture=resnet56&num_classes=100", bytes.clone()).await.says(422, &["[10, 64]", "[100, 64]"]);
    api.upload("?num_classes=100", bytes.clone()).await.says(422, &["resnet56 with 10 classes, not 100"]);
    api.upload("?architecture=resnet57", bytes.clone()).await.says(400, &["resnet57"]);
    api.upload("?architecure=resnet56", bytes.clone()).await.says(400, &["architecure", "architecture"]);
    api.upload("?num_classes=0", bytes.clone()).await.says(400, &["num_classes", "1 to 1000000"]);
    api.upload("?name=", bytes).await.expect(201);
    assert_eq!(files_left(&api), 1, "what was refused is not kept");
}

#[tokio::test]
async fn hostile_and_broken_files_are_refused_with_the_reason() {
    let api = Api::start().await;
    // os.system("true") as a pickle.
    let hostile = b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03.".to_vec();
    api.upload("", hostile).await.says(422, &["refused", "posix.system", "state_dict()"]);
    let mut truncated = checkpoint("resnet8", 10);
    truncated.truncate(truncated.len() / 2);
    api.upload("", truncated).await.says(422, &["truncated"]);
    api.upload("", "<html>not found</html>").await.says(422, &["web page"]);
    let whole_model = std::fs::read("tests/fixtures/checkpoints/whole_model.pth").unwrap();
    api.upload("", whole_model).await.says(422, &["refused", "state_dict()"]);
    api.upload("", "").await.says(400, &["empty", "curl -T"]);
    let form = api.request(Method::POST, "/v1/checkpoints").header("content-type", "multipart/form-data; boundary=x");
    api.send(form.body("--x--")).await.says(415, &["curl -T"]);
    assert_eq!(files_left(&api), 0);
    assert_eq!(api.get("/v1/checkpoints").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn an_upload_above_the_limit_is_refused_announced_or_not() {
    let api = Api::start_with(|settings| settings.checkpoint_limit = 1000).await;
    api.upload("", vec![b'{'; 1001]).await.says(413, &["1000 bytes"]);
    let pieces = futures::stream::iter((0..11).map(|_| Ok::<_, std::io::Error>(vec![b'{'; 100])));
    api.upload("", reqwest::Body::wrap_stream(pieces)).await.says(413, &["1000 bytes"]);
    api.upload("", vec![b'{'; 1000]).await.problem(422);
    assert_eq!(files_left(&api), 0);
}

#[tokio::test]
async fn an_interrupted_or_stalled_upload_leaves_nothing() {
    let api = Api::start_with(|settings| settings.upload_timeout = std::time::Duration::from_millis(300)).await;
    let half = checkpoint("resnet8", 10);
    let first = half[..1000].to_vec();
    let broken = futures::stream::iter([Ok(first.clone()), Err(std::io::Error::other("the client goes away"))]);
    let sent = api.request(Method::PUT, "/v1/checkpoints").body(reqwest::Body::wrap_stream(broken)).send().await;
    assert!(sent.is_err());
    let endless = futures::stream::iter([Ok::<_, std::io::Error>(first)]).chain(futures::stream::pending());
    api.upload("", reqwest::Body::wrap_stream(endless)).await.says(408, &["paused"]);
    assert_eq!(api.get("/v1/checkpoints").await.expect(200)["data"], json!([]));
    assert_eq!(files_left(&api), 0);
}

#[tokio::test]
async fn an_upload_above_the_concurrency_limit_gets_retry_after() {
    let api = Api::start_with(|settings| settings.uploads = 0).await;
    let answer = api.upload("", checkpoint("resnet8", 10)).await;
    assert_eq!(answer.header("retry-after"), "2");
    answer.problem(503);
}

#[tokio::test]
async fn the_same_checkpoint_uploaded_many_times_at_once_is_one() {
    let api = Api::start().await;
    let bytes = checkpoint("resnet8", 10);
    let uploads = futures::future::join_all((0..6).map(|_| api.upload("", bytes.clone()))).await;
    let mut new = 0;
    for answer in uploads {
        new += usize::from(answer.status == 201);
        let status = answer.status.as_u16();
        assert!([200, 201].contains(&status), "{answer:?}");
    }
    assert_eq!(new, 1);
    assert_eq!(files_left(&api), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_same_checkpoint_stored_at_once_are_one() {
    let api = Api::start().await;
    let uploaded = api.upload("", checkpoint("resnet8", 10)).await.expect(201);
    let template: UploadedCheckpoint = serde_json::from_value(uploaded).unwrap();
    // Uploads seldom get here in the same instant: many rounds without the rest of an upload.
    for round in 0..100 {
        let sha256 = hex::encode(Sha256::digest([round]));
        let new = UploadedCheckpoint { id: checkpoints::id_of(&sha256), sha256, ..template.clone() };
        let insert = || {
            let (pool, new) = (api.db.pool.clone(), new.clone());
            tokio::spawn(async move {
                let key = keys::checkpoint(&new.sha256, &keys::unique());
                file_deletions::announce(&pool, &key).await?;
                checkpoints::insert(&pool, &new, &key, None).await
            })
        };
        let stored = futures::future::join_all((0..6).map(|_| insert())).await;
        let stored: Vec<_> = stored.into_iter().map(|one| one.unwrap().unwrap().expect("just announced")).collect();
        assert_eq!(stored.iter().filter(|one| one.is_new).count(), 1);
        assert_eq!(stored.iter().filter(|one| one.superseded.is_none()).count(), 1, "one file stays");
    }
}

#[tokio::test]
async fn the_list_has_pages() {
    let api = Api::start().await;
    let mut ids = Vec::new();
    for classes in 1..=5 {
        ids.insert(0, api.upload("", checkpoint("resnet8", classes)).await.expect(201)["id"].clone());
    }
    let mut seen = Vec::new();
    let mut path = "/v1/checkpoints?limit=2".to_owned();
    loop {
        let page = api.get(&path).await.expect(200);
        seen.extend(page["data"].as_array().unwrap().iter().map(|one| one["id"].clone()));
        let Some(next) = page["next"].as_str() else {
            assert_eq!(page["has_more"], false);
            break;
        };
        assert_eq!(page["has_more"], true);
        // The page's last entry may be gone when the next page is asked for.
        let last = seen.last().unwrap().as_str().unwrap();
        api.delete(&format!("/v1/checkpoints/{last}")).await.expect(204);
        path = format!("/v1/checkpoints?limit=2&after={next}");
    }
    assert_eq!(seen, ids);
    api.get("/v1/checkpoints?after=nonsense").await.says(400, &["after"]);
    api.get("/v1/checkpoints?limit=0").await.says(400, &["limit", "1 to 100"]);
}

#[tokio::test]
async fn a_checkpoint_is_deleted_unless_a_job_needs_it() {
    let api = Api::start().await;
    let checkpoint = api.upload("", checkpoint("resnet20", 10)).await.expect(201);
    let path = format!("/v1/checkpoints/{}", checkpoint["id"].as_str().unwrap());
    let job = student_job(json!({"architecture": "resnet20", "checkpoint": checkpoint["id"]}));
    let job = api.post("/v1/jobs", &job).await.expect(201)["id"].as_str().unwrap().to_owned();
    api.delete(&path).await.says(409, &[&job]);
    api.ask(&format!("/v1/jobs/{job}/cancel")).await.expect(202);
    assert!(api.delete(&path).await.expect(204).is_null());
    assert_eq!(files_left(&api), 0);
    api.get(&path).await.says(404, &["there is no checkpoint"]);
    api.delete(&path).await.problem(404);
    api.ask(&format!("/v1/jobs/{job}/retry")).await.says(409, &["upload it again"]);
    for id in ["ckpt_1", "ckpt_..%2f..%2fx", "job_1", "ckpt_ABCDEFABCDEFABCDEFABCDEFABCDEF00"] {
        api.get(&format!("/v1/checkpoints/{id}")).await.problem(404);
    }
}

#[tokio::test]
async fn an_upload_to_a_path_with_the_files_name_is_told_the_right_one() {
    let api = Api::start().await;
    let upload = api.request(Method::PUT, "/v1/checkpoints/resnet.pth").body("weights");
    api.send(upload).await.says(405, &["to /v1/checkpoints without a slash"]);
    for path in ["/v1/checkpoints/resnet.pth", "/v1/datasets/pets", "/v1/datasets"] {
        let form = api.request(Method::POST, path).body("--form");
        api.send(form).await.says(405, &["PUT the file itself", "curl -T FILE"]);
    }
}
