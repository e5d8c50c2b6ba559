//! `max_parallel`.

use distillery::db::workers::{self, NewWorker, Usage};
use serde_json::json;

use super::{claim, id, post, stop, sweep};
use crate::support::api::Api;

#[tokio::test]
async fn as_many_jobs_of_a_sweep_run_as_may_and_other_jobs_pass_it() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1, 0.2, 0.3], json!({"max_parallel": 2}))).await;
    let other = api.job().await;
    let worker = NewWorker {
        id: "wrk_TEST".into(),
        name: "test".into(),
        device: "cpu".into(),
        devices: 1,
        memory_bytes: None,
        usage: Usage::default(),
        abilities: None,
    };
    workers::register(&api.db.pool, &worker).await.unwrap();
    let first = claim(&api).await.unwrap().token;
    claim(&api).await.unwrap();
    let jobs = api.get(&format!("/v1/summaries?sweep={}&status=queued", id(&made))).await.expect(200);
    let waiting = &jobs["data"][0]["waiting"];
    assert_eq!(waiting["reason"], "sweep", "{waiting}");
    assert_eq!(claim(&api).await.unwrap().token.job, other);
    assert!(claim(&api).await.is_none());
    stop(&api, &first).await;
    assert_eq!(claim(&api).await.unwrap().token.job, first.job);
}

#[tokio::test]
async fn workers_that_claim_at_the_same_time_do_not_exceed_the_limit() {
    let api = Api::start().await;
    let rates: Vec<f64> = (1..=20).map(f64::from).map(|rate| rate / 100.0).collect();
    for limit in [1, 3, 5] {
        let made = post(&api, &sweep(&rates, json!({"max_parallel": limit}))).await;
        let claims = futures::future::join_all((0..10).map(|_| claim(&api))).await;
        assert_eq!(claims.iter().flatten().count(), limit);
        for claim in claims.into_iter().flatten() {
            stop(&api, &claim.token).await;
        }
        api.ask(&format!("/v1/sweeps/{}/cancel", id(&made))).await.expect(202);
    }
}
