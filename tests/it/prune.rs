//! Promise: `distillery prune` removes what its rules say and unreferenced files, and never what is needed.

use crate::support::api::{Api, checkpoint, plain_job, student_job};
use crate::support::archives::{parquet, pets, ppm, zip};
use crate::support::process::distillery;
use bytes::Bytes;
use distillery::artifacts::keys;
use distillery::db::file_deletions;
use distillery::db::queue::{self, SavedCheckpoint};
use serde_json::json;

/// Runs `distillery prune` on what the API has, and returns what it says.
async fn prune(api: &Api, flags: &[&str]) -> String {
    let output = tokio::process::Command::from(distillery())
        .arg("prune")
        .args(flags)
        .arg("--storage")
        .arg(api.dir.path().join("storage"))
        .env("DATABASE_URL", &api.db.url)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The keys of all files but the one that tells this storage from others.
async fn stored(api: &Api) -> Vec<String> {
    let mut keys: Vec<String> = api.store.list().await.unwrap().into_iter().map(|file| file.key).collect();
    keys.retain(|key| key != keys::STORAGE_ID);
    keys.sort();
    keys
}

async fn put(api: &Api, key: &str) {
    let bytes = futures::stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from_static(b"bytes"))]);
    api.store.put_stream(key, bytes).await.unwrap();
}

/// A job that finished this many days ago, with its files.
async fn finished(api: &Api, days: i32) -> String {
    let id = api.job().await;
    api.publish(&api.claim().await, &[("student.safetensors", b"student"), ("manifest.json", b"{}")]).await;
    let update = "update jobs set finished_at = now() - make_interval(days => $1) where id = $2";
    sqlx::query(update).bind(days).bind(&id).execute(&api.db.pool).await.unwrap();
    id
}

#[tokio::test]
async fn old_jobs_go_with_their_files_and_a_dry_run_removes_nothing() {
    let api = Api::start().await;
    let (old, kept, young) = (finished(&api, 40).await, finished(&api, 50).await, finished(&api, 1).await);
    let label = "update jobs set labels = '{\"keep\": \"yes\"}' where id = $1";
    sqlx::query(label).bind(&kept).execute(&api.db.pool).await.unwrap();
    let before = stored(&api).await;
    let rules = ["--older-than-days", "30", "--keep-last", "1"];
    let would = prune(&api, &[&rules[..], &["--dry-run"]].concat()).await;
    assert!(
        would.contains(&format!("would remove job {old}")) && would.contains("1 of 3 finished jobs (9 bytes)"),
        "{would}"
    );
    assert_eq!(stored(&api).await, before);
    api.get(&format!("/v1/jobs/{old}")).await.expect(200);

    let did = prune(&api, &rules).await;
    assert!(
        did.contains(&format!("removed job {old}")) && did.contains("removed 1 of 3 finished jobs (9 bytes)"),
        "{did}"
    );
    api.get(&format!("/v1/jobs/{old}")).await.problem(404);
    for id in [&kept, &young] {
        assert_eq!(api.get(&format!("/v1/jobs/{id}/student")).await.body, b"student");
    }
    assert!(!stored(&api).await.iter().any(|key| key.contains(&old)));
    assert!(prune(&api, &rules).await.contains("removed 0 of 2 finished jobs"));
}

#[tokio::test]
async fn a_result_that_cannot_be_read_keeps_no_other_job_from_being_pruned() {
    let api = Api::start().await;
    let (strange, old) = (finished(&api, 50).await, finished(&api, 40).await);
    let result = "update jobs set result = jsonb_set(result, '{best_top1}', '\"not measured\"') where id = $1";
    sqlx::query(result).bind(&strange).execute(&api.db.pool).await.unwrap();
    let said = prune(&api, &["--older-than-days", "30", "--keep-best", "1"]).await;
    assert!(
        said.contains(&format!("removed job {strange}")) && said.contains("removed 1 of 2 finished jobs"),
        "{said}"
    );
    api.get(&format!("/v1/jobs/{old}")).await.expect(200);
}

#[tokio::test]
async fn a_state_of_another_form_keeps_the_files_of_its_job_and_no_others() {
    let api = Api::start().await;
    let (job, other) = (api.job().await, api.job().await);
    let kept = format!("jobs/{job}/attempts/1/state/shard-1");
    put(&api, &kept).await;
    for checkpoint in [
        r#"checkpoint = '{"epoch": 1, "step": 2, "shards": ["a", "b"]}'"#,
        r#"checkpoint = '{"key": null}'"#,
        r#"checkpoint = '{"key": 7}'"#,
        r#"checkpoint = '{"key": "elsewhere"}'"#,
        r#"checkpoint = '["key"]'"#,
        r#"checkpoint = '"key"'"#,
        "checkpoint = 'null'",
    ] {
        api.db.set(&job, checkpoint).await;
        let orphan = format!("jobs/{other}/attempts/1/student.safetensors");
        put(&api, &orphan).await;
        let said = prune(&api, &["--orphan-minutes", "0"]).await;
        assert!(said.contains(&orphan) && said.contains("1 unreferenced file (5 bytes)"), "{checkpoint}: {said}");
        assert_eq!(stored(&api).await, [kept.as_str()], "{checkpoint}");
    }
    api.db.set(&job, "checkpoint = null").await;
    assert!(prune(&api, &["--orphan-minutes", "0"]).await.contains(&kept));
}

#[tokio::test]
async fn a_student_that_another_job_waits_for_is_spared() {
    let api = Api::start().await;
    let teacher = finished(&api, 40).await;
    api.post("/v1/jobs", &student_job(json!({"job": teacher}))).await.expect(201);
    let said = prune(&api, &["--older-than-days", "30"]).await;
    assert!(said.contains(&format!("kept {teacher}")) && said.contains("needs its student as a teacher"), "{said}");
    assert_eq!(api.get(&format!("/v1/jobs/{teacher}/student")).await.body, b"student");
}

#[tokio::test]
async fn files_that_nothing_names_go_and_all_others_stay() {
    let api = Api::start().await;
    api.upload("?architecture=resnet8", checkpoint("resnet8", 10)).await.expect(201);
    let upload = stored(&api).await.pop().expect("the upload is stored");
    let done = finished(&api, 1).await;
    // A running job with a file that it has just written and a state to resume from.
    let paused = api.post("/v1/jobs", &plain_job()).await.expect(201)["id"].as_str().unwrap().to_owned();
    let token = api.claim().await;
    let state = format!("jobs/{paused}/attempts/1/state/checkpoint.safetensors");
    put(&api, &state).await;
    let saved = SavedCheckpoint { attempt: 1, epoch: 1, step: 2, key: state.clone(), sha256: None, size_bytes: None };
    assert!(queue::checkpoint_saved(&api.db.pool, &token.write(), &saved).await.unwrap());
    queue::stopped(&api.db.pool, &token.write()).await.unwrap();
    let token = api.claim().await;
    assert_eq!(token.job, paused);
    let being_written = format!("jobs/{paused}/attempts/{}/student.safetensors", token.name());
    put(&api, &being_written).await;
    let somebody_elses = "backups/of-another-program";
    put(&api, somebody_elses).await;
    let before = stored(&api).await;

    let orphans = [
        format!("checkpoints/{}", "ab".repeat(32)),
        format!("checkpoints/{}-01", "ab".repeat(32)),
        format!("jobs/{done}/attempts/7/student.safetensors"),
        "jobs/job_of_old/attempts/1/student.safetensors".to_owned(),
        "probe/left-behind".to_owned(),
    ];
    for orphan in &orphans {
        put(&api, orphan).await;
    }
    // Young files may be about to be referenced.
    assert!(prune(&api, &[]).await.contains("0 unreferenced files"));
    let would = prune(&api, &["--orphan-minutes", "0", "--dry-run"]).await;
    assert!(orphans.iter().all(|orphan| would.contains(orphan)), "{would}");
    assert!(would.contains("5 unreferenced files (25 bytes)"), "{would}");
    let did = prune(&api, &["--orphan-minutes", "0"]).await;
    assert!(did.contains("removed 0 of 1 finished job (0 bytes) and 5 unreferenced files (25 bytes)"), "{did}");
    let after = stored(&api).await;
    assert_eq!(after, before);
    assert!([upload, state, being_written, somebody_elses.to_owned()].iter().all(|key| after.contains(key)));
}

#[tokio::test]
async fn what_interrupted_uploads_left_goes_and_what_is_being_written_stays() {
    let api = Api::start().await;
    let done = finished(&api, 1).await;
    api.job().await;
    let token = api.claim().await;
    let storage = api.dir.path().join("storage");
    let being_uploaded = format!("checkpoints/{}-01", "ab".repeat(32));
    file_deletions::announce(&api.db.pool, &being_uploaded).await.unwrap();
    put(&api, &being_uploaded).await;
    let write = |key: &str| {
        let path = storage.join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"half").unwrap();
        path
    };
    let left = [
        write(&format!("jobs/{done}/attempts/1/student.safetensors#1")),
        write(&format!("jobs/{}/attempts/7/state/checkpoint-1.safetensors#12", token.job)),
        write(&format!("checkpoints/{}-02#1", "ab".repeat(32))),
    ];
    let in_use = [
        write(&format!("jobs/{}/attempts/{}/student.safetensors#1", token.job, token.name())),
        write(&format!("{being_uploaded}#1")),
        write("backups/of-another-program#1"),
    ];
    assert!(prune(&api, &[]).await.contains("0 unreferenced files"), "young ones may still be written");
    let would = prune(&api, &["--orphan-minutes", "0", "--dry-run"]).await;
    assert!(would.contains("3 unreferenced files (12 bytes)") && left.iter().all(|path| path.exists()), "{would}");
    let did = prune(&api, &["--orphan-minutes", "0"]).await;
    assert!(
        did.contains("removed the unfinished upload of") && did.contains("3 unreferenced files (12 bytes)"),
        "{did}"
    );
    assert!(!left.iter().any(|path| path.exists()) && in_use.iter().all(|path| path.exists()));
    assert!(stored(&api).await.contains(&being_uploaded));
}

#[tokio::test]
async fn uploads_count_among_the_bytes_and_are_never_removed() {
    let api = Api::start().await;
    let (old, young) = (finished(&api, 9).await, finished(&api, 1).await);
    let bytes = checkpoint("resnet8", 10);
    api.upload("", bytes.clone()).await.expect(201);
    // A job has 9 bytes.
    let all = bytes.len() + 18;
    let said = prune(&api, &["--max-bytes", &all.to_string()]).await;
    assert!(said.contains("removed 0 of 2 finished jobs"), "{said}");
    let said = prune(&api, &["--max-bytes", &(bytes.len() - 1).to_string()]).await;
    assert!(said.contains("the uploads alone") && said.contains("removed 0 of 2"), "{said}");
    let said = prune(&api, &["--max-bytes", &(all - 1).to_string()]).await;
    assert!(said.contains(&format!("removed job {old}")) && said.contains("removed 1 of 2"), "{said}");
    api.get(&format!("/v1/jobs/{young}")).await.expect(200);
    assert_eq!(api.get("/v1/checkpoints").await.expect(200)["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn data_sets_and_what_is_to_become_one_stay_and_others_go() {
    let api = Api::start().await;
    api.upload_dataset("pets", zip(&pets())).await.expect(201);
    let shard = parquet(&[(ppm([1, 2, 3]), 0)]);
    api.upload_dataset("shards?split=train&shard=0&shards=2", shard).await.expect(202);
    let needed = stored(&api).await;
    assert_eq!(needed.len(), 2);
    put(&api, &keys::dataset(&"ab".repeat(32), "01")).await;
    let did = prune(&api, &["--orphan-minutes", "0"]).await;
    assert!(did.contains("1 unreferenced file (5 bytes)"), "{did}");
    assert_eq!(stored(&api).await, needed);
}

#[tokio::test]
async fn an_age_beyond_the_calendar_is_refused() {
    for command in ["prune", "serve"] {
        let output = distillery().args([command, "--older-than-days", "100000000"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--older-than-days") && said.contains("36500"), "{said}");
    }
}

#[tokio::test]
async fn uploads_have_a_limit_together() {
    let (first, second) = (checkpoint("resnet8", 10), checkpoint("resnet8", 11));
    let room = second.len() as u64 + 100;
    let api = Api::start_with(|settings| settings.uploads_limit = Some(room)).await;
    let id = api.upload("?architecture=resnet8", first.clone()).await.expect(201)["id"].clone();
    // Uploading the same bytes again takes no more space.
    api.upload("?architecture=resnet8", first).await.expect(200);
    api.upload("?architecture=resnet8", second.clone()).await.says(409, &["no space", "DELETE /v1/checkpoints"]);
    assert_eq!(api.get("/v1/checkpoints").await.expect(200)["data"].as_array().unwrap().len(), 1);
    api.delete(&format!("/v1/checkpoints/{}", id.as_str().unwrap())).await;
    api.upload("?architecture=resnet8", second).await.expect(201);
}

#[tokio::test]
async fn superseded_versions_of_data_sets_go_once_no_job_names_them() {
    let api = Api::start().await;
    let mut versions = Vec::new();
    for days in [60, 50, 40] {
        let more = [pets(), vec![("train/cat/4.ppm", ppm([days, 2, 3]))]].concat();
        let id = api.upload_dataset("pets", zip(&more)).await.expect(201)["id"].as_str().unwrap().to_owned();
        let update = "update datasets set uploaded_at = now() - make_interval(days => $1) where id = $2";
        sqlx::query(update).bind(i32::from(days)).bind(&id).execute(&api.db.pool).await.unwrap();
        versions.push(id);
    }
    let [first, second, latest] = versions.as_slice() else { panic!("{versions:?}") };
    let mut job = plain_job();
    job["dataset"] = json!({"name": second});
    let job = api.post("/v1/jobs", &job).await.expect(201)["id"].as_str().unwrap().to_owned();
    api.publish(&api.claim().await, &[("student.safetensors", b"student")]).await;
    let finished = "update jobs set finished_at = now() - interval '20 days' where id = $1";
    sqlx::query(finished).bind(&job).execute(&api.db.pool).await.unwrap();

    // The first was superseded 50 days ago, and the second 40.
    assert!(prune(&api, &["--superseded-datasets-days", "51"]).await.contains("removed 0 superseded versions"));
    let said = prune(&api, &["--superseded-datasets-days", "40"]).await;
    assert!(said.contains(&format!("removed data set {first}, superseded on ")), "{said}");
    assert!(said.contains("removed 1 superseded version of data sets"), "{said}");
    api.get(&format!("/v1/datasets/{first}")).await.problem(404);
    // It goes with the only job that names it, which a dry run foresees.
    let rules = ["--superseded-datasets-days", "40", "--older-than-days", "10"];
    let would = prune(&api, &[&rules[..], &["--dry-run"]].concat()).await;
    assert!(would.contains(&format!("would remove data set {second}")), "{would}");
    api.get(&format!("/v1/datasets/{second}")).await.expect(200);
    let did = prune(&api, &rules).await;
    assert!(
        did.contains(&format!("removed job {job}")) && did.contains(&format!("removed data set {second}")),
        "{did}"
    );
    let details = api.get("/v1/datasets/pets").await.expect(200);
    assert_eq!((&details["id"], details["versions"].as_array().unwrap().len()), (&json!(latest), 1));
    assert_eq!(stored(&api).await.len(), 1);
}
