//! Jobs that succeed.

use std::process::Stdio;

use distillery::db;
use distillery::db::jobs::Change;
use serde_json::{Value, json};

use crate::support::process::Process;
use crate::support::worker::{OBEDIENT, Surroundings, files_below};

#[tokio::test]
async fn a_job_trains_in_a_directory_of_its_own_and_its_files_are_published() {
    let it = Surroundings::new(
        r#"env > "$here/environment"; cp "$spec" "$here/spec"
        started 0 0; for step in 1 2 3; do point $step; done
        say '{"type":"teacher","top1":72.5,"top5":91,"loss":1,"images":9}'
        say '{"type":"log","level":"warning","message":"look here"}'
        checkpoint 1
        say '{"type":"progress","epoch":5,"epochs":5,"step":50,"steps":50,"fraction":1,"images_per_second":9,"eta_seconds":0}'
        finish"#,
    )
    .await;
    let id = it.db.add_job(json!({})).await;
    let worker = it.start();
    let job = it.db.until_status(id, "succeeded").await;
    worker.drain().await;
    assert_eq!(job["result"]["best_top1"], 70.5);
    assert_eq!(job["teacher"]["top1"], 72.5);
    assert_eq!(job["progress"]["fraction"], 1.0);
    assert_eq!(it.db.steps(id).await, [1, 2, 3]);
    assert!(it.db.messages(id).await.contains(&"look here".to_owned()));
    let student = db::artifacts::get(&it.db.pool, id, "student.safetensors").await.unwrap().unwrap();
    it.store().fetch(&student.key, &it.file("student")).await.unwrap();
    assert_eq!(it.read("student"), "student.safetensors\n");
    // The state to resume from and the working directory are gone.
    let mut stored = files_below(&it.file("data"));
    assert_eq!(stored.pop().as_deref(), Some("artifacts/storage-id"));
    let expected = ["manifest.json", "metrics.ndjson", "student-last.safetensors", "student.safetensors"];
    let claim = job["claim"].as_str().unwrap();
    assert_eq!(stored, expected.map(|name| format!("artifacts/jobs/{id}/attempts/1-{claim}/{name}")));

    let spec: Value = serde_json::from_str(&it.read("spec")).unwrap();
    assert_eq!(spec["dataset"]["path"], it.settings.datasets_dir.join("patterns").to_str().unwrap());
    assert_eq!(spec["dataset"].get("name"), None);
    let environment = it.read("environment");
    for secret in ["DATABASE_URL", "AWS_", "CARGO"] {
        assert!(!environment.lines().any(|line| line.starts_with(secret)), "{environment}");
    }
}

#[tokio::test]
async fn an_idle_worker_starts_a_new_job_without_waiting_for_its_next_look_at_the_queue() {
    let it = Surroundings::new("started 0 0; finish").await;
    let worker = it.start();
    for _ in 0..3 {
        let job = it.db.add_job(json!({})).await;
        it.db.until_status(job, "succeeded").await;
    }
    worker.drain().await;
}

#[tokio::test]
async fn a_worker_with_two_devices_runs_two_jobs_at_once_or_one_on_both_in_their_turn() {
    let trainer = r#"echo "$@" > "$here/arguments-$(basename "$(dirname "$(dirname "$spec")")")""#;
    let mut it = Surroundings::new(&format!("{trainer}{OBEDIENT}")).await;
    it.settings.devices = vec!["cuda:0".into(), "cuda:1".into()];
    let worker = it.start();
    let devices = async |id: &str| {
        it.db.until_training(id).await;
        let arguments = it.read(&format!("arguments-{id}"));
        arguments.split_once("--device ").unwrap().1.split(' ').next().unwrap().to_owned()
    };
    let a = it.db.add_job(json!({})).await;
    assert_eq!(devices(a).await, "cuda:0");
    let b = it.db.add_job(json!({})).await;
    assert_eq!(devices(b).await, "cuda:1");
    let on_both = it.db.add_job(json!({"training": {"devices": 2}})).await;
    let d = it.db.add_job(json!({})).await;
    // The first device that is free again is kept for the job that needs both.
    it.db.change(b, Change::Cancel).await;
    it.db.until_status(b, "cancelled").await;
    let kept = async || -> Option<String> {
        sqlx::query_scalar("select waits_for from workers").fetch_one(&it.db.pool).await.unwrap()
    };
    assert_eq!(it.db.until(kept).await.as_deref(), Some(on_both));
    assert_eq!(it.db.job(d).await["status"], "queued");
    it.db.change(a, Change::Cancel).await;
    assert_eq!(devices(on_both).await, "cuda:0,cuda:1");
    assert_eq!(it.db.job(d).await["status"], "queued");
    it.db.change(on_both, Change::Pause).await;
    it.db.until_status(on_both, "paused").await;
    assert_eq!(devices(d).await, "cuda:0");
    // A drain sets down every job that it runs.
    let e = it.db.add_job(json!({})).await;
    assert_eq!(devices(e).await, "cuda:1");
    worker.drain().await;
    for id in [d, e] {
        assert_eq!(it.db.job(id).await["status"], "queued");
    }
}

#[tokio::test]
async fn jobs_that_share_a_cpu_share_its_threads() {
    let mut it = Surroundings::new(r#"echo "$@" > "$here/arguments"; started 0 0; finish"#).await;
    it.settings.devices = vec!["cpu".into(); 2];
    let worker = it.start();
    let cores = std::thread::available_parallelism().unwrap().get();
    for (devices, threads) in [(1, (cores / 2).max(1)), (2, cores)] {
        let job = it.db.add_job(json!({"training": {"devices": devices}})).await;
        it.db.until_status(job, "succeeded").await;
        let arguments = it.read("arguments");
        assert!(arguments.contains(&format!("--threads {threads} ")), "{arguments}");
    }
    worker.drain().await;
}

#[tokio::test]
async fn a_student_becomes_the_teacher_of_the_job_that_waited_for_it() {
    let it = Surroundings::new(
        r#"if grep -q '"teacher"' "$spec"; then cp "$spec" "$here/spec"
            cp "$(sed -n 's/.*"checkpoint": "\(.*\)".*/\1/p' "$spec")" "$here/teacher"; fi
        started 0 0; finish"#,
    )
    .await;
    let teacher = it.db.add_job(json!({})).await;
    let pupil = it.db.add_pupil(teacher).await;
    let worker = it.start();
    it.db.until_status(pupil, "succeeded").await;
    worker.drain().await;
    assert_eq!(it.read("teacher"), "student.safetensors\n");
    let spec: Value = serde_json::from_str(&it.read("spec")).unwrap();
    assert_eq!(spec["teacher"].get("job"), None);
}

#[tokio::test]
async fn unknown_lines_on_the_trainers_output_are_ignored() {
    let it = Surroundings::new(
        r#"echo 'Warning: no JSON'; say '{"type":"new","in":"a later version"}'; printf '\377\376\n'
        head -c 3000000 /dev/zero | tr '\0' x; echo
        started 0 0; point 1; head -c 3000000 /dev/zero >&2; finish"#,
    )
    .await;
    let job = it.db.add_job(json!({"max_attempts": 1})).await;
    let worker = it.start();
    it.db.until_status(job, "succeeded").await;
    worker.drain().await;
    assert_eq!(it.db.steps(job).await, [1]);
}

#[tokio::test]
async fn the_trainer_follows_links_where_its_server_or_worker_was_told_to() {
    for (is_server, is_told) in [(false, false), (false, true), (true, false), (true, true)] {
        let it = Surroundings::new(r#"echo "$*" > "$here/arguments"; started 0 0; finish"#).await;
        let id = it.db.add_job(json!({})).await;
        let mut command = it.command(if is_server { "serve" } else { "worker" });
        let flags: &[&str] =
            if is_server { &["--listen", "127.0.0.1:0", "--workers", "1"] } else { &["--device", "cpu"] };
        command.args(flags).args(is_told.then_some("--follow-links"));
        command.env("DATABASE_URL", &it.db.url).stdout(Stdio::null());
        let program = Process::start(command);
        it.db.until_status(id, "succeeded").await;
        program.terminate().await;
        let arguments = it.read("arguments");
        assert_eq!(arguments.contains("--follow-links"), is_told, "{arguments}");
    }
}
