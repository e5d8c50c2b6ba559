//! Measures the job server under load: `cargo bench --bench load`.
//!
//! Starts its own server (with its own PostgreSQL with fsync, no workers) and measures in one run, on the machine that
//! also generates the load:
//!
//! - POST and GET at fixed rates. Latency counts from when a request was due, so that a stalled server is not flattered
//!   by a client that waits for it;
//! - the time until an idle worker claims a job, from the server's own ledger;
//! - claims per second with 1 to 64 claimers;
//! - the time until a thousand watchers of one job see a change;
//! - the resident memory of the API's process before and after each part.
//!
//! `cargo bench --bench load -- watchers` measures the watchers alone.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Process, Server, print_latencies, write_trainer};
use distillery::db::queue;
use futures::StreamExt;
use serde_json::json;
use sqlx::PgPool;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let Server { process: server, url, pool } = Server::start(dir.path()).await?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{cores} cores, which also generate the load");
    memory("at the start", &server);

    distillery::artifacts::install_tls_provider();
    let client = reqwest::Client::new();
    let spec = json!({"student": {"architecture": "resnet8"}, "dataset": {"name": "ten"},
        "distillation": {"method": "none"}});
    if std::env::args().any(|argument| argument == "watchers") {
        return watchers(&url, &pool, &client, &spec, &server).await;
    }
    let post = || client.post(format!("{url}/v1/jobs")).json(&spec);
    let created = post().send().await?;
    anyhow::ensure!(created.status() == 201, "{}", created.text().await?);
    let id = created.json::<serde_json::Value>().await?["id"].as_str().expect("an id").to_owned();
    let get = || client.get(format!("{url}/v1/jobs/{id}"));
    let list = || client.get(format!("{url}/v1/jobs?limit=50"));
    at_rate("GET  /v1/jobs/{id}", 200, get).await;
    at_rate("GET  /v1/jobs/{id}", 1000, get).await;
    at_rate("POST /v1/jobs", 200, post).await;
    at_rate("POST /v1/jobs", 1000, post).await;
    at_rate("GET  /v1/jobs?limit=50", 200, list).await;
    memory("after these", &server);

    claims(&pool).await?;
    watchers(&url, &pool, &client, &spec, &server).await?;
    pickup(&url, &pool, dir.path(), &client, &spec).await?;
    memory("at the end", &server);
    Ok(())
}

/// Sends requests at a rate for ten seconds and prints their latencies.
async fn at_rate(name: &str, rate: u32, request: impl Fn() -> reqwest::RequestBuilder) {
    let start = tokio::time::Instant::now();
    let mut answers = tokio::task::JoinSet::new();
    for number in 0..rate * 10 {
        let due = start + Duration::from_secs(1) * number / rate;
        tokio::time::sleep_until(due).await;
        let request = request();
        answers.spawn(async move {
            let answer = request.send().await.ok()?;
            let succeeded = answer.status().is_success();
            answer.bytes().await.ok()?;
            succeeded.then(|| due.elapsed())
        });
    }
    let outcomes = answers.join_all().await;
    let refused = outcomes.iter().filter(|outcome| outcome.is_none()).count();
    print_latencies(&format!("{name} at {rate}/s"), &outcomes.into_iter().flatten().collect::<Vec<_>>(), refused);
}

/// Resident memory of the API's process, without its PostgreSQL.
fn memory(when: &str, server: &Process) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.0.id())).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        line.trim().split(' ').next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    println!("API memory {when}: {:.1} MiB resident, of which {:.1} MiB its own", field("VmRSS:"), field("RssAnon:"));
}

/// Claims jobs as fast as `claimers` can, and gives each back.
async fn claims(pool: &PgPool) -> anyhow::Result<()> {
    for claimers in [1, 4, 16, 64] {
        let claimed = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let tasks = (0..claimers).map(|claimer| {
            let (pool, claimed) = (pool.clone(), claimed.clone());
            tokio::spawn(async move {
                while start.elapsed() < Duration::from_secs(5) {
                    let claim = queue::claim(
                        &pool,
                        &format!("wrk_{claimer}"),
                        queue::DeviceCapacity::ONE,
                        Duration::from_secs(60),
                    )
                    .await?;
                    let Some(claim) = claim else { break };
                    claimed.fetch_add(1, Ordering::Relaxed);
                    queue::stopped(&pool, &claim.token.write()).await?;
                }
                Ok::<(), sqlx::Error>(())
            })
        });
        for task in futures::future::join_all(tasks).await {
            task??;
        }
        let rate = claimed.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
        println!("claims by {claimers:>2} claimers, over 16 connections: {rate:.0} claimed and given back per second");
    }
    Ok(())
}

/// The time until a thousand streams of one job send a new point.
async fn watchers(
    url: &str,
    pool: &PgPool,
    client: &reqwest::Client,
    spec: &serde_json::Value,
    server: &Process,
) -> anyhow::Result<()> {
    const WATCHERS: usize = 1000;
    const POINTS: usize = 10;
    // A job without the long history that the claims above left, with a priority that makes it the next to be claimed.
    let mut spec = spec.clone();
    spec["priority"] = json!(100);
    client.post(format!("{url}/v1/jobs")).json(&spec).send().await?.error_for_status()?;
    let claim = queue::claim(pool, "wrk_bench", queue::DeviceCapacity::ONE, Duration::from_secs(600))
        .await?
        .expect("a job is queued");
    let stream = format!("{url}/v1/jobs/{}/stream", claim.token.job);
    let heard = Arc::new(AtomicUsize::new(0));
    let (tell, mut latencies) = tokio::sync::mpsc::unbounded_channel();
    let epoch = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..WATCHERS {
        tasks.spawn(watch(stream.clone(), heard.clone(), epoch, tell.clone()));
    }
    drop(tell);
    while heard.load(Ordering::Relaxed) < WATCHERS {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    memory("with 1,000 watchers", server);
    let mut all = Vec::new();
    for step in 0..POINTS {
        let point = distillery::protocol::Point {
            name: "bench/sent".into(),
            step: step as u64,
            epoch: 0.0,
            time: chrono::Utc::now(),
            value: epoch.elapsed().as_secs_f64(),
        };
        queue::record(pool, &claim.token.write(), &queue::ReportBatch { points: vec![point], ..Default::default() })
            .await?;
        let everybody = async {
            for _ in 0..WATCHERS {
                all.extend(latencies.recv().await);
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), everybody).await.is_err() {
            println!("not all watchers received point {step} within ten seconds");
        }
    }
    let missed = WATCHERS * POINTS - all.len();
    print_latencies("a change to each of 1,000 watchers", &all, missed);
    tasks.abort_all();
    queue::stopped(pool, &claim.token.write()).await?;
    Ok(())
}

/// Reads a job's stream, and tells how long after it was written each point of the benchmark arrived.
async fn watch(
    stream: String,
    heard: Arc<AtomicUsize>,
    epoch: Instant,
    tell: tokio::sync::mpsc::UnboundedSender<Duration>,
) -> reqwest::Result<()> {
    let answer = reqwest::Client::new().get(stream).send().await?;
    heard.fetch_add(1, Ordering::Relaxed);
    let (mut chunks, mut text) = (answer.bytes_stream(), String::new());
    while let Some(chunk) = chunks.next().await {
        text.push_str(&String::from_utf8_lossy(&chunk?));
        while let Some((line, rest)) = text.split_once('\n') {
            // The point's value is the time at which it was written.
            let sent = line.split("\"value\":").nth(1).and_then(|rest| rest.split([',', '}']).next());
            if line.contains("bench/sent")
                && let Some(sent) = sent.and_then(|sent| sent.parse::<f64>().ok())
            {
                let _ = tell.send(epoch.elapsed().saturating_sub(Duration::from_secs_f64(sent)));
            }
            text = rest.to_owned();
        }
    }
    Ok(())
}

/// The time until an idle worker claims a job, over a hundred jobs one after another.
async fn pickup(
    url: &str,
    pool: &PgPool,
    dir: &Path,
    client: &reqwest::Client,
    spec: &serde_json::Value,
) -> anyhow::Result<()> {
    sqlx::query("update jobs set status = 'cancelled', finished_at = now() where status = 'queued'")
        .execute(pool)
        .await?;
    let trainer = write_trainer(dir, "")?;
    let worker = Command::new(env!("CARGO_BIN_EXE_distillery"))
        .args(["worker", "--device", "cpu"])
        .args(["--trainer".as_ref(), trainer.as_os_str()])
        .args(["--data-dir".as_ref(), dir.join("data").as_os_str()])
        .args(["--datasets-dir".as_ref(), dir.join("datasets").as_os_str()])
        .env("DATABASE_URL", std::fs::read_to_string(dir.join("data/postgres.url"))?)
        .env("RUST_LOG", "error")
        .stdin(Stdio::null())
        .spawn()?;
    let _worker = Process(worker);
    let mut waits = Vec::new();
    for number in 0..101 {
        let created = client.post(format!("{url}/v1/jobs")).json(spec).send().await?.error_for_status()?;
        let id = created.json::<serde_json::Value>().await?["id"].as_str().expect("an id").to_owned();
        loop {
            let job: serde_json::Value = client.get(format!("{url}/v1/jobs/{id}")).send().await?.json().await?;
            match job["status"].as_str() {
                Some("succeeded") => break,
                Some("failed") => anyhow::bail!("{job}"),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        let wait = "select extract(epoch from started_at - runnable_at)::float8 from attempts where job_id = $1";
        let wait: f64 = sqlx::query_scalar(wait).bind(&id).fetch_one(pool).await?;
        // The worker had not started when the first job was posted.
        if number > 0 {
            waits.push(Duration::from_secs_f64(wait.max(0.0)));
        }
    }
    print_latencies("an idle worker takes a job", &waits, 0);
    Ok(())
}
