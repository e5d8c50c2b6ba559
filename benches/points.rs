//! Measures listing, charting, exporting and compacting a job with a million points: `cargo bench --bench points`.
//!
//! Starts its own server (with its own PostgreSQL with fsync, no workers), writes one ended job with 20 series of
//! 50,000 points each, and times whole answers over HTTP: the median and the worst of several.

mod common;

use std::time::{Duration, Instant};

use common::Server;
use distillery::db::compaction;
use sqlx::PgPool;

/// Requests of each kind.
const TIMES: usize = 9;

const CHART: &str = "/v1/jobs/job_01M8000000000000000000000A/metrics";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let Server { process: _process, url, pool } = Server::start(dir.path()).await?;

    let start = Instant::now();
    fill(&pool).await?;
    println!("1,000,000 points in 20 series written in {:.1} s", start.elapsed().as_secs_f64());
    let reads = [
        ("list of jobs", "/v1/jobs?limit=50".to_owned()),
        ("list with curves", "/v1/summaries".to_owned()),
        ("the job", "/v1/jobs/job_01M8000000000000000000000A".to_owned()),
        ("chart of all series", CHART.to_owned()),
        ("chart of all, each by its name", format!("{CHART}?{}", every_name())),
        ("chart of one series", format!("{CHART}?name=series/7")),
        ("CSV of all points", format!("{CHART}?max_points=50000")),
    ];
    for (name, path) in &reads {
        time(name, &format!("{url}{path}")).await?;
    }
    let start = Instant::now();
    let compacted = compaction::compact_one(&pool, 30).await?.ok_or_else(|| anyhow::anyhow!("nothing to compact"))?;
    println!("compacted in {:.2} s, {} points removed", start.elapsed().as_secs_f64(), compacted.points);
    sqlx::raw_sql("vacuum analyze metrics").execute(&pool).await?;
    for (name, path) in &reads[2..] {
        time(&format!("{name}, compacted"), &format!("{url}{path}")).await?;
    }
    Ok(())
}

/// Every series by name: named series are read one row per point through their index, unnamed requests in blocks.
fn every_name() -> String {
    (1..=20).map(|series| format!("name=series/{series}&")).collect()
}

/// Prints how long the whole answer takes.
async fn time(name: &str, url: &str) -> anyhow::Result<()> {
    distillery::artifacts::install_tls_provider();
    let client = reqwest::Client::new();
    let (mut times, mut bytes) = (Vec::new(), 0);
    for _ in 0..TIMES {
        let start = Instant::now();
        let accept = if name.starts_with("CSV") { "text/csv" } else { "application/json" };
        bytes = client.get(url).header("accept", accept).send().await?.error_for_status()?.bytes().await?.len();
        times.push(start.elapsed());
    }
    times.sort();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{name:32} p50 {:7.1} ms   worst {:7.1} ms   {bytes:>9} bytes",
        milliseconds(times[TIMES / 2]),
        milliseconds(times[TIMES - 1])
    );
    Ok(())
}

/// A job that succeeded 40 days ago, with points in the order of a trainer: step by step, all series at once.
async fn fill(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::raw_sql(
        r#"
        insert into jobs (id, name, status, spec, max_attempts, attempt, finished_at)
            select 'job_01M8000000000000000000000A', 'million', 'succeeded',
                '{"student": {"architecture": "resnet8"}, "dataset": {"name": "ten"}, "distillation": {"method": "none"}}',
                1, 1, now() - interval '40 days';
        -- Only jobs whose points are in a file are compacted.
        update jobs set published_attempt = 1;
        insert into artifacts (job_id, attempt, name, key, size_bytes, sha256)
            values ('job_01M8000000000000000000000A', 1, 'metrics.ndjson', 'none', 0, '');
        insert into metrics (job_id, attempt, name, step, epoch, time, value)
            select 'job_01M8000000000000000000000A', 1, 'series/' || series, step, step / 200.0, now() - (50000 - step) * interval '1 s',
                exp(-step / 1e4) + 0.1 * random()
            from generate_series(1, 50000) as step, generate_series(1, 20) as series
            order by step, series;
        "#,
    )
    .execute(pool)
    .await?;
    sqlx::raw_sql("vacuum analyze metrics").execute(pool).await?;
    Ok(())
}
