//! Answers that are lost, and servers that are busy.

use serde_json::json;

use super::proxy::Proxy;
use super::run;
use crate::support::api::{Api, plain_job};

#[tokio::test]
async fn a_job_whose_answer_was_lost_is_posted_once() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    std::fs::write(home.path().join("job.json"), plain_job().to_string()).unwrap();
    let proxy = Proxy::start(&api.url, &[0, 0]).await;
    let ran = run(&proxy.url, home.path(), &["submit", "job.json"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.stderr.matches("trying again").count(), 2, "{}", ran.stderr);
    let jobs = api.get("/v1/jobs").await.expect(200);
    assert_eq!(jobs["data"].as_array().unwrap().len(), 1);
    assert_eq!(ran.stdout.trim(), jobs["data"][0]["id"]);
}

#[tokio::test]
async fn a_job_whose_answers_are_all_lost_can_be_posted_again_by_its_key() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    std::fs::write(home.path().join("job.json"), plain_job().to_string()).unwrap();
    let proxy = Proxy::start(&api.url, &[0, 0, 0, 0]).await;
    let said = run(&proxy.url, home.path(), &["submit", "job.json"]).await.fails(4);
    let key = said.split_once("--idempotency-key ").and_then(|(_, rest)| rest.split(' ').next()).expect("a key");
    let id = run(&api.url, home.path(), &["submit", "job.json", "--idempotency-key", key]).await.expect(0);
    assert!(id.starts_with("job_"), "{id}");
    assert_eq!(api.get("/v1/jobs").await.expect(200)["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_that_asks_to_wait_is_asked_again() {
    let (api, home) = (
        Api::start_with(|settings| settings.requests_per_second = 1.try_into().unwrap()).await,
        tempfile::tempdir().unwrap(),
    );
    let secret = "dst_a_token_of_a_test_that_is_long_enough";
    let hash = distillery::db::tokens::hash(secret);
    distillery::db::tokens::create(&api.db.pool, "hasty", distillery::db::tokens::Scope::Read, &hash).await.unwrap();
    // Its second request comes too early.
    let jobs = [(); 3].map(|()| {
        let mut command = super::command(&api.url, home.path(), &["jobs", "--json"]);
        command.env("DISTILLERY_TOKEN", secret);
        super::finish(command)
    });
    let ran = futures::future::join_all(jobs).await;
    assert!(ran.iter().any(|ran| ran.stderr.contains("rate limit exceeded")), "{ran:?}");
    for ran in ran {
        assert_eq!(ran.json(), json!({"data": [], "has_more": false}));
    }
}
