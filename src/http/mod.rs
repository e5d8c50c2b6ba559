//! The HTTP API and the dashboard.
//!
//! Handlers of `/v1` are in files and folders named like their URLs: `v1/jobs/metrics.rs` serves
//! `/v1/jobs/{id}/metrics`. Where a URL does several things, a file is named after what it does: `v1/jobs/amend.rs`
//! serves `PATCH /v1/jobs/{id}`, and `v1/datasets/` has a file for each way to upload. `prometheus.rs` serves
//! `/metrics`, `health.rs` `/healthz` and `/readyz`, `openapi.rs` `/openapi.json` and `/docs`, and `assets.rs` the
//! dashboard. `router.rs` lists all routes.
//!
//! A handler extracts, validates, makes one call to [`crate::db`] or [`crate::artifacts`], and responds. Its errors
//! are `error::ApiError`s.
#![allow(unused_qualifications, reason = "utoipa qualifies the types of query parameters")]

mod answers;
mod assets;
mod auth;
mod board;
mod cached;
mod comparisons;
mod connections;
mod constraints;
mod dataset_facts;
mod datasets;
mod download;
mod error;
mod estimate;
mod event_file;
mod exports;
mod extract;
mod feed;
mod file_pieces;
mod health;
mod inspection;
mod job_network;
mod latencies;
mod measurements;
mod networks;
mod openapi;
mod origin;
mod prometheus;
mod quota;
mod resolve;
mod router;
mod sse;
mod statistics;
mod sweep_plan;
mod unread;
mod uploads;
mod v1;
mod workspace;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::artifacts::Store;
use crate::dataset_cache::DatasetCache;
use crate::db::listen::Changes;

pub use auth::TOKEN_MEMORY;
pub use error::Problem;
pub use origin::PublicUrl;

/// The default rate limit per token. A busy dashboard makes about ten requests per second.
pub const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(500).expect("not zero");

/// The default limit of simultaneous connections. Most of them would be streams.
pub const CONNECTIONS: usize = 10_000;

/// The default limit of a checkpoint's size, in bytes.
pub const CHECKPOINT_LIMIT: u64 = 8 << 30;

/// The default of the most memory, in MiB, of a process that exports a student.
pub const EXPORT_MEMORY_MIB: u64 = 2048;

/// Default of the largest accepted data set, in bytes.
pub const DATASET_LIMIT: u64 = 64 << 30;

/// Most memory in bytes that decoding images takes, for statistics and thumbnails together. The largest image takes 704
/// MiB.
const DECODING_MEMORY: u64 = 768 << 20;

#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The listener's address, which decides which `Host` headers are accepted.
    pub listen: SocketAddr,
    /// The address that browsers use, where a proxy is in front.
    pub public_url: Option<PublicUrl>,
    /// SHA-256 of a token with every permission, in addition to the tokens in the database.
    pub admin_token: Option<[u8; 32]>,
    /// Rate limit per token.
    pub requests_per_second: NonZeroU32,
    /// How long a token's scope is cached. A revoked token is refused after that at the latest.
    pub token_memory: Duration,
    /// The directory whose subdirectories are the data sets.
    pub datasets_dir: PathBuf,
    /// Whether symbolic links that lead out of a data set are followed.
    pub follow_links: bool,
    /// Where uploads are collected until they are stored.
    pub spool_dir: PathBuf,
    /// Largest accepted checkpoint, in bytes.
    pub checkpoint_limit: u64,
    /// Largest accepted data set, in bytes: as it is uploaded, and unpacked.
    pub dataset_limit: u64,
    /// This machine's copies of uploaded data sets.
    pub dataset_cache: DatasetCache,
    /// Largest total size of all uploads, in bytes.
    pub uploads_limit: Option<u64>,
    /// The `distillery` program, which writes students in other formats.
    pub program: PathBuf,
    /// ONNX Runtime's library, with which exported students are checked if it is there.
    pub onnxruntime: PathBuf,
    /// Most memory of a process that exports or measures a student.
    pub export_memory_mib: u64,
    /// Whether the latencies of students are measured, by [`program`](Self::program).
    pub measure_latency: bool,
    /// Most simultaneous uploads. Further ones get 503.
    pub uploads: usize,
    /// Most simultaneous uploads with the same token.
    pub uploads_per_token: usize,
    /// Most bytes of all uploads that are not stored yet.
    pub spool_limit: u64,
    /// Most uploads whose content is looked at simultaneously, which takes memory. Further ones wait.
    pub inspections: usize,
    /// Most simultaneous connections. Further ones get 503. Lower if the process may not open that many files.
    pub connections: usize,
    /// Names of the webhooks that jobs may choose.
    pub webhooks: Vec<String>,
    /// How long the head of a request may take, and how long a connection may be idle.
    pub header_timeout: Duration,
    /// How long a request may take, except uploads, downloads and streams.
    pub timeout: Duration,
    /// An upload must send at least [`upload_least`](Self::upload_least) bytes in each such period.
    pub upload_timeout: Duration,
    /// In bytes.
    pub upload_least: u64,
    /// While all places for uploads are taken, a new one ends the slowest of those that have had an
    /// [`upload_timeout`](Self::upload_timeout) and sent fewer bytes per second than this.
    pub upload_fair: u64,
    /// How long the outcome of a check of the database and the storage is reused.
    pub ready_memory: Duration,
    /// Longest silence of a stream.
    pub keep_alive: Duration,
    /// How long a client may read nothing before its connection is closed.
    pub reader_patience: Duration,
    /// Most bytes of all answers that wait for clients to read them, but for small ones. Further ones get 503.
    pub answers_limit: u64,
    /// While that is reached, connections are closed of clients that had this long to read an answer, or a piece of a
    /// long one, and took fewer than [`answer_fair`](Self::answer_fair) bytes per second.
    pub answer_patience: Duration,
    /// In bytes per second.
    pub answer_fair: u64,
    /// How long requests may still run after the server was told to stop.
    pub grace: Duration,
}

impl ServerSettings {
    /// The defaults.
    #[must_use]
    pub fn new(listen: SocketAddr, datasets_dir: PathBuf, spool_dir: PathBuf) -> Self {
        Self {
            listen,
            public_url: None,
            admin_token: None,
            requests_per_second: REQUESTS_PER_SECOND,
            token_memory: TOKEN_MEMORY,
            datasets_dir,
            follow_links: false,
            program: std::env::current_exe().unwrap_or_else(|_| "distillery".into()),
            onnxruntime: "libonnxruntime.so".into(),
            export_memory_mib: EXPORT_MEMORY_MIB,
            measure_latency: false,
            checkpoint_limit: CHECKPOINT_LIMIT,
            dataset_limit: DATASET_LIMIT,
            dataset_cache: DatasetCache::new(spool_dir.with_file_name("dataset-cache"), DATASET_LIMIT),
            uploads_limit: None,
            uploads: 64,
            uploads_per_token: 16,
            spool_limit: 64 << 30,
            inspections: 2,
            connections: CONNECTIONS,
            webhooks: Vec::new(),
            header_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            upload_timeout: Duration::from_secs(60),
            upload_least: 64 << 10,
            upload_fair: 256 << 10,
            ready_memory: Duration::from_secs(5),
            keep_alive: Duration::from_secs(15),
            spool_dir,
            reader_patience: Duration::from_secs(60),
            answers_limit: 128 << 20,
            answer_patience: Duration::from_secs(10),
            answer_fair: 256 << 10,
            grace: Duration::from_secs(20),
        }
    }
}

/// What handlers share.
#[derive(Debug, Clone)]
pub struct AppState {
    pool: PgPool,
    artifacts: Store,
    settings: Arc<ServerSettings>,
    changes: Changes,
    feeds: feed::Feeds,
    boards: board::Boards,
    gate: auth::Gate,
    answers: Arc<answers::Answers>,
    uploads: Arc<uploads::Uploads>,
    exports: Arc<exports::Exports>,
    latencies: Arc<latencies::Latencies>,
    readiness: Arc<health::Readiness>,
    comparisons: Arc<comparisons::Comparisons>,
    bodies: Arc<extract::Bodies>,
    charts: Arc<v1::jobs::metrics::Charts>,
    datasets: Arc<v1::datasets::Catalogue>,
    lookups: Arc<v1::datasets::SharedLookups<dataset_facts::DatasetFacts, dataset_facts::WrongDataset>>,
    fingerprints: Arc<v1::datasets::SharedLookups<String, std::io::Error>>,
    details: Arc<v1::datasets::SharedLookups<v1::datasets::details::DatasetContents, crate::dataset::Error>>,
    pictures: Arc<v1::datasets::SharedLookups<v1::datasets::images::ImagePage, v1::datasets::images::WrongImages>>,
    fetches: Arc<datasets::Fetches>,
    statistics: Arc<statistics::StatisticsTasks>,
    /// Bounds the memory of requests for predictions.
    predictions: Arc<Semaphore>,
    /// Ends the streams, which would otherwise never end.
    stopping: CancellationToken,
}

impl AppState {
    /// Also starts to listen for changes of jobs.
    #[must_use]
    pub fn new(pool: PgPool, artifacts: Store, settings: ServerSettings) -> Self {
        crate::dataset::limit_decoding(DECODING_MEMORY);
        Self {
            changes: Changes::listen(pool.clone()),
            feeds: feed::Feeds::default(),
            boards: board::Boards::default(),
            gate: auth::Gate::new(pool.clone(), &settings),
            answers: Arc::new(answers::Answers::new(&settings)),
            uploads: Arc::new(uploads::Uploads::new(&settings)),
            exports: Arc::default(),
            latencies: Arc::default(),
            readiness: Arc::default(),
            comparisons: Arc::default(),
            bodies: Arc::default(),
            charts: Arc::default(),
            lookups: Arc::default(),
            fingerprints: Arc::default(),
            details: Arc::default(),
            pictures: Arc::default(),
            fetches: Arc::default(),
            statistics: Arc::default(),
            predictions: Arc::new(Semaphore::new(v1::jobs::predictions::AT_ONCE)),
            datasets: Arc::new(v1::datasets::Catalogue::new(settings.datasets_dir.clone(), settings.follow_links)),
            settings: Arc::new(settings),
            pool,
            artifacts,
            stopping: CancellationToken::new(),
        }
    }
}

/// Bytes of entries after which a page ends: an axis of a sweep alone may have a mebibyte.
const MOST_PAGE_BYTES: usize = 1 << 20;

/// One page of a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    pub data: Vec<T>,
    /// Whether another page follows.
    pub has_more: bool,
    /// The `after` parameter for the next page; null on the last page.
    pub next: Option<String>,
}

impl<T: Serialize> Page<T> {
    /// From up to one entry more than a page holds. A page that has [`MOST_PAGE_BYTES`] ends earlier.
    fn new(mut data: Vec<T>, limit: i64, cursor: impl Fn(&T) -> String) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let is_room = |entry: &&T| {
            let is_room = bytes < MOST_PAGE_BYTES;
            bytes += serde_json::to_vec(entry).map_or(0, |text| text.len());
            is_room
        };
        let entries = data.iter().take(limit).take_while(is_room).count();
        let has_more = data.len() > entries;
        data.truncate(entries);
        let next = data.last().filter(|_| has_more).map(cursor);
        Self { data, has_more, next }
    }
}

/// A list without pages.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// The entries.
    pub data: Vec<T>,
}

/// Serves until `stop`, then waits for the requests that are still running, up to [`ServerSettings::grace`].
pub async fn serve(listener: TcpListener, state: AppState, stop: CancellationToken) {
    let stopping = state.stopping.clone();
    tokio::spawn({
        let stopping = stopping.clone();
        async move {
            stop.cancelled().await;
            stopping.cancel();
        }
    });
    let grace = state.settings.grace;
    prometheus::keep_up(stopping.clone());
    tokio::spawn(latencies::keep_up(state.clone()));
    let spool = state.settings.spool_dir.clone();
    tokio::task::spawn_blocking(move || workspace::remove_leftovers(&spool));
    let settings = state.settings.clone();
    let serving = connections::serve(listener, router::router(state), &settings, stopping.clone());
    let too_late = async {
        stopping.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        () = serving => {}
        () = too_late => tracing::warn!("cutting off requests that did not finish in time"),
    }
}
