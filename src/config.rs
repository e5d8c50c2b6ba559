//! The command line: every flag, its environment variable and its default. `--help` is the reference.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
    /// Run jobs on one device of this machine, for a server anywhere.
    Worker(WorkerArgs),
    /// Bring the schema of a database up to date.
    Migrate(MigrateArgs),
    /// Train by a specification, without a server.
    Train(TrainArgs),
    /// Measure a checkpoint's accuracy on a data set.
    Evaluate(EvaluateArgs),
    /// Rewrite any supported checkpoint as safetensors.
    Convert(ConvertArgs),
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
    /// Worker processes to run: one per GPU (or one for the CPU) for `auto`, or a number of them.
    #[arg(long, env = "DISTILLERY_WORKERS", default_value = "auto", value_parser = parse_workers)]
    pub workers: Workers,
    /// Largest accepted checkpoint, in bytes.
    #[arg(long, env = "DISTILLERY_MAX_CHECKPOINT_BYTES", default_value_t = 8 << 30)]
    pub max_checkpoint_bytes: u64,
    /// Where the data is.
    #[command(flatten)]
    pub data: DataArgs,
}

/// How many workers a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One per GPU, or one for the CPU.
    Auto,
    /// So many; they share the GPUs, or the CPU.
    Count(usize),
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
    /// The device to train on: `auto`, `cpu`, `cuda` or `cuda:1`.
    #[arg(long, env = "DISTILLERY_DEVICE", default_value = "auto")]
    pub device: String,
    /// The worker's name on the dashboard. Default: the host's name and the device.
    #[arg(long, env = "DISTILLERY_WORKER_NAME")]
    pub name: Option<String>,
    /// The trainer's program. Default: `distillery-trainer` beside this one.
    #[arg(long, env = "DISTILLERY_TRAINER")]
    pub trainer: Option<PathBuf>,
    /// Seconds without a heartbeat after which a worker's job is given to another.
    #[arg(long, env = "DISTILLERY_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub lease_seconds: u64,
    /// Where the data is.
    #[command(flatten)]
    pub data: DataArgs,
}

/// `distillery migrate`.
#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    /// The database, as a URL.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
}

/// What the trainer computes on.
#[derive(Debug, Clone, Args)]
pub struct DeviceArgs {
    /// The device to compute on: `auto`, `cpu` or `cuda:0`.
    #[arg(long, env = "DISTILLERY_DEVICE", default_value = "auto")]
    pub device: String,
    /// Threads of the arithmetic on the CPU. Default: one per core.
    #[arg(long, env = "DISTILLERY_THREADS", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

/// `distillery train`.
#[derive(Debug, Clone, Args)]
pub struct TrainArgs {
    /// The job's specification, a JSON file whose checkpoints and data set are local paths.
    pub spec: PathBuf,
    /// Directory for the student, the manifest, the metrics and the state to resume from. Running the same command again
    /// goes on where it stopped.
    #[arg(long)]
    pub output: PathBuf,
    /// Report on standard output as one JSON object a line, instead of progress for people.
    #[arg(long)]
    pub events: bool,
    /// Take commands from standard input, and end when that ends.
    #[arg(long, hide = true, requires = "events")]
    pub supervised: bool,
    /// What to compute on.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `distillery evaluate`.
#[derive(Debug, Clone, Args)]
pub struct EvaluateArgs {
    /// The network's architecture.
    #[arg(long)]
    pub architecture: String,
    /// The checkpoint, in any supported format.
    #[arg(long)]
    pub checkpoint: PathBuf,
    /// The directory of the data set.
    #[arg(long)]
    pub dataset: PathBuf,
    /// The split to evaluate on. Default: `test`, `val` or `validation`, whichever there is.
    #[arg(long)]
    pub split: Option<String>,
    /// Side, in pixels, that images are brought to. Default: what the architecture was made for.
    #[arg(long)]
    pub image_size: Option<u32>,
    /// Per-channel mean of pixel values in [0, 1], as `0.5,0.5,0.5`. Default: the checkpoint's, or else the training
    /// split's.
    #[arg(long, value_delimiter = ',', num_args = 3, requires = "std")]
    pub mean: Option<Vec<f64>>,
    /// Per-channel standard deviation, like `--mean`.
    #[arg(long, value_delimiter = ',', num_args = 3, requires = "mean")]
    pub std: Option<Vec<f64>>,
    /// Write the logits [images, classes] to this safetensors file, in the order of the split.
    #[arg(long)]
    pub logits: Option<PathBuf>,
    /// What to compute on.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `distillery convert`.
#[derive(Debug, Clone, Args)]
pub struct ConvertArgs {
    /// The checkpoint to read.
    pub input: PathBuf,
    /// The safetensors file to write.
    pub output: PathBuf,
}
