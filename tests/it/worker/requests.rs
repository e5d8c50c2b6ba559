//! Requests to cancel and pause reach the trainer.

use std::time::Duration;

use distillery::db::jobs::Change;
use serde_json::json;

use crate::support::worker::{OBEDIENT, RESUMABLE, Surroundings};

#[tokio::test]
async fn a_request_to_stop_reaches_the_trainer_before_the_next_heartbeat() {
    let it = Surroundings::new(OBEDIENT).await;
    let worker = it.start();
    for (change, then) in [(Change::Cancel, "cancelled"), (Change::Pause, "paused")] {
        let id = it.db.add_job(json!({})).await;
        it.db.until_training(id).await;
        it.db.change(id, change).await;
        let job = it.db.until_status(id, then).await;
        assert_eq!(job["checkpoint"].is_object(), then == "paused");
    }
    worker.drain().await;
}

#[tokio::test]
async fn a_request_made_while_the_inputs_are_fetched_is_not_lost() {
    let it = Surroundings::new(OBEDIENT).await;
    let job = it.db.add_job(json!({})).await;
    // As if somebody asked right after the claim, before anybody listened for this job.
    sqlx::raw_sql(
        "create function ask() returns trigger language plpgsql as $$
            begin new.status := 'cancelling'; return new; end $$;
         create trigger ask before update on jobs for each row
            when (old.status = 'queued' and new.status = 'running') execute function ask()",
    )
    .execute(&it.db.pool)
    .await
    .unwrap();
    let worker = it.start();
    it.db.until_status(job, "cancelled").await;
    worker.drain().await;
}

#[tokio::test]
async fn a_paused_job_goes_on_from_its_checkpoint() {
    let it = Surroundings::new(RESUMABLE).await;
    let id = it.db.add_job(json!({})).await;
    let worker = it.start();
    it.db.until_job(id, |job| job["checkpoint"]["epoch"] == 2).await;
    it.db.change(id, Change::Pause).await;
    it.db.until_status(id, "paused").await;
    it.db.change(id, Change::Resume).await;
    let job = it.db.until_status(id, "succeeded").await;
    assert_eq!(job["attempt"], 2);
    worker.drain().await;
}

#[tokio::test]
async fn a_trainer_that_does_not_listen_is_killed() {
    let mut it = Surroundings::new("trap '' TERM INT; started 0 0; point 1; exec sleep infinity").await;
    it.settings.stop_patience = Duration::from_millis(300);
    let worker = it.start();
    let cancelled = it.db.add_job(json!({})).await;
    it.db.until_training(cancelled).await;
    it.db.change(cancelled, Change::Cancel).await;
    it.db.until_status(cancelled, "cancelled").await;
    let killed = "the trainer was told to stop and did not within 0.3 seconds, so the worker killed it";
    assert!(it.db.messages(cancelled).await.contains(&killed.to_owned()), "{:?}", it.db.messages(cancelled).await);
    let drained = it.db.add_job(json!({})).await;
    it.db.until_training(drained).await;
    worker.drain().await;
    assert_eq!(it.db.job(drained).await["status"], "queued");
}

#[tokio::test]
async fn a_trainer_that_finished_but_does_not_end_is_ended() {
    let mut it = Surroundings::new("started 0 0; finish; exec sleep infinity").await;
    it.settings.stop_patience = Duration::from_millis(300);
    let worker = it.start();
    let job = it.db.add_job(json!({})).await;
    it.db.until_status(job, "succeeded").await;
    let killed = "the trainer reported its end and did not exit within 0.3 seconds, so the worker killed it";
    assert!(it.db.messages(job).await.contains(&killed.to_owned()), "{:?}", it.db.messages(job).await);
    worker.drain().await;
}

#[tokio::test]
async fn a_trainer_that_says_nothing_for_long_is_in_the_jobs_history() {
    let mut it = Surroundings::new(OBEDIENT).await;
    it.settings.silence = Duration::from_millis(300);
    let worker = it.start();
    let id = it.db.add_job(json!({})).await;
    let said = async || {
        let messages = it.db.messages(id).await;
        messages.into_iter().find(|message| message.starts_with("the trainer has said nothing for 0.3 seconds"))
    };
    assert!(it.db.until(said).await.is_some(), "{:?}", it.db.messages(id).await);
    // It is left alone.
    it.db.change(id, Change::Pause).await;
    it.db.until_status(id, "paused").await;
    worker.drain().await;
}
