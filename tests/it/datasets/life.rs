//! Data sets from upload to deletion.

use distillery::db::jobs::Change;
use serde_json::{Value, json};

use crate::support::api::{Api, plain_job};
use crate::support::archives::{gzip, pets, ppm, tar, zip, zstd};
use crate::support::worker::files_below;

fn on(dataset: &str) -> Value {
    let mut job = plain_job();
    job["dataset"] = json!({"name": dataset});
    job
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a text, not {value}"))
}

#[tokio::test]
async fn the_same_files_are_the_same_version_however_they_are_packed() {
    let api = Api::start().await;
    let first = api.upload_dataset("pets", zip(&pets())).await;
    let location = first.header("location").to_owned();
    let first = first.expect(201);
    assert_eq!(location, format!("/v1/datasets/{}", text(&first["id"])));
    assert_eq!(first["id"], format!("pets@{}", text(&first["version"])));
    assert_eq!(text(&first["version"]).len(), 16);
    let mut reversed = pets();
    reversed.reverse();
    let noise = [pets(), vec![("__MACOSX/train/cat/._1.ppm", vec![1]), (".DS_Store", vec![2])]].concat();
    for bytes in [zip(&reversed), tar(&pets()), gzip(&tar(&pets())), zstd(&tar(&pets())), zip(&noise)] {
        assert_eq!(api.upload_dataset("pets", bytes).await.expect(200)["id"], first["id"]);
    }
    assert_eq!(files_below(&api.dir.path().join("storage/datasets")).len(), 1);
    let other = api.upload_dataset("animals", zip(&pets())).await.expect(201);
    assert_eq!(other["version"], first["version"]);
}

#[tokio::test]
async fn what_is_left_out_is_said() {
    let api = Api::start().await;
    let noise = [vec![("__MACOSX/train/cat/._1.ppm", vec![1]), (".DS_Store", vec![2])], pets()].concat();
    let details = api.upload_dataset("pets", zip(&noise)).await.expect(201);
    let note = text(&details["notes"][0]);
    assert!(
        note.starts_with("left out of the archive: 2 entries") && note.ends_with("such as __MACOSX/train/cat/._1.ppm"),
        "{note}"
    );
}

#[tokio::test]
async fn a_name_means_the_latest_version_and_a_job_is_pinned_to_it() {
    let api = Api::start().await;
    let old = api.upload_dataset("pets", zip(&pets())).await.expect(201);
    let posted = api.post("/v1/jobs", &on("pets")).await.expect(201);
    assert_eq!(posted["spec"]["dataset"]["name"], old["id"]);
    let more = [pets(), vec![("train/cat/4.ppm", ppm([1, 2, 3]))]].concat();
    let new = api.upload_dataset("pets", zip(&more)).await.expect(201);
    assert_ne!(new["id"], old["id"]);

    let dry = api.post("/v1/jobs?dry_run=true", &on("pets")).await.expect(200);
    assert_eq!((&dry["spec"]["dataset"]["name"], &dry["train_images"]), (&new["id"], &json!(7)));
    let short = &text(&old["id"])[.."pets@".len() + 6];
    let dry = api.post("/v1/jobs?dry_run=true", &on(short)).await.expect(200);
    assert_eq!((&dry["spec"]["dataset"]["name"], &dry["train_images"]), (&old["id"], &json!(6)));
    let job = api.get(&format!("/v1/jobs/{}", text(&posted["id"]))).await.expect(200);
    assert_eq!(job["spec"]["dataset"]["name"], old["id"]);

    let listed = api.get("/v1/datasets").await.expect(200);
    let listed: Vec<_> = listed["data"].as_array().unwrap().iter().filter(|one| one["name"] == "pets").collect();
    assert_eq!((listed.len(), &listed[0]["version"], &listed[0]["images"]), (1, &new["version"], &json!(9)));
    let details = api.get("/v1/datasets/pets").await.expect(200);
    let versions: Vec<_> = details["versions"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!((&details["id"], versions), (&new["id"], vec![&new["id"], &old["id"]]));
    // The name means the last upload, even if its version is not new.
    api.upload_dataset("pets", zip(&pets())).await.expect(200);
    assert_eq!(api.get("/v1/datasets/pets").await.expect(200)["id"], old["id"]);
    let fault = api.post("/v1/jobs", &on("pet")).await.problem(422);
    assert!(text(&fault["errors"][0]["detail"]).contains("did you mean pets?"), "{fault}");
}

#[tokio::test]
async fn a_directory_of_the_same_name_comes_first_and_a_job_is_told() {
    let api = Api::start().await;
    let upload = api.upload_dataset("pets", zip(&pets())).await.expect(201);
    let datasets = api.dir.path().join("datasets");
    std::fs::rename(datasets.join("ten"), datasets.join("pets")).unwrap();
    let dry = api.post("/v1/jobs?dry_run=true", &on("pets")).await.expect(200);
    assert_eq!((&dry["spec"]["dataset"]["name"], &dry["classes"]), (&json!("pets"), &json!(10)));
    assert!(dry["warnings"].to_string().contains("an upload has the same name"), "{}", dry["warnings"]);
    let dry = api.post("/v1/jobs?dry_run=true", &on(text(&upload["id"]))).await.expect(200);
    assert_eq!(dry["classes"], 2);
}

#[tokio::test]
async fn a_version_that_a_newer_server_described_is_not_offered_and_disturbs_no_other() {
    let api = Api::start().await;
    let old = api.upload_dataset("pets", zip(&pets())).await.expect(201);
    let more = [pets(), vec![("train/cat/4.ppm", ppm([1, 2, 3]))]].concat();
    let new = api.upload_dataset("pets", zip(&more)).await.expect(201);
    api.upload_dataset("animals", zip(&pets())).await.expect(201);
    let update = r#"update datasets set summary = jsonb_set(summary, '{format}', '"lance"') where id = $1"#;
    sqlx::query(update).bind(text(&new["id"])).execute(&api.db.pool).await.unwrap();
    let says = [text(&new["id"]), "lance", "update this server"];

    let list = api.get("/v1/datasets").await.expect(200);
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["animals", "hundred", "ten"]);
    let unusable = &list["unusable"][0];
    assert_eq!(unusable["name"], "pets");
    assert!(says.iter().all(|words| text(&unusable["reason"]).contains(words)), "{unusable}");
    // The name means what came last, and never silently another version.
    api.post("/v1/jobs", &on("pets")).await.says(409, &says);
    api.get("/v1/datasets/pets").await.says(409, &says);
    let details = api.get(&format!("/v1/datasets/{}", text(&old["id"]))).await.expect(200);
    assert_eq!(details["versions"].as_array().unwrap().len(), 1);
    assert!(details["notes"].to_string().contains("lance"), "{details}");
    for dataset in [text(&old["id"]), "animals", "ten"] {
        api.post("/v1/jobs", &on(dataset)).await.expect(201);
    }
    api.delete(&format!("/v1/datasets/{}", text(&new["id"]))).await.expect(204);
    assert_eq!(api.get("/v1/datasets/pets").await.expect(200)["id"], old["id"]);
}

#[tokio::test]
async fn a_description_that_cannot_be_read_keeps_no_other_data_set_from_being_listed() {
    let api = Api::start().await;
    let foreign = api.upload_dataset("pets", zip(&pets())).await.expect(201);
    api.upload_dataset("animals", zip(&pets())).await.expect(201);
    for (assignment, is_usable) in [
        ("statistics = '1e400'", true),
        ("uploaded_at = 'infinity'", true),
        ("classes = '[1e400]'", false),
        ("summary = jsonb_set(summary, '{format}', (repeat('[', 200) || repeat(']', 200))::jsonb)", false),
        ("summary = '1e400'", false),
    ] {
        let update = format!("update datasets set {assignment} where id = $1");
        sqlx::query(sqlx::AssertSqlSafe(update)).bind(text(&foreign["id"])).execute(&api.db.pool).await.unwrap();
        let list = api.get("/v1/datasets").await.expect(200);
        let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|one| text(&one["name"])).collect();
        assert!(names.contains(&"animals") && names.contains(&"ten"), "{assignment}: {names:?}");
        assert_eq!(names.contains(&"pets"), is_usable, "{assignment}");
        let details = api.get("/v1/datasets/pets").await;
        assert_eq!(details.status, if is_usable { 200 } else { 409 }, "{assignment}: {}", details.text());
        api.post("/v1/jobs?dry_run=true", &on("animals")).await.expect(200);
    }
}

#[tokio::test]
async fn a_version_is_deleted_once_no_unfinished_job_needs_it() {
    let api = Api::start().await;
    let version = api.upload_dataset("pets", zip(&pets())).await.expect(201);
    let id = text(&version["id"]);
    let job = api.post("/v1/jobs", &on("pets")).await.expect(201);
    let job = text(&job["id"]);
    for path in ["/v1/datasets/pets".to_owned(), format!("/v1/datasets/{id}")] {
        api.delete(&path).await.says(409, &["cannot be deleted", job, id]);
    }
    api.db.change(job, Change::Cancel).await;
    api.delete("/v1/datasets/pets").await.expect(204);
    api.get("/v1/datasets/pets").await.problem(404);
    assert_eq!(files_below(&api.dir.path().join("storage/datasets")), Vec::<String>::new());
    api.delete("/v1/datasets/pets").await.problem(404);
    api.ask(&format!("/v1/jobs/{job}/retry")).await.says(409, &[id, "has been deleted: upload it again first"]);
    api.upload_dataset("pets", zip(&pets())).await.expect(201);
    api.ask(&format!("/v1/jobs/{job}/retry")).await.expect(202);
    api.delete("/v1/datasets/pets").await.says(409, &[job]);
    api.delete("/v1/datasets/ten").await.says(409, &["which only its operator can remove"]);
}

#[tokio::test]
async fn an_upload_mends_what_storage_has_damaged() {
    let api = Api::start().await;
    let first = api.upload_dataset("pets", zip(&pets())).await.expect(201);
    let storage = api.dir.path().join("storage/datasets");
    let [file] = <[String; 1]>::try_from(files_below(&storage)).unwrap();
    std::fs::write(storage.join(&file), "damaged").unwrap();
    assert_eq!(api.upload_dataset("pets", zip(&pets())).await.expect(200)["id"], first["id"]);
    let [mended] = <[String; 1]>::try_from(files_below(&storage)).unwrap();
    assert_ne!(mended, file);
    assert!(mended.starts_with(&text(&first["version"])[..16]));
}

#[tokio::test]
async fn data_sets_count_towards_the_limit_of_uploads() {
    let api = Api::start_with(|settings| settings.uploads_limit = Some(15_000)).await;
    api.upload_dataset("pets", zip(&pets())).await.expect(201);
    let more = [pets(), vec![("train/cat/4.ppm", ppm([1, 2, 3]))]].concat();
    let refused = api.upload_dataset("pets", zip(&more)).await;
    refused.says(409, &["no space for this data set", "15000 bytes", "DELETE /v1/datasets/{name}"]);
    api.upload_dataset("pets", zip(&pets())).await.expect(200);
    api.delete("/v1/datasets/pets").await.expect(204);
    api.upload_dataset("pets", zip(&more)).await.expect(201);
}
