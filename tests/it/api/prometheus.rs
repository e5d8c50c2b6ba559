//! Promise: `/metrics` tells Prometheus what happens, and no counter falls.

use crate::support::api::Api;
use distillery::db::{self, queue};
use distillery::protocol::{ErrorClass, Failure, Progress};

#[tokio::test]
async fn prometheus_reads_requests_and_jobs() {
    let api = Api::start().await;
    let id = api.job().await;
    api.job().await;
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    api.get("/v1/jobs/nonsense").await.problem(404);
    api.get("/made-up").await.problem(404);
    let answer = api.get("/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    let text = answer.text();
    for line in [
        "distillery_jobs{status=\"queued\"} ",
        "distillery_jobs{status=\"cancelled\"} ",
        "distillery_jobs{status=\"running\"} ",
        "distillery_queue_depth ",
        "distillery_database_up 1",
        "distillery_http_request_duration_seconds_bucket{route=\"/v1/jobs\",method=\"POST\",le=",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let counted = |route: &str, method: &str, status: &str| {
        text.lines().any(|line| {
            let labels = [format!("route=\"{route}\""), format!("method=\"{method}\""), format!("status=\"{status}\"")];
            line.starts_with("distillery_http_requests_total{") && labels.iter().all(|label| line.contains(label))
        })
    };
    assert!(counted("/v1/jobs", "POST", "201"), "{text}");
    assert!(counted("/v1/jobs/{id}", "GET", "404"), "{text}");
    assert!(counted("other", "GET", "404"), "{text}");
    assert!(!text.contains("made-up") && !text.contains("nonsense") && !text.contains(&id));
}

#[tokio::test]
async fn prometheus_reads_what_became_of_attempts_and_no_counter_falls() {
    let api = Api::start().await;
    let pool = &api.db.pool;
    let sample = async |name: &str| {
        let text = api.get("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.trim().parse::<f64>().unwrap()
    };
    assert_eq!(sample("distillery_attempts_total{outcome=\"oom\"}").await, 0.0);
    assert_eq!(sample("distillery_pickup_latency_seconds_bucket{le=\"+Inf\"}").await, 0.0);

    let first = api.job().await;
    let back_date = "update jobs set run_after = now() - interval '30 seconds' where id = $1";
    sqlx::query(back_date).bind(&first).execute(pool).await.unwrap();
    assert!((30.0..90.0).contains(&sample("distillery_queue_oldest_seconds").await));
    let token = api.claim().await;
    assert_eq!(sample("distillery_queue_oldest_seconds").await, 0.0);
    assert_eq!(sample("distillery_pickup_latency_seconds_bucket{le=\"10\"}").await, 0.0);
    assert_eq!(sample("distillery_pickup_latency_seconds_bucket{le=\"60\"}").await, 1.0);
    assert!((30.0..90.0).contains(&sample("distillery_pickup_latency_seconds_sum").await));
    let batch = queue::ReportBatch { progress: Some(progress()), ..Default::default() };
    assert!(queue::record(pool, &token.write(), &batch).await.unwrap());
    assert_eq!(sample("distillery_training_images_per_second").await, 640.0);
    let aged = "update jobs set lease_renewed_at = now() - interval '9 seconds' where id = $1";
    sqlx::query(aged).bind(&first).execute(pool).await.unwrap();
    assert!((9.0..60.0).contains(&sample("distillery_lease_age_seconds_max").await));

    // A minute of training with a checkpoint after three quarters of it, and then the worker is gone.
    let spent =
        "update attempts set started_at = now() - interval '60 seconds', saved_at = now() - interval '15 seconds'";
    sqlx::query(spent).execute(pool).await.unwrap();
    let expired = "update jobs set lease_expires_at = now() - interval '1 second' where id = $1";
    sqlx::query(expired).bind(&first).execute(pool).await.unwrap();
    queue::rescue_expired(pool).await.unwrap();
    assert_eq!(sample("distillery_rescues_total").await, 1.0);
    assert_eq!(sample("distillery_attempts_total{outcome=\"worker_lost\"}").await, 1.0);
    assert!((45.0..46.0).contains(&sample("distillery_device_seconds_total{fate=\"used\"}").await));
    assert!((15.0..30.0).contains(&sample("distillery_device_seconds_total{fate=\"lost\"}").await));
    db::attempts::count_refused(pool, &token).await.unwrap();
    assert_eq!(sample("distillery_stale_writes_refused_total").await, 1.0);

    let again = api.claim().await;
    let failure = Failure { class: ErrorClass::Oom, message: "too large".into() };
    queue::fail(pool, &again.write(), &failure).await.unwrap();
    assert_eq!(sample("distillery_attempts_total{outcome=\"oom\"}").await, 1.0);
    api.delete(&format!("/v1/jobs/{first}")).await;
    assert_eq!(sample("distillery_attempts_total{outcome=\"oom\"}").await, 1.0);
    assert_eq!(sample("distillery_rescues_total").await, 1.0);
    assert_eq!(sample("distillery_lease_age_seconds_max").await, 0.0);
}

fn progress() -> Progress {
    Progress { epoch: 1, epochs: 2, step: 10, steps: 20, fraction: 0.5, images_per_second: 640.0, eta_seconds: 1.0 }
}
