//! States, students and teachers in storage.

use std::convert::Infallible;
use std::fs;

use serde_json::json;

use crate::support::worker::{RESUMABLE, Surroundings};

async fn set_checkpoint(it: &Surroundings, job: &str, checkpoint: serde_json::Value) {
    let update = sqlx::query("update jobs set checkpoint = $1 where id = $2").bind(checkpoint).bind(job);
    update.execute(&it.db.pool).await.unwrap();
}

#[tokio::test]
async fn a_missing_checkpoint_restarts_the_job_from_the_beginning() {
    let it = Surroundings::new(r#"started 0 0; [ -e "$out/state/checkpoint.safetensors" ] || finish"#).await;
    let job = it.db.add_job(json!({})).await;
    let key = format!("jobs/{job}/attempts/7/state/checkpoint.safetensors");
    set_checkpoint(&it, job, json!({"attempt": 7, "epoch": 3, "step": 30, "key": key})).await;
    let worker = it.start();
    it.db.until_status(job, "succeeded").await;
    worker.drain().await;
    let messages = it.db.messages(job).await;
    assert!(messages.iter().any(|line| line.contains("starts from the beginning")), "{messages:?}");
}

#[tokio::test]
async fn a_checkpoint_that_was_damaged_in_storage_is_not_resumed_from() {
    let it = Surroundings::new(r#"[ -e "$out/state/checkpoint.safetensors" ] && exit 1; started 0 0; finish"#).await;
    let job = it.db.add_job(json!({"max_attempts": 1})).await;
    let key = format!("jobs/{job}/attempts/7/state/checkpoint.safetensors");
    it.store().put_stream(&key, futures::stream::iter([Ok::<_, Infallible>("torn".into())])).await.unwrap();
    let saved = json!({"attempt": 7, "epoch": 3, "step": 30, "key": key, "sha256": "00".repeat(32)});
    set_checkpoint(&it, job, saved).await;
    let worker = it.start();
    it.db.until_status(job, "succeeded").await;
    worker.drain().await;
    let messages = it.db.messages(job).await;
    assert!(messages.iter().any(|line| line.contains("is damaged in storage")), "{messages:?}");
}

/// The keys of all states to resume from.
async fn states(it: &Surroundings) -> Vec<String> {
    let files = it.store().list().await.unwrap();
    files.into_iter().map(|file| file.key).filter(|key| key.contains("/state/")).collect()
}

#[tokio::test]
async fn the_last_state_stays_until_the_database_knows_the_next() {
    let it = Surroundings::new(
        r#"if [ -e "$out/state/checkpoint.safetensors" ]; then started 1 10; read -r command; stopped; fi
        started 0 0; point 1; checkpoint 1; read -r < "$here/stored"; checkpoint 2; read -r command; stopped"#,
    )
    .await;
    it.make_pipe("stored");
    let job = it.db.add_job(json!({"max_attempts": 1})).await;
    // The database does not take the second one, as if the worker had been killed just before.
    let statement = "
        create function refuse() returns trigger language plpgsql as $$ begin raise 'not this one'; end $$;
        create trigger refuse before update of checkpoint on jobs for each row
            when (new.checkpoint ->> 'epoch' = '2') execute function refuse()";
    sqlx::raw_sql(statement).execute(&it.db.pool).await.unwrap();
    let worker = it.start();
    it.db.until_job(job, |row| row["checkpoint"]["epoch"] == 1).await;
    it.let_go("stored").await;
    let failed = it.db.until_job(job, |row| row["error"].is_object()).await;
    assert!(failed["error"]["message"].as_str().unwrap().contains("not this one"), "{failed:#}");
    assert_eq!(states(&it).await.len(), 2);
    let first = &failed["checkpoint"];
    assert_eq!(first["epoch"], 1);
    let (key, sha256) = (first["key"].as_str().unwrap(), first["sha256"].as_str().unwrap());
    it.store().fetch_verified(key, &it.file("fetched"), sha256).await.unwrap();
    assert_eq!(it.read("fetched"), "state 1\n");
    worker.drain().await;
}

/// When a write is refused, the trainer's events end and it is abandoned at the same moment, in either order.
#[tokio::test]
async fn every_trainer_whose_events_cannot_be_recorded_is_killed() {
    let it = Surroundings::new("started 0 0; read -r command; stopped").await;
    let statement = "
        create function refuse() returns trigger language plpgsql as $$ begin raise 'not this one'; end $$;
        create trigger refuse before insert on events for each row
            when (new.message like 'training on%') execute function refuse()";
    sqlx::raw_sql(statement).execute(&it.db.pool).await.unwrap();
    let mut jobs = Vec::new();
    for _ in 0..25 {
        jobs.push(it.db.add_job(json!({"max_attempts": 1})).await);
    }
    let worker = it.start();
    for job in jobs {
        let failed = it.db.until_status(job, "failed").await;
        assert!(failed["error"]["message"].as_str().unwrap().contains("not this one"), "{failed:#}");
    }
    worker.drain().await;
}

#[tokio::test]
async fn a_state_is_removed_once_the_database_knows_the_next() {
    let it = Surroundings::new("started 0 0; point 1; checkpoint 1; checkpoint 2; read -r command; stopped").await;
    let job = it.db.add_job(json!({})).await;
    let worker = it.start();
    let row = it.db.until_job(job, |row| row["checkpoint"]["epoch"] == 2).await;
    worker.drain().await;
    assert_eq!(states(&it).await, [row["checkpoint"]["key"].as_str().unwrap()]);
}

#[tokio::test]
async fn a_teacher_that_was_changed_in_storage_is_not_learned_from() {
    let it = Surroundings::new("started 0 0; finish").await;
    let teacher = it.db.add_job(json!({})).await;
    let worker = it.start();
    it.db.until_status(teacher, "succeeded").await;
    let claim = it.db.job(teacher).await["claim"].as_str().unwrap().to_owned();
    let stored = it.file(&format!("data/artifacts/jobs/{teacher}/attempts/1-{claim}/student.safetensors"));
    fs::write(stored, "another student\n").unwrap();
    let pupil = json!({"teacher": {"architecture": "resnet20", "job": teacher}, "distillation": {"method": "kd"}, "max_attempts": 1});
    let pupil = it.db.add_job(pupil).await;
    let job = it.db.until_status(pupil, "failed").await;
    assert_eq!(job["error"]["class"], "storage");
    assert!(job["error"]["message"].as_str().unwrap().contains("is damaged in storage"), "{job:#}");
    worker.drain().await;
}

#[tokio::test]
async fn a_job_whose_database_was_restored_resumes_from_the_newest_state_in_storage() {
    let it = Surroundings::new(RESUMABLE).await;
    let job = it.db.add_job(json!({})).await;
    let worker = it.start();
    let row = it.db.until_job(job, |row| row["checkpoint"]["epoch"] == 2).await;
    worker.drain().await;
    let key = row["checkpoint"]["key"].as_str().unwrap().replace("checkpoint-20.", "checkpoint-10.");
    set_checkpoint(&it, job, json!({"attempt": 1, "epoch": 1, "step": 10, "key": key})).await;
    sqlx::query("delete from metrics where step > 1").execute(&it.db.pool).await.unwrap();
    let worker = it.start();
    it.db.until_status(job, "succeeded").await;
    worker.drain().await;
    let messages = it.db.messages(job).await;
    let said = |line: &String| line.contains("cannot be used, so training resumes from the one after step 20");
    assert!(messages.iter().any(said), "{messages:?}");
    assert_eq!(it.db.steps(job).await, [1, 11, 21]);
}
