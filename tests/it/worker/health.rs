//! A worker whose machine is at fault.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::process::write_script;
use crate::support::worker::Surroundings;

/// Waits until the worker takes no jobs, and returns why.
async fn until_stopped(it: &Surroundings) -> String {
    let query = async || -> Option<String> {
        let stopped = "select stopped_because from workers where stopped_because not like '%is being checked'";
        sqlx::query_scalar(stopped).fetch_optional(&it.db.pool).await.unwrap()
    };
    it.db.until(query).await.expect("the worker stops taking jobs")
}

async fn until_given_back(it: &Surroundings, job: &str) -> Value {
    it.db.until_job(job, |row| row["status"] == "queued" && row["error"]["class"] == "machine").await
}

#[tokio::test]
async fn a_worker_without_the_data_set_leaves_the_job_until_it_has_it() {
    let it = Surroundings::new("started 0 0; finish").await;
    let vanished = it.db.add_job(json!({"dataset": {"name": "vanished"}})).await;
    let worker = it.start();
    let other = it.db.add_job(json!({})).await;
    it.db.until_status(other, "succeeded").await;
    assert_eq!(it.db.job(vanished).await["attempt"], 0);
    fs::create_dir(it.settings.datasets_dir.join("vanished")).unwrap();
    let wakes = it.db.add_job(json!({})).await;
    it.db.until_status(wakes, "succeeded").await;
    it.db.until_status(vanished, "succeeded").await;
    worker.drain().await;
}

#[tokio::test]
async fn notes_that_are_added_to_a_data_set_keep_no_job_waiting() {
    let it = Surroundings::new("started 0 0; finish").await;
    let dataset = it.settings.datasets_dir.join("patterns");
    fs::write(dataset.join("train.parquet"), "images").unwrap();
    let id = it.db.add_job(json!({})).await;
    let query = sqlx::query("update jobs set dataset_fingerprint = $2 where id = $1").bind(id);
    query.bind(distillery::dataset::fingerprint(&dataset).unwrap()).execute(&it.db.pool).await.unwrap();
    fs::write(dataset.join("README.md"), "how the images were made").unwrap();
    let worker = it.start();
    it.db.until_status(id, "succeeded").await;
    worker.drain().await;
}

#[tokio::test]
async fn a_worker_whose_trainer_cannot_use_its_device_takes_no_job_until_it_can() {
    let it = Surroundings::new("started 0 0; finish").await;
    fs::write(it.file("broken"), "").unwrap();
    let id = it.db.add_job(json!({"max_attempts": 1})).await;
    let worker = it.start();
    let why = until_stopped(&it).await;
    assert!(why.contains("cannot run on cpu") && why.contains("CUDA finds no GPU"), "{why}");
    assert_eq!(it.db.job(id).await["attempt"], 0);
    fs::remove_file(it.file("broken")).unwrap();
    it.db.until_status(id, "succeeded").await;
    worker.drain().await;
}

#[tokio::test]
async fn a_worker_whose_trainer_is_another_program_takes_no_job() {
    let it = Surroundings::new("").await;
    // It succeeds whatever it is asked.
    write_script(&it.settings.trainer, "#!/bin/sh\nexit 0\n");
    let id = it.db.add_job(json!({"max_attempts": 1})).await;
    let worker = it.start();
    let why = until_stopped(&it).await;
    assert!(why.contains("cannot run on cpu") && why.contains("check --trainer"), "{why}");
    assert_eq!(it.db.job(id).await["attempt"], 0);
    it.set_trainer("started 0 0; finish");
    it.db.until_status(id, "succeeded").await;
    worker.drain().await;
}

#[tokio::test]
async fn a_trainer_that_ends_without_a_single_event_is_not_the_jobs_fault() {
    for (trainer, reason) in [("echo 'no such library' >&2; exit 127", "no such library"), ("exit 0", "status 0")] {
        let it = Surroundings::new(trainer).await;
        let id = it.db.add_job(json!({"max_attempts": 1})).await;
        let worker = it.start();
        let job = until_given_back(&it, id).await;
        let message = job["error"]["message"].as_str().unwrap();
        assert!(message.contains("before any report") && message.contains(reason), "{message}");
        it.set_trainer("started 0 0; finish");
        it.db.until_status(id, "succeeded").await;
        worker.drain().await;
    }
}

#[tokio::test]
async fn a_worker_that_cannot_write_to_its_disk_takes_no_job() {
    let it = Surroundings::new("started 0 0; finish").await;
    fs::create_dir_all(it.file("data")).unwrap();
    // Not even root can create a directory here.
    fs::write(&it.settings.work_dir, "not a directory").unwrap();
    let id = it.db.add_job(json!({"max_attempts": 1})).await;
    let worker = it.start();
    let why = until_stopped(&it).await;
    assert!(why.contains("cannot write to its data directory: "), "{why}");
    let is_named = why.contains(&it.settings.work_dir.display().to_string());
    assert!(!is_named, "where it is, is for the log of the machine: {why}");
    fs::remove_file(&it.settings.work_dir).unwrap();
    it.db.until_status(id, "succeeded").await;
    worker.drain().await;
}

#[tokio::test]
async fn a_device_that_is_lost_under_a_job_is_not_the_jobs_fault() {
    let it = Surroundings::new(r#"started 0 0; touch "$here/broken"; echo 'CUDA error' >&2; exit 1"#).await;
    let id = it.db.add_job(json!({"max_attempts": 1})).await;
    let worker = it.start();
    let job = until_given_back(&it, id).await;
    let message = job["error"]["message"].as_str().unwrap();
    assert!(message.contains("CUDA finds no GPU") && message.contains("CUDA error"), "{message}");
    until_stopped(&it).await;
    it.set_trainer("started 0 0; finish");
    fs::remove_file(it.file("broken")).unwrap();
    let job = it.db.until_status(id, "succeeded").await;
    assert_eq!(job["attempt"], 2);
    worker.drain().await;
}

#[tokio::test]
async fn a_device_that_another_job_uses_is_not_checked() {
    let mut it = Surroundings::new(
        r#"
        started 0 0; point 1
        if [ "$8" = cuda:0 ]; then
            read -r command
            case $command in *pause*) checkpoint 1 ;; esac
            stopped
        fi
        [ -e "$here/mended" ] && finish && exit
        touch "$here/broken"; echo 'CUDA error' >&2; exit 1
        "#,
    )
    .await;
    it.settings.devices = vec!["cuda:0".into(), "cuda:1".into()];
    let busy = it.db.add_job(json!({})).await;
    let worker = it.start();
    it.db.until_training(busy).await;
    let id = it.db.add_job(json!({"max_attempts": 1})).await;
    until_given_back(&it, id).await;
    until_stopped(&it).await;
    fs::write(it.file("mended"), "").unwrap();
    fs::remove_file(it.file("broken")).unwrap();
    it.db.until_status(id, "succeeded").await;
    let probes = it.read("probes");
    let probes: Vec<&str> = probes.lines().collect();
    assert_eq!(probes[..3], ["cuda:0,cuda:1", "cuda:1", "cuda:1"], "at the start, after the failure, and again");
    assert!(probes[3..].iter().all(|devices| *devices == "cuda:1"), "{probes:?}");
    worker.drain().await;
}

/// A trainer that meets an error of the hardware on `cuda:0`, and notes the devices that it is given.
const ECC_ERROR: &str = r#"
echo "$8" >> "$here/given"
if [ "$8" = cuda:0 ]; then
    say '{"type":"failed","class":"machine","message":"the GPU is broken: CUDA error: uncorrectable ECC error encountered"}'
    exit 1
fi
started 0 0; finish
"#;

#[tokio::test]
async fn a_gpu_with_an_error_of_its_hardware_gets_no_more_jobs_and_the_others_do() {
    let mut it = Surroundings::new(ECC_ERROR).await;
    it.settings.devices = vec!["cuda:0".into(), "cuda:1".into()];
    let mut jobs = vec![it.db.add_job(json!({"max_attempts": 1})).await];
    let worker = it.start();
    it.db.until_status(jobs[0], "succeeded").await;
    for _ in 0..3 {
        jobs.push(it.db.add_job(json!({"max_attempts": 1})).await);
    }
    for &job in &jobs {
        it.db.until_status(job, "succeeded").await;
    }
    let given = it.read("given");
    assert_eq!(given.lines().collect::<Vec<_>>(), ["cuda:0", "cuda:1", "cuda:1", "cuda:1", "cuda:1"]);
    worker.drain().await;
}

#[tokio::test]
async fn a_worker_whose_only_gpu_is_broken_takes_no_jobs_until_it_is_started_again() {
    let mut it = Surroundings::new(ECC_ERROR).await;
    it.settings.devices = vec!["cuda:0".into()];
    let id = it.db.add_job(json!({"max_attempts": 1})).await;
    let worker = it.start();
    until_given_back(&it, id).await;
    let why = until_stopped(&it).await;
    assert!(why.contains("all its GPUs are broken") && why.contains("cuda:0: the GPU is broken"), "{why}");
    worker.drain().await;
    // The GPU was replaced.
    it.set_trainer("started 0 0; finish");
    let worker = it.start();
    it.db.until_status(id, "succeeded").await;
    worker.drain().await;
}

#[tokio::test]
async fn a_trainer_on_a_gpu_that_reports_nothing_for_long_is_killed_and_its_job_goes_elsewhere() {
    let mut it = Surroundings::new("echo $$ > \"$here/pid\"; started 0 0; point 1; exec sleep infinity").await;
    it.settings.devices = vec!["cuda:0".into()];
    it.settings.stalled = Some(Duration::from_secs(2));
    let id = it.db.add_job(json!({"max_attempts": 1})).await;
    let worker = it.start();
    let job = until_given_back(&it, id).await;
    let message = job["error"]["message"].as_str().unwrap();
    assert!(message.contains("reported nothing for 2 seconds"), "{message}");
    let pid = it.read("pid");
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "the trainer {pid} goes on");
    it.set_trainer("started 0 0; finish");
    it.db.until_status(id, "succeeded").await;
    worker.drain().await;
}

#[tokio::test]
async fn a_trainer_that_reads_its_data_or_has_no_gpu_may_be_silent_for_long() {
    // The history says that it is silent later than a GPU would be taken to hang.
    const FAILED: &str = r#"say '{"type":"failed","class":"numeric","message":"the loss is NaN"}'; exit 1"#;
    for (device, said_before) in [("cuda:0", ""), ("cpu", "started 0 0")] {
        let mut it = Surroundings::new(&format!("{said_before}\nread -r _ < \"$here/go\"\n{FAILED}")).await;
        it.make_pipe("go");
        it.settings.devices = vec![device.into()];
        it.settings.stalled = Some(Duration::from_millis(100));
        it.settings.silence = Duration::from_millis(500);
        let id = it.db.add_job(json!({"max_attempts": 1})).await;
        let worker = it.start();
        let said = async || {
            let messages = it.db.messages(id).await;
            messages.into_iter().find(|message| message.starts_with("the trainer has said nothing for 0.5 seconds"))
        };
        assert!(it.db.until(said).await.is_some(), "{device}: {:?}", it.db.messages(id).await);
        it.let_go("go").await;
        let job = it.db.until_status(id, "failed").await;
        assert_eq!(job["error"]["class"], "numeric", "{job}");
        worker.drain().await;
    }
}

#[tokio::test]
async fn a_worker_that_fails_three_in_a_row_stops_and_then_tries_one() {
    let it = Surroundings::new(r#"say '{"type":"failed","class":"storage","message":"no space left"}'; exit 1"#).await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(it.db.add_job(json!({"max_attempts": 1})).await);
    }
    let worker = it.start();
    let why = until_stopped(&it).await;
    assert!(why.contains("3 attempts in a row") && why.contains("no space left"), "{why}");
    for id in &jobs {
        let job = it.db.job(id).await;
        assert_eq!((&job["status"], &job["error"]["class"]), (&json!("queued"), &json!("machine")));
    }
    it.set_trainer("started 0 0; finish");
    for id in jobs {
        it.db.until_status(id, "succeeded").await;
    }
    let stopped = async || -> Option<bool> {
        let query = "select true from workers where stopped_because is null";
        sqlx::query_scalar(query).fetch_optional(&it.db.pool).await.unwrap()
    };
    assert!(it.db.until(stopped).await.is_some());
    worker.drain().await;
}
