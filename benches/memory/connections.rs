//! Clients that keep connections open and read nothing.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, getrlimit, setrlimit};
use sqlx::PgPool;

/// As many as a server takes by default, less some for the measurements.
const CONNECTIONS: u64 = 9900;
/// Files that this process has open besides.
const OTHER_FILES: u64 = 256;
/// Bytes of a request's head that the server keeps.
const LONGEST_HEAD: usize = 16 << 10;

fn address(url: &str) -> anyhow::Result<&str> {
    url.strip_prefix("http://").context("an address")
}

/// Clients that follow all jobs.
pub async fn watchers(url: &str) -> anyhow::Result<String> {
    let address = address(url)?;
    let mut open = Vec::new();
    for _ in 0..2000 {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET /v1/stream HTTP/1.1\r\nhost: {address}\r\n\r\n")?;
        open.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    Ok(format!("{} connections", open.len()))
}

/// Clients of which one half follows a job with long events, and the other sends a long head that does not end.
pub async fn full(url: &str, pool: &PgPool) -> anyhow::Result<String> {
    let address = address(url)?;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let connections = limit.maximum.map_or(CONNECTIONS, |files| files.saturating_sub(OTHER_FILES).min(CONNECTIONS));
    let job: String = sqlx::query_scalar("select job_id from metrics limit 1").fetch_one(pool).await?;
    let watch = format!("GET /v1/jobs/{job}/stream HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let start = "GET /healthz HTTP/1.1\r\nlong: ";
    let endless = format!("{start}{}", "x".repeat(LONGEST_HEAD - 1 - start.len()));
    let mut open = Vec::new();
    for number in 0..connections {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(if number % 2 == 0 { watch.as_bytes() } else { endless.as_bytes() })?;
        open.push(stream);
    }
    // Less than the time that a head may take.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let answer = reqwest::get(format!("{url}/healthz")).await.context("nobody else gets an answer")?;
    Ok(format!("{} connections, and for another client {}", open.len(), answer.status()))
}
