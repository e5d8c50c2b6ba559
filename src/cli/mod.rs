//! The command line: every flag, its environment variable and its default. `--help` is the reference.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::jobs::tokens::{self, Scope};

/// Distils big image classifiers into small ones by Scale Decoupled Distillation, as a job server.
#[derive(Debug, Parser)]
#[command(name = "distillery", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How log lines look.
    #[arg(long, global = true, env = "DISTILLERY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API and the dashboard, with workers for the devices of this machine.
    Serve(ServeArgs),
    /// Run jobs on devices of this machine, for a server anywhere.
    Worker(WorkerArgs),
    /// Bring the schema of a database up to date.
    Migrate(MigrateArgs),
    /// Train by a specification, without a server.
    Train(TrainArgs),
    /// Repeat the last epoch of a run, or all of it, and say whether the same student comes of it.
    Verify(VerifyArgs),
    /// Measure a checkpoint's accuracy on a data set.
    Evaluate(EvaluateArgs),
    /// Rewrite any supported checkpoint as safetensors.
    Convert(ConvertArgs),
    /// Make, list and revoke tokens of the API.
    Token(TokenArgs),
    /// Remove finished jobs by age, size and accuracy, and files that nothing names.
    Prune(PruneArgs),
}

/// Where the data is.
#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// Directory for everything that the server keeps: its own PostgreSQL, artifacts, work in progress.
    #[arg(long, env = "DISTILLERY_DATA_DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// Directory whose subdirectories are the data sets that jobs may name.
    #[arg(long, env = "DISTILLERY_DATASETS_DIR", default_value = "datasets")]
    pub datasets_dir: PathBuf,
    /// Where checkpoints and artifacts are kept: a directory or `s3://bucket/prefix`. Default: `artifacts` below the
    /// data directory.
    #[arg(long, env = "DISTILLERY_STORAGE")]
    pub storage: Option<String>,
}

impl DataArgs {
    /// The storage's address.
    #[must_use]
    pub fn storage(&self) -> String {
        self.storage.clone().unwrap_or_else(|| self.data_dir.join("artifacts").display().to_string())
    }
}

/// `distillery serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address to listen on; port 0 takes a free one and prints it.
    #[arg(long, env = "DISTILLERY_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// PostgreSQL to use, as a URL. Without it the server runs its own in the data directory.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Directory of the `postgres` and `initdb` programs for the server's own PostgreSQL.
    #[arg(long, env = "DISTILLERY_POSTGRES_BIN_DIR")]
    pub postgres_bin_dir: Option<PathBuf>,
    /// Worker processes to run: one for all GPUs (or for the CPU) for `auto`, or a number of them, with one device each.
    #[arg(long, env = "DISTILLERY_WORKERS", default_value = "auto", value_parser = parse_workers)]
    pub workers: Workers,
    /// A token that may do everything, besides those of `distillery token`: at least 32 characters. Better by the
    /// environment than by the flag, which other users of the machine can see.
    #[arg(long, env = "DISTILLERY_ADMIN_TOKEN", hide_env_values = true, value_parser = parse_admin_token)]
    pub admin_token: Option<String>,
    /// How many requests a second each token may make; more are answered with 429 and Retry-After.
    #[arg(long, env = "DISTILLERY_REQUESTS_PER_SECOND", default_value_t = crate::http::REQUESTS_PER_SECOND)]
    pub requests_per_second: NonZeroU32,
    /// Most connections at a time; more are answered with 503 and Retry-After.
    #[arg(long, env = "DISTILLERY_MAX_CONNECTIONS", default_value_t = crate::http::CONNECTIONS)]
    pub max_connections: usize,
    /// Largest accepted checkpoint, in bytes.
    #[arg(long, env = "DISTILLERY_MAX_CHECKPOINT_BYTES", default_value_t = 8 << 30)]
    pub max_checkpoint_bytes: u64,
    /// Most bytes that all uploaded checkpoints may have together; no limit by default.
    #[arg(long, env = "DISTILLERY_MAX_UPLOADED_BYTES")]
    pub max_uploaded_bytes: Option<u64>,
    /// Once an hour, thin the series and the log of jobs that ended so many days ago; 0 for never.
    #[arg(long, env = "DISTILLERY_COMPACT_AFTER_DAYS", value_name = "DAYS", default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(..=36_500))]
    pub compact_after_days: u32,
    /// Where the data is.
    #[command(flatten)]
    pub data: DataArgs,
    /// What is removed, once an hour: nothing without `--older-than-days` or `--max-bytes`.
    #[command(flatten)]
    pub rules: Rules,
}

/// How many workers a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One for all GPUs, or for the CPU.
    Auto,
    /// So many; they share the GPUs, or the CPU.
    Count(usize),
}

fn parse_admin_token(text: &str) -> Result<String, String> {
    // No other signs: the dashboard keeps it in a cookie, which has no others.
    if text.len() >= 32 && tokens::is_plain(text) {
        Ok(text.to_owned())
    } else {
        Err("expected at least 32 letters, digits and signs of _-.~+/=, such as `openssl rand -hex 32` gives".into())
    }
}

fn parse_workers(text: &str) -> Result<Workers, String> {
    match text {
        "auto" => Ok(Workers::Auto),
        _ => match text.parse() {
            Ok(count) if count <= 64 => Ok(Workers::Count(count)),
            _ => Err("expected auto or a number from 0 to 64".to_owned()),
        },
    }
}

/// `distillery worker`.
#[derive(Debug, Clone, Args)]
pub struct WorkerArgs {
    /// The server's PostgreSQL, as a URL.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// The devices to train on: `auto` (all GPUs, or the CPU), `cpu`, `cuda`, `cuda:1`, or several with commas between
    /// them. Each runs a job, or several run one that asks for them by `training.devices`.
    #[arg(long, visible_alias = "devices", env = "DISTILLERY_DEVICE", default_value = "auto")]
    pub device: String,
    /// The worker's name on the dashboard. Default: the host's name and the devices.
    #[arg(long, env = "DISTILLERY_WORKER_NAME")]
    pub name: Option<String>,
    /// The trainer's program. Default: `distillery-trainer` beside this one.
    #[arg(long, env = "DISTILLERY_TRAINER")]
    pub trainer: Option<PathBuf>,
    /// Seconds without a heartbeat after which a worker's job is given to another.
    #[arg(long, env = "DISTILLERY_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub lease_seconds: u64,
    /// Most that is kept in `cache` below the data directory, in MiB: teachers' logits and decoded images, which later
    /// jobs with the same teacher and data find there. What was used longest ago makes room. 0 for none.
    #[arg(long, env = "DISTILLERY_CACHE_MIB", default_value_t = 16384)]
    pub cache_mib: u64,
    /// Where the data is.
    #[command(flatten)]
    pub data: DataArgs,
}

/// `distillery token`.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TokenCommand,
    /// Where the server's database is.
    #[command(flatten)]
    pub database: DatabaseArgs,
}

/// Where the server's database is, for commands beside it.
#[derive(Debug, Clone, Args)]
pub struct DatabaseArgs {
    /// The server's PostgreSQL, as a URL. Without it, the server's own in the data directory.
    #[arg(long, global = true, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// The server's data directory.
    #[arg(long, global = true, env = "DISTILLERY_DATA_DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// Directory of the `postgres` and `initdb` programs, where the server's own PostgreSQL does not run.
    #[arg(long, global = true, env = "DISTILLERY_POSTGRES_BIN_DIR")]
    pub postgres_bin_dir: Option<PathBuf>,
}

/// Which finished jobs and files are removed.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "What is removed")]
pub struct Rules {
    /// Remove jobs that finished so many days ago.
    #[arg(long, env = "DISTILLERY_OLDER_THAN_DAYS", value_name = "DAYS")]
    pub older_than_days: Option<u32>,
    /// Remove the jobs that finished first, until all files together have at most so many bytes.
    #[arg(long, env = "DISTILLERY_MAX_BYTES", value_name = "BYTES")]
    pub max_bytes: Option<u64>,
    /// Spare so many of the jobs that finished last.
    #[arg(long, env = "DISTILLERY_KEEP_LAST", value_name = "JOBS", default_value_t = 0)]
    pub keep_last: usize,
    /// Spare so many of the jobs whose students are the most accurate, of each data set.
    #[arg(long, env = "DISTILLERY_KEEP_BEST", value_name = "JOBS", default_value_t = 0)]
    pub keep_best: usize,
    /// Files that nothing names are removed when they are so many minutes old: younger ones may be about to be named.
    #[arg(long, env = "DISTILLERY_ORPHAN_MINUTES", value_name = "MINUTES", default_value_t = 24 * 60)]
    pub orphan_minutes: u32,
}

/// `distillery prune`.
#[derive(Debug, Clone, Args)]
pub struct PruneArgs {
    /// Say what would be removed, and remove nothing.
    #[arg(long, env = "DISTILLERY_DRY_RUN")]
    pub dry_run: bool,
    /// What is removed.
    #[command(flatten)]
    pub rules: Rules,
    /// Where checkpoints and artifacts are kept. Default: `artifacts` below the data directory.
    #[arg(long, env = "DISTILLERY_STORAGE")]
    pub storage: Option<String>,
    /// Where the server's database is.
    #[command(flatten)]
    pub database: DatabaseArgs,
}

/// The subcommands of `distillery token`.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, once.
    Create {
        /// Who it is for.
        name: String,
        /// What it may do; each scope includes those before it.
        #[arg(long, env = "DISTILLERY_SCOPE", value_enum)]
        scope: Scope,
    },
    /// List all tokens, without their secrets.
    List,
    /// Make a token invalid.
    Revoke {
        /// Its id, `tok_…`.
        id: String,
    },
}

/// `distillery migrate`.
#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    /// The database, as a URL.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
}

/// `distillery train`.
#[derive(Debug, Clone, Args)]
pub struct TrainArgs {
    /// The job specification, a JSON file. Checkpoints and `dataset.path` in it are local paths.
    pub spec: PathBuf,
    /// Directory for the students, the manifest and the metrics, and for the state to resume from: running the same
    /// command again goes on where it was.
    #[arg(long, short, env = "DISTILLERY_OUTPUT")]
    pub output: PathBuf,
    /// Write events to standard output, one JSON object a line, rather than progress for people.
    #[arg(long, env = "DISTILLERY_EVENTS")]
    pub events: bool,
    /// Take commands from standard input, one JSON object a line, and end when it ends.
    #[arg(long, env = "DISTILLERY_SUPERVISED")]
    pub supervised: bool,
    /// Which attempt at the job this is, for the manifest.
    #[arg(long, env = "DISTILLERY_ATTEMPT", default_value_t = 1)]
    pub attempt: u32,
    /// Directory for the teacher's logits and decoded images, which later runs with the same teacher and data find
    /// there. Several runs may share it at once. Without it, logits are kept in memory until the end of the run.
    #[arg(long, env = "DISTILLERY_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Most that is kept there, or in memory without it, in MiB. What was used longest ago makes room.
    #[arg(long, env = "DISTILLERY_CACHE_MIB", default_value_t = 4096)]
    pub cache_mib: u64,
    /// Launch the operations of a training step one by one on a GPU, rather than as a CUDA graph that was recorded once:
    /// slower, and the same student.
    #[arg(long, env = "DISTILLERY_NO_CUDA_GRAPHS")]
    pub no_cuda_graphs: bool,
    /// Where to train.
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// `distillery verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The manifest.json of a finished run. The state that its last epoch started from, before-last-epoch.safetensors,
    /// is looked for beside it.
    pub manifest: PathBuf,
    /// Repeat the whole run from its first step, rather than its last epoch.
    #[arg(long, env = "DISTILLERY_FULL")]
    pub full: bool,
    /// The directory of the data set. Default: where the run had it.
    #[arg(long, env = "DISTILLERY_DATASET")]
    pub dataset: Option<PathBuf>,
    /// The teacher's checkpoint. Default: where the run had it.
    #[arg(long, env = "DISTILLERY_TEACHER")]
    pub teacher: Option<PathBuf>,
    /// The checkpoint that the student started from, if it did. Default: where the run had it.
    #[arg(long, env = "DISTILLERY_STUDENT")]
    pub student: Option<PathBuf>,
    /// The device. Default: the run's.
    #[arg(long, env = "DISTILLERY_DEVICE")]
    pub device: Option<String>,
    /// Threads of the arithmetic on the CPU. Default: as many as the run had.
    #[arg(long, env = "DISTILLERY_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

/// `distillery evaluate`.
#[derive(Debug, Clone, Args)]
pub struct EvaluateArgs {
    /// The network: a name of `GET /v1/architectures`.
    #[arg(long, env = "DISTILLERY_ARCHITECTURE")]
    pub architecture: String,
    /// The checkpoint: safetensors, or what torch.save writes.
    #[arg(long, env = "DISTILLERY_CHECKPOINT")]
    pub checkpoint: PathBuf,
    /// The directory of the data set.
    #[arg(long, env = "DISTILLERY_DATASET")]
    pub dataset: PathBuf,
    /// The split to evaluate on. Default: test, val or validation, whichever there is.
    #[arg(long, env = "DISTILLERY_SPLIT")]
    pub split: Option<String>,
    /// Per-channel mean of pixel values in [0, 1]: three numbers with commas. Default: the checkpoint's metadata, or
    /// else the training split's own mean.
    #[arg(long, env = "DISTILLERY_MEAN", value_parser = parse_channels, requires = "std", allow_hyphen_values = true)]
    pub mean: Option<[f64; 3]>,
    /// Per-channel standard deviation: three numbers with commas, together with --mean.
    #[arg(long, env = "DISTILLERY_STD", value_parser = parse_channels, requires = "mean")]
    pub std: Option<[f64; 3]>,
    /// Side, in pixels, that images are brought to. Default: the checkpoint's metadata, or else what the architecture
    /// was made for.
    #[arg(long, env = "DISTILLERY_IMAGE_SIZE", value_parser = clap::value_parser!(u32).range(8..=1024))]
    pub image_size: Option<u32>,
    /// What is taken of each image. Default: the checkpoint's metadata, or else the whole of it.
    #[arg(long, env = "DISTILLERY_CROP")]
    pub crop: Option<Crop>,
    /// Parquet only: the image column, where it cannot be told from the schema.
    #[arg(long, env = "DISTILLERY_IMAGE_COLUMN")]
    pub image_column: Option<String>,
    /// Parquet only: the label column, where it cannot be told from the schema.
    #[arg(long, env = "DISTILLERY_LABEL_COLUMN")]
    pub label_column: Option<String>,
    /// Also write a safetensors file with `logits` [images × classes, float32], in the order of the data set's files.
    #[arg(long, env = "DISTILLERY_LOGITS")]
    pub logits: Option<PathBuf>,
    /// Where to evaluate.
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// What is taken of an image to evaluate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Crop {
    /// All of it.
    Whole,
    /// The centre, as ImageNet is evaluated: resized to 256, of which 224 are taken.
    Centre,
}

/// `distillery convert`.
#[derive(Debug, Clone, Args)]
pub struct ConvertArgs {
    /// Any supported checkpoint.
    pub input: PathBuf,
    /// The safetensors file to write.
    pub output: PathBuf,
}

/// Where arithmetic runs.
#[derive(Debug, Clone, Args)]
pub struct ComputeArgs {
    /// The device: `auto` (the first GPU, or else the CPU), `cpu`, `cuda` or `cuda:1`. Where training.devices asks for
    /// several, those names stand for as many, or they are listed with commas between them.
    #[arg(long, env = "DISTILLERY_DEVICE", default_value = "auto")]
    pub device: String,
    /// Threads of the arithmetic on the CPU. Default: all cores.
    #[arg(long, env = "DISTILLERY_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Memory for decoded images of one split, in MiB. A larger split is decoded anew in every epoch; then it bounds what
    /// of parquet files is unpacked at a time.
    #[arg(long, env = "DISTILLERY_DATA_MEMORY_MIB", default_value_t = 4096)]
    pub data_memory_mib: u64,
}

fn parse_channels(text: &str) -> Result<[f64; 3], String> {
    let numbers: Result<Vec<f64>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    let finite = |numbers: &[f64]| numbers.iter().all(|number| number.is_finite());
    numbers
        .ok()
        .filter(|numbers| finite(numbers))
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| "expected three numbers with commas, such as 0.5071,0.4867,0.4408".to_owned())
}
