//! `/metrics`: what happens here, for Prometheus.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State as Shared};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use super::State;
use crate::jobs::store::{self, Totals};

const REQUESTS: &str = "distillery_http_requests_total";
const DURATION: &str = "distillery_http_request_duration_seconds";
const DATABASE_UP: &str = "distillery_database_up";
const JOBS: &str = "distillery_jobs";
const QUEUE_DEPTH: &str = "distillery_queue_depth";
const WORKERS: &str = "distillery_workers";

/// The recorder of this process, which has one only.
static RECORDER: LazyLock<PrometheusHandle> = LazyLock::new(|| {
    let buckets = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Full(DURATION.into()), &buckets);
    let handle = builder.expect("there are buckets").install_recorder().expect("no other recorder is installed");
    metrics::describe_counter!(REQUESTS, "Requests by route, method and status");
    metrics::describe_histogram!(DURATION, "Time until the head of the answer, by route and method");
    metrics::describe_gauge!(DATABASE_UP, "Whether the database answered this scrape");
    metrics::describe_gauge!(JOBS, "Jobs by status");
    metrics::describe_gauge!(QUEUE_DEPTH, "Queued jobs that could start now");
    metrics::describe_gauge!(WORKERS, "Workers that are alive, by whether they hold a job");
    handle
});

/// Counts a request, under its route: paths and methods that clients make up have one name together.
pub async fn count(request: Request, next: Next) -> Response {
    LazyLock::force(&RECORDER);
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let method = match *request.method() {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    let start = Instant::now();
    let response = next.run(request).await;
    histogram!(DURATION, "route" => route.clone(), "method" => method).record(start.elapsed());
    let status = response.status().as_u16().to_string();
    counter!(REQUESTS, "route" => route, "method" => method, "status" => status).increment(1);
    response
}

/// Sums up the histograms every few seconds, which would otherwise grow until somebody scrapes.
pub fn keep_up(stopping: CancellationToken) {
    tokio::spawn(stopping.run_until_cancelled_owned(async {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            RECORDER.run_upkeep();
        }
    }));
}

/// Prometheus metrics
#[utoipa::path(get, path = "/metrics", tag = "server", operation_id = "prometheus",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub async fn get(Shared(state): Shared<State>) -> impl IntoResponse {
    let totals = store::totals(&state.pool).await;
    gauge!(DATABASE_UP).set(if totals.is_ok() { 1.0 } else { 0.0 });
    match totals {
        Ok(totals) => set(&totals),
        Err(error) => tracing::warn!(%error, "no totals for Prometheus"),
    }
    (StatusCode::OK, [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], RECORDER.render())
}

fn set(totals: &Totals) {
    for (status, jobs) in &totals.jobs {
        gauge!(JOBS, "status" => status.name()).set(*jobs as f64);
    }
    gauge!(QUEUE_DEPTH).set(totals.ready as f64);
    gauge!(WORKERS, "state" => "busy").set(totals.busy_workers as f64);
    gauge!(WORKERS, "state" => "idle").set(totals.idle_workers as f64);
}
