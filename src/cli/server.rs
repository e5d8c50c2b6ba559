//! Flags of `serve` and `worker`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;

use super::{DataArgs, PruneRules};
use crate::db::tokens;

#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address to listen on. Port 0 picks a free port and prints it.
    #[arg(long, env = "DISTILLERY_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// The address that browsers use, such as `https://distillery.example`, where a proxy on this machine or elsewhere
    /// is in front. Every request then needs a token.
    #[arg(long, env = "DISTILLERY_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<crate::http::PublicUrl>,
    /// URL of the PostgreSQL to use. Without it, the server runs its own in the data directory.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Directory of the `postgres` and `initdb` programs for the server's own PostgreSQL.
    #[arg(long, env = "DISTILLERY_POSTGRES_BIN_DIR")]
    pub postgres_bin_dir: Option<PathBuf>,
    /// Worker processes to run: `auto` for one that uses all GPUs (or the CPU), or a number of them with one device
    /// each.
    #[arg(long, env = "DISTILLERY_WORKERS", default_value = "auto", value_parser = parse_workers)]
    pub workers: WorkerCount,
    /// A token with every permission, in addition to those of `distillery token`: at least 32 characters. Prefer the
    /// environment variable, because other users of the machine can see flags.
    #[arg(long, env = "DISTILLERY_ADMIN_TOKEN", hide_env_values = true, value_parser = parse_admin_token)]
    pub admin_token: Option<String>,
    /// Rate limit per token, in requests per second. Requests beyond it get 429 with Retry-After.
    #[arg(long, env = "DISTILLERY_REQUESTS_PER_SECOND", default_value_t = crate::http::REQUESTS_PER_SECOND)]
    pub requests_per_second: NonZeroU32,
    /// Most simultaneous connections. Connections beyond it get 503 with Retry-After.
    #[arg(long, env = "DISTILLERY_MAX_CONNECTIONS", default_value_t = crate::http::CONNECTIONS)]
    pub max_connections: usize,
    /// Largest accepted checkpoint, in bytes.
    #[arg(long, env = "DISTILLERY_MAX_CHECKPOINT_BYTES", default_value_t = crate::http::CHECKPOINT_LIMIT)]
    pub max_checkpoint_bytes: u64,
    /// Largest accepted data set, in bytes: as it is uploaded, and unpacked.
    #[arg(long, env = "DISTILLERY_MAX_DATASET_BYTES", default_value_t = crate::http::DATASET_LIMIT)]
    pub max_dataset_bytes: u64,
    /// Largest total size of all uploaded checkpoints and data sets, unfinished uploads included, in bytes. Default: no
    /// limit.
    #[arg(long, env = "DISTILLERY_MAX_UPLOADED_BYTES")]
    pub max_uploaded_bytes: Option<u64>,
    /// Days after its end when a job's series and log are thinned. The server checks once an hour; 0 means never.
    #[arg(long, env = "DISTILLERY_COMPACT_AFTER_DAYS", value_name = "DAYS", default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(..=36_500))]
    pub compact_after_days: u32,
    /// File with the webhooks that jobs and sweeps may name, to be told when they have ended: a JSON object with `url`
    /// and `secrets` by name. Nobody but its owner may be able to read it (mode 0600).
    #[arg(long, env = "DISTILLERY_WEBHOOKS", value_name = "FILE")]
    pub webhooks: Option<PathBuf>,
    /// ONNX Runtime's library, 1.17 or later, with which exported students are checked. Without one they are not
    /// checked, and their reports say so.
    #[arg(long, env = "DISTILLERY_ONNXRUNTIME", default_value = "libonnxruntime.so")]
    pub onnxruntime: PathBuf,
    /// Most memory, in MiB, of a process that exports or measures a student. Two may export simultaneously. ONNX
    /// Runtime needs about three times the size of the student's file.
    #[arg(long, env = "DISTILLERY_EXPORT_MEMORY_MIB", default_value_t = crate::http::EXPORT_MEMORY_MIB,
        value_parser = clap::value_parser!(u64).range(64..))]
    pub export_memory_mib: u64,
    /// Whether to measure how long each finished student takes on this machine's CPU, which takes one thread for some
    /// seconds, and needs ONNX Runtime.
    #[arg(long, env = "DISTILLERY_MEASURE_LATENCY", value_name = "BOOL", default_value_t = true,
        action = clap::ArgAction::Set)]
    pub measure_latency: bool,
    #[command(flatten)]
    pub data: DataArgs,
    /// Applied once an hour. Nothing is removed without `--older-than-days`, `--max-bytes` or
    /// `--superseded-datasets-days`.
    #[command(flatten)]
    pub rules: PruneRules,
}

impl ServeArgs {
    /// Connections that the server's own PostgreSQL accepts: enough for the server, its workers, and a few others.
    #[must_use]
    pub fn database_connections(&self) -> u32 {
        let workers = match self.workers {
            WorkerCount::Auto => 1,
            WorkerCount::Exactly(count) => u32::try_from(count).unwrap_or(u32::MAX),
        };
        crate::db::CONNECTIONS_OF_A_PROCESS.saturating_mul(workers.saturating_add(1)).saturating_add(OTHER_CONNECTIONS)
    }
}

/// Connections besides those of the server and its workers: other workers on the machine, commands, `psql`.
const OTHER_CONNECTIONS: u32 = 60;

/// How many workers a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerCount {
    /// One worker with all GPUs, or with the CPU.
    Auto,
    /// This many workers, which share the GPUs, or the CPU.
    Exactly(usize),
}

fn parse_admin_token(text: &str) -> Result<String, String> {
    // No other characters: the dashboard keeps the token in a cookie, which cannot contain others.
    if text.len() >= 32 && tokens::is_plain(text) {
        Ok(text.to_owned())
    } else {
        Err("expected at least 32 letters, digits and characters of _-.~+/=, for example from `openssl rand -hex 32`"
            .into())
    }
}

fn parse_workers(text: &str) -> Result<WorkerCount, String> {
    match text {
        "auto" => Ok(WorkerCount::Auto),
        _ => match text.parse() {
            Ok(count) if count <= 64 => Ok(WorkerCount::Exactly(count)),
            _ => Err("expected auto or a number from 0 to 64".to_owned()),
        },
    }
}

#[derive(Debug, Clone, Args)]
pub struct WorkerArgs {
    /// URL of the server's PostgreSQL.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Devices to train on: `auto` (all GPUs, or the CPU), `cpu`, `cuda`, `cuda:1`, or several separated by commas.
    /// Each device runs a job of its own, or several run one job whose `training.devices` asks for them.
    #[arg(long, visible_alias = "devices", env = "DISTILLERY_DEVICE", default_value = "auto")]
    pub device: String,
    /// The worker's name on the dashboard. Default: the host name and the devices.
    #[arg(long, env = "DISTILLERY_WORKER_NAME")]
    pub name: Option<String>,
    /// Path of the trainer program. Default: `distillery-trainer` in the directory of this program.
    #[arg(long, env = "DISTILLERY_TRAINER")]
    pub trainer: Option<PathBuf>,
    /// Seconds without a heartbeat after which a worker's job is given to another worker.
    #[arg(long, env = "DISTILLERY_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub lease_seconds: u64,
    /// Minutes without a report after which a trainer on a GPU is killed, because the GPU seems to hang, and its job
    /// goes to another worker. 0 never does that. A trainer reports every second or so, but not while it evaluates.
    #[arg(long, env = "DISTILLERY_STALLED_MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=10080))]
    pub stalled_minutes: u64,
    /// Size limit, in MiB, of `cache` in the data directory. It holds teachers' logits and decoded images for later
    /// jobs with the same teacher and data. The least recently used entries are evicted; 0 disables the cache.
    #[arg(long, env = "DISTILLERY_CACHE_MIB", default_value_t = 16384)]
    pub cache_mib: u64,
    #[command(flatten)]
    pub data: DataArgs,
}
