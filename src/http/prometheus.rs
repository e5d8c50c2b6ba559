//! `/metrics`: metrics in Prometheus' format.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use super::AppState;
use crate::db::attempts::AttemptOutcome;
use crate::db::counters::{self, Ledger, Totals, WAIT_BOUNDS};

const REQUESTS: &str = "distillery_http_requests_total";
const DURATION: &str = "distillery_http_request_duration_seconds";
const DATABASE_UP: &str = "distillery_database_up";
const JOBS: &str = "distillery_jobs";
const QUEUE_DEPTH: &str = "distillery_queue_depth";
const WORKERS: &str = "distillery_workers";
const QUEUE_OLDEST: &str = "distillery_queue_oldest_seconds";
const LEASE_AGE: &str = "distillery_lease_age_seconds_max";
const IMAGES_PER_SECOND: &str = "distillery_training_images_per_second";
const ATTEMPTS: &str = "distillery_attempts_total";
const RESCUES: &str = "distillery_rescues_total";
const REFUSED: &str = "distillery_stale_writes_refused_total";
const DEVICE_SECONDS: &str = "distillery_device_seconds_total";
const PICKUP: &str = "distillery_pickup_latency_seconds";

/// The process has exactly one recorder.
static RECORDER: LazyLock<PrometheusHandle> = LazyLock::new(|| {
    let buckets = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Full(DURATION.into()), &buckets);
    let handle = builder.expect("there are buckets").install_recorder().expect("no other recorder is installed");
    metrics::describe_counter!(REQUESTS, "Requests by route, method and status");
    metrics::describe_histogram!(DURATION, "Time to the head of the response, by route and method");
    metrics::describe_gauge!(DATABASE_UP, "Whether the database answered this scrape");
    metrics::describe_gauge!(JOBS, "Jobs by status");
    metrics::describe_gauge!(QUEUE_DEPTH, "Queued jobs that could start now");
    metrics::describe_gauge!(WORKERS, "Live workers, by whether they are running a job");
    metrics::describe_gauge!(QUEUE_OLDEST, "Longest time that a job which could start has been waiting");
    metrics::describe_gauge!(LEASE_AGE, "Age of the oldest heartbeat among running jobs");
    metrics::describe_gauge!(IMAGES_PER_SECOND, "Training images per second of all running jobs");
    handle
});

/// Held while the gauges are set and rendered, so that no scrape shows another's.
static GAUGES: Mutex<()> = Mutex::new(());

/// Counts a request by its route. Unknown paths and methods are counted as `other`, so that clients cannot create
/// series.
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

/// Compacts the histograms every few seconds. Otherwise they would grow until the next scrape.
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
pub async fn get(State(state): State<AppState>) -> impl IntoResponse {
    let read =
        async { Ok::<_, sqlx::Error>((counters::totals(&state.pool).await?, counters::sums(&state.pool).await?)) };
    let read = read.await;
    let _whole = GAUGES.lock().unwrap_or_else(PoisonError::into_inner);
    gauge!(DATABASE_UP).set(if read.is_ok() { 1.0 } else { 0.0 });
    let counters = match read {
        Ok((totals, ledger)) => {
            set(&totals, &ledger);
            counters(&ledger)
        }
        // A missing counter is a gap; 0 would look like a reset.
        Err(error) => {
            tracing::warn!(%error, "cannot read the totals for Prometheus");
            String::new()
        }
    };
    (StatusCode::OK, [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], RECORDER.render() + &counters)
}

fn set(totals: &Totals, ledger: &Ledger) {
    gauge!(QUEUE_OLDEST).set(ledger.longest_wait);
    gauge!(LEASE_AGE).set(ledger.lease_age);
    gauge!(IMAGES_PER_SECOND).set(ledger.images_per_second);
    for (status, jobs) in &totals.jobs {
        gauge!(JOBS, "status" => status.name()).set(*jobs as f64);
    }
    gauge!(QUEUE_DEPTH).set(totals.ready as f64);
    gauge!(WORKERS, "state" => "busy").set(totals.busy_workers as f64);
    gauge!(WORKERS, "state" => "idle").set(totals.idle_workers as f64);
    gauge!(WORKERS, "state" => "stopped").set(totals.stopped_workers as f64);
}

/// Counters from the database in Prometheus' text format. The recorder only knows what happened in this process.
fn counters(ledger: &Ledger) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
        text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in samples {
            text += &format!("{name}{labels} {value}\n");
        }
        text += "\n";
    };
    let ended = |outcome: AttemptOutcome| {
        ledger.ended.iter().find(|(other, _)| other == outcome.name()).map_or(0, |(_, count)| *count)
    };
    // Outcomes that have not occurred yet are exported as 0, so that the first one is an increase.
    let attempts: Vec<_> = AttemptOutcome::ALL
        .iter()
        .map(|&outcome| (format!("{{outcome=\"{}\"}}", outcome.name()), ended(outcome) as f64))
        .collect();
    family(ATTEMPTS, "counter", "Attempts that ended, by outcome", &attempts);
    let plain = |value: f64| [(String::new(), value)];
    family(
        RESCUES,
        "counter",
        "Attempts whose worker or trainer disappeared",
        &plain(ended(AttemptOutcome::WorkerLost) as f64),
    );
    let refused = ledger.refused_writes as f64;
    family(REFUSED, "counter", "Refused writes of attempts that no longer owned their job", &plain(refused));
    let seconds = [("used", ledger.seconds_used), ("lost", ledger.seconds_lost)];
    let seconds = seconds.map(|(fate, seconds)| (format!("{{fate=\"{fate}\"}}"), seconds));
    family(
        DEVICE_SECONDS,
        "counter",
        "Device seconds of ended attempts, by whether their work was used or lost",
        &seconds,
    );
    let waits = &ledger.waits;
    let bounds = WAIT_BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
    let below = waits.below.iter().copied().chain([waits.count]);
    let mut samples: Vec<_> =
        bounds.zip(below).map(|(bound, count)| (format!("_bucket{{le=\"{bound}\"}}"), count as f64)).collect();
    samples.push(("_sum".to_owned(), waits.sum));
    samples.push(("_count".to_owned(), waits.count as f64));
    family(PICKUP, "histogram", "Time from when a job could start to when a worker claimed it", &samples);
    text
}
