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
