//! Shows the peaks of the API's memory while clients ask for what costs most, as a table: `cargo bench --bench memory`.
//! Fails where a peak is above what `deploy/kubernetes/api.yaml` gives the pod, less what two exports may take.
//!
//! Starts its own server (with its own PostgreSQL, no workers). A peak is the kernel's, of the server's resident memory
//! from the start of a part to the end of its last request. What the kernel keeps for connections is not in it.

mod common;
#[path = "memory/connections.rs"]
mod connections;
#[path = "memory/inputs.rs"]
mod inputs;

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::{Process, Server};
use futures::StreamExt;
use inputs::{arguments, write_network, write_picture};
use reqwest::Client;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, PgPool};

const JOBS: u32 = 10_000;
const WATCHERS: usize = 40;
/// Clients that ask for a mebibyte or more and read nothing: more of them than the pod has mebibytes.
const IDLE_READERS: usize = 1500;
/// How often each of these asks: for more than the kernel keeps for it.
const PIPELINED: usize = 6;
const IMAGES: u32 = 205_000;
const MIB: u64 = 1 << 20;

/// A client of the server that is measured.
struct Bench {
    process: Process,
    url: String,
    pool: PgPool,
    http: Client,
    limit_mib: u64,
    above: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let Server { process, url, pool } = Server::start(dir.path()).await?;
    distillery::artifacts::install_tls_provider();
    let limit_mib = pod_limit()?;
    let mut bench = Bench { process, url, pool, http: Client::new(), limit_mib, above: Vec::new() };
    println!("| what | peak, MiB (of {limit_mib}) | s | outcome |\n| --- | --- | --- | --- |");
    bench.fill(dir.path()).await?;
    bench.part("40 watchers of 10,000 jobs, each of which changes", Bench::watchers).await?;
    bench
        .part("2,000 watchers that read nothing", async |bench: &Bench| connections::watchers(&bench.url).await)
        .await?;
    bench
        .part("16 uploads of headers of 100 MB, hung up", async |bench: &Bench| {
            bench.headers(95, Header::Tensors).await
        })
        .await?;
    bench
        .part("16 uploads of headers of 30 MB, hung up", async |bench: &Bench| bench.headers(30, Header::Tensors).await)
        .await?;
    bench
        .part("16 uploads of metadata of 30 MB, hung up", async |bench: &Bench| {
            bench.headers(30, Header::Metadata).await
        })
        .await?;
    let network = dir.path().join("large.pt2");
    write_network(&network, "", 3 << 29)?;
    bench
        .part("2 uploads of networks with 1.5 GiB of weights", async |bench: &Bench| bench.networks(&network).await)
        .await?;
    for (name, count, length) in [
        ("2 uploads of networks with a list of 24 MB", 1, 12_000_000),
        ("2 uploads of networks with 1,500 lists of 16 kB", 1500, 8000),
    ] {
        write_network(&network, &arguments(count, length), 4)?;
        bench.part(name, async |bench: &Bench| bench.networks(&network).await).await?;
    }
    bench.part("64 documents of a megabyte of numbers", async |bench: &Bench| bench.documents("9e9,").await).await?;
    bench.part("64 documents of a megabyte of lists", async |bench: &Bench| bench.documents("[],").await).await?;
    bench.part("40 jobs on a folder of 205,000 images", Bench::folder).await?;
    bench.part("reading the images of that folder", async |bench: &Bench| bench.statistics("many").await).await?;
    let archive = dir.path().join("pictures.zip");
    write_pictures(&archive)?;
    bench
        .part("2 uploads of data sets of 1 GB, read to the end", async |bench: &Bench| bench.datasets(&archive).await)
        .await?;
    bench.part("20 charts of a million points", Bench::charts).await?;
    bench.part("1,500 clients that read nothing of long answers", Bench::idle_readers).await?;
    bench
        .part("as many connections as are taken, each as full as it can be", async |bench: &Bench| {
            connections::full(&bench.url, &bench.pool).await
        })
        .await?;
    bench.part("12 pages of pictures of images of 67 megapixels", Bench::pictures).await?;
    bench.part("8 sweeps of 1,000 jobs each", Bench::sweeps).await?;
    anyhow::ensure!(bench.above.is_empty(), "above {limit_mib} MiB: {}", bench.above.join("; "));
    Ok(())
}

/// What the API may take of its container's memory, in MiB: all but the share of two exports.
fn pod_limit() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/api.yaml"))?;
    let (_, limit) = text.split_once("limits: {memory: ").context("the pod has no limit")?;
    let (number, unit) = limit.split_at(limit.find(|c: char| !c.is_ascii_digit()).context("no unit")?);
    let limit = number.parse::<u64>()? * if unit.starts_with("Gi") { 1024 } else { 1 };
    let export = text.split_once("--export-memory-mib=").and_then(|(_, rest)| rest.lines().next());
    let exports = 2 * export.context("the pod does not bound exports")?.parse::<u64>()?;
    limit.checked_sub(exports).context("two exports alone take all of the pod's memory")
}

/// Writes a zip with 1 GB of pictures, no two of which are the same.
fn write_pictures(path: &Path) -> anyhow::Result<()> {
    let mut writer = zip::ZipWriter::new(std::fs::File::create(path)?);
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut picture = [b"P6 256 256 255\n".as_slice(), &[0; 3 << 16]].concat();
    for number in 0..5000_u32 {
        let place = picture.len() - 4;
        picture[place..].copy_from_slice(&number.to_le_bytes());
        let split = if number < 4500 { "train" } else { "test" };
        writer.start_file(format!("{split}/{}/{number}.ppm", number % 10), stored)?;
        writer.write_all(&picture)?;
    }
    writer.finish()?;
    Ok(())
}

#[derive(Clone, Copy)]
enum Header {
    Tensors,
    Metadata,
}

impl Bench {
    async fn part(&mut self, name: &str, run: impl AsyncFnOnce(&Self) -> anyhow::Result<String>) -> anyhow::Result<()> {
        let pid = self.process.0.id();
        // Sets the peak back to what is used now.
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        let start = Instant::now();
        let said = run(self).await?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let peak = peak.context("the kernel tells no peak")?.trim().parse::<u64>()? / 1024;
        println!("| {name} | {peak} | {:.1} | {said} |", start.elapsed().as_secs_f64());
        if peak > self.limit_mib {
            self.above.push(format!("{name}: {peak}"));
        }
        Ok(())
    }

    /// Unfinished jobs, a job with a million points, and a folder of many images.
    async fn fill(&self, dir: &Path) -> anyhow::Result<()> {
        let id = self.post("ten").await?.1["id"].as_str().context("a job")?.to_owned();
        let copies = format!(
            "insert into jobs (id, name, spec, max_attempts)
                 select 'job_' || lpad(number::text, 26, '0'), name, spec, max_attempts
                 from jobs, generate_series(1, {JOBS}) as number where id = '{id}';
             insert into metrics (job_id, attempt, name, step, epoch, time, value)
                 select '{id}', 1, 'series/' || series, step, step / 200.0, now(), random()
                 from generate_series(1, 50000) as step, generate_series(1, 20) as series"
        );
        self.pool.acquire().await?.execute(sqlx::raw_sql(AssertSqlSafe(copies))).await?;
        // Events as long as there are, and a request as long.
        sqlx::query(
            "insert into events (job_id, seq, attempt, kind, message)
                 select $1, number, 0, 'log', repeat('x', 8000) from generate_series(1001, 2000) as number",
        )
        .bind(&id)
        .execute(&self.pool)
        .await?;
        let large = json!({"name": "large", "student": {"architecture": "resnet8"}, "dataset": {"name": "ten"},
            "distillation": {"method": "none"}});
        let large = format!("{}{large}", " ".repeat(1_000_000));
        let post = self.http.post(format!("{}/v1/jobs", self.url)).header("content-type", "application/json");
        post.body(large).send().await?.error_for_status()?;
        write_picture(&dir.join("datasets/large/train/a/1.png"))?;
        for (split, class) in [("train", "b"), ("test", "a"), ("test", "b")] {
            let place = dir.join("datasets/large").join(split).join(class);
            std::fs::create_dir_all(&place)?;
            std::fs::copy(dir.join("datasets/large/train/a/1.png"), place.join("1.png"))?;
        }
        let class = |split: &str, class: u32| dir.join(format!("datasets/many/{split}/class-{class:04}"));
        for number in 0..IMAGES {
            let place = class("train", number % 1000);
            if number < 1000 {
                std::fs::create_dir_all(&place)?;
                let eval = class("test", number);
                std::fs::create_dir_all(&eval)?;
                std::fs::write(eval.join("0.png"), [])?;
            }
            std::fs::write(place.join(format!("n0{number:08}_{number}.png")), [])?;
        }
        Ok(())
    }

    async fn post(&self, dataset: &str) -> anyhow::Result<(u16, Value)> {
        let spec = json!({"student": {"architecture": "resnet8"}, "dataset": {"name": dataset},
            "distillation": {"method": "none"}});
        let answer = self.http.post(format!("{}/v1/jobs", self.url)).json(&spec).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    async fn watchers(&self) -> anyhow::Result<String> {
        let watch = || async {
            let stream = self.http.get(format!("{}/v1/stream", self.url)).send().await?.error_for_status()?;
            let (mut chunks, mut told) = (stream.bytes_stream(), 0);
            let mut tail = Vec::new();
            // Twice: as they are at the start, and changed.
            while told < 2 * JOBS as usize {
                tail.extend_from_slice(&chunks.next().await.context("the stream goes on")??);
                told += tail.windows(14).filter(|window| *window == b"event: status\n").count();
                let kept = tail.len().saturating_sub(13);
                tail.drain(..kept);
            }
            anyhow::Ok(())
        };
        let change = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.pool.execute("update jobs set name = name || '!' where status = 'queued'").await?;
            anyhow::Ok(())
        };
        let (watched, changed) = tokio::join!(futures::future::join_all((0..WATCHERS).map(|_| watch())), change);
        changed?;
        watched.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
        Ok("all were told of all".to_owned())
    }

    /// Uploads whose clients are gone before they are looked at, then one that is answered after them.
    async fn headers(&self, megabytes: usize, kind: Header) -> anyhow::Result<String> {
        let mut header = String::from(match kind {
            Header::Tensors => "{",
            Header::Metadata => "{\"__metadata__\":{",
        });
        for number in 0.. {
            if header.len() > megabytes * 1_000_000 {
                break;
            }
            header += &match kind {
                Header::Tensors => format!("\"{number:x}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}},"),
                Header::Metadata => format!("\"{number:x}\":\"\","),
            };
        }
        header.pop();
        header += if matches!(kind, Header::Metadata) { "}}" } else { "}" };
        let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        let address = self.url.strip_prefix("http://").context("an address")?.to_owned();
        let uploads = (0..16).map(|_| {
            let (address, file) = (address.clone(), file.clone());
            tokio::task::spawn_blocking(move || {
                let mut stream = TcpStream::connect(&address)?;
                write!(
                    stream,
                    "PUT /v1/checkpoints HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n",
                    file.len()
                )?;
                stream.write_all(&file)
            })
        });
        for upload in futures::future::join_all(uploads).await {
            upload??;
        }
        let answer = self.http.put(format!("{}/v1/checkpoints", self.url)).body(file).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        Ok(format!("{status} {}", text.chars().skip(70).take(120).collect::<String>()))
    }

    async fn networks(&self, path: &Path) -> anyhow::Result<String> {
        let upload = || async {
            let file = tokio::fs::File::open(path).await?;
            let answer = self.http.put(format!("{}/v1/checkpoints", self.url)).body(file).send().await?;
            anyhow::Ok((answer.status(), answer.text().await?))
        };
        let (one, two) = tokio::join!(upload(), upload());
        let ((one, text), (two, _)) = (one?, two?);
        Ok(format!("{one}, {two} {}", text.chars().take(160).collect::<String>()))
    }

    async fn documents(&self, element: &str) -> anyhow::Result<String> {
        let list = element.repeat(1_000_000 / element.len());
        let body = format!(r#"{{"dataset": {{"name": "ten", "mean": [{list}0]}}}}"#);
        let posts = (0..64).map(|_| async {
            let post = self.http.post(format!("{}/v1/jobs", self.url)).header("content-type", "application/json");
            anyhow::Ok(post.body(body.clone()).send().await?.bytes().await?.len())
        });
        let sizes = futures::future::join_all(posts).await.into_iter().collect::<anyhow::Result<Vec<usize>>>()?;
        Ok(format!("the largest answer has {} bytes", sizes.iter().max().unwrap_or(&0)))
    }

    async fn folder(&self) -> anyhow::Result<String> {
        let posts = futures::future::join_all((0..40).map(|_| self.post("many"))).await;
        let succeeded = posts.into_iter().filter(|post| post.as_ref().is_ok_and(|(status, _)| *status == 201)).count();
        Ok(format!("{succeeded} of 40 succeeded"))
    }

    /// Waits until the images of a data set have been read.
    async fn statistics(&self, dataset: &str) -> anyhow::Result<String> {
        loop {
            let answer = self.http.get(format!("{}/v1/datasets/{dataset}", self.url)).send().await?;
            let details: Value = answer.error_for_status()?.json().await?;
            if let Some(fault) = details["statistics_fault"].as_str() {
                anyhow::bail!("{dataset}: {fault}");
            }
            if let Some(splits) = details["statistics"]["splits"].as_array() {
                let read: u64 = splits.iter().filter_map(|split| split["compared"].as_u64()).sum();
                return Ok(format!("{read} images"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn datasets(&self, archive: &Path) -> anyhow::Result<String> {
        let upload = |name: &'static str| async move {
            let file = tokio::fs::File::open(archive).await?;
            let answer = self.http.put(format!("{}/v1/datasets/{name}", self.url)).body(file).send().await?;
            answer.error_for_status()?;
            self.statistics(name).await
        };
        let (one, two) = tokio::join!(upload("one"), upload("two"));
        Ok(format!("{} and {}", one?, two?))
    }

    async fn charts(&self) -> anyhow::Result<String> {
        let id: String = sqlx::query_scalar("select job_id from metrics limit 1").fetch_one(&self.pool).await?;
        let url = format!("{}/v1/jobs/{id}/metrics?max_points=100000", self.url);
        let charts =
            (0..20).map(|_| async { anyhow::Ok(self.http.get(&url).send().await?.bytes().await?.len() as u64) });
        let sizes = futures::future::join_all(charts).await.into_iter().collect::<anyhow::Result<Vec<u64>>>()?;
        Ok(format!("of {} MiB each", sizes.iter().max().unwrap_or(&0) / MIB))
    }

    async fn idle_readers(&self) -> anyhow::Result<String> {
        let job: String = sqlx::query_scalar("select job_id from metrics limit 1").fetch_one(&self.pool).await?;
        let large: String =
            sqlx::query_scalar("select id from jobs where name like 'large%'").fetch_one(&self.pool).await?;
        let address = self.url.strip_prefix("http://").context("an address")?;
        let paths = [
            format!("/v1/jobs/{job}/events?limit=1000&after=1000"),
            format!("/v1/jobs/{large}/submitted"),
            format!("/v1/jobs/{job}/metrics?max_points=100000&name=series/1"),
        ];
        let mut open = Vec::new();
        for path in paths.iter().cycle().take(IDLE_READERS) {
            let socket = tokio::net::TcpSocket::new_v4()?;
            // The kernel keeps what it takes of an answer elsewhere.
            socket.set_recv_buffer_size(4096)?;
            let mut stream = socket.connect(address.parse()?).await?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").repeat(PIPELINED);
            tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await?;
            open.push(stream);
        }
        let start = Instant::now();
        // The others get more than the time that they have, and somebody who reads meanwhile gets answers in the end.
        let (mut refused, mut first) = (0, None);
        while start.elapsed() < Duration::from_secs(30) || first.is_none() {
            anyhow::ensure!(start.elapsed() < Duration::from_secs(180), "nobody else got an answer");
            for path in &paths {
                let answer = async {
                    let answer = self.http.get(format!("{}{path}", self.url)).send().await?;
                    anyhow::Ok(answer.error_for_status()?.bytes().await?.len())
                };
                let is_read = answer.await.is_ok_and(|length| length > 900_000);
                first = first.or(is_read.then(|| start.elapsed().as_secs()));
                refused += u32::from(!is_read);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let first = first.unwrap_or_default();
        Ok(format!("another client got its first answer after {first} s, and was refused {refused} times"))
    }

    async fn pictures(&self) -> anyhow::Result<String> {
        let url = &format!("{}/v1/datasets/large/images", self.url);
        let pages = (0..12).map(|number| async move {
            let page = self.http.get(format!("{url}?side={}", 16 + number)).send().await?;
            anyhow::Ok(page.status().is_success())
        });
        let pages = futures::future::join_all(pages).await.into_iter().collect::<anyhow::Result<Vec<bool>>>()?;
        Ok(format!("{} of 12 in time", pages.iter().filter(|page| **page).count()))
    }

    async fn sweeps(&self) -> anyhow::Result<String> {
        let body = json!({"name": "wide", "seeds": 2, "strategy": {"type": "grid"},
            "base": {"student": {"architecture": "resnet8"}, "dataset": {"name": "ten"},
                "distillation": {"method": "none"}},
            "axes": {"/training/batch_size": (2..=26).collect::<Vec<u32>>(),
                "/training/epochs": (1..=20).collect::<Vec<u32>>()}});
        let posts = (0..8).map(|_| async {
            let post = self.http.post(format!("{}/v1/sweeps", self.url)).json(&body).send().await?;
            anyhow::Ok(post.status())
        });
        let posts = futures::future::join_all(posts).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let first = posts.iter().find(|status| !status.is_success()).or(posts.first()).context("posts")?;
        Ok(format!("{} of 8 in time, {first}", posts.iter().filter(|status| status.is_success()).count()))
    }
}
