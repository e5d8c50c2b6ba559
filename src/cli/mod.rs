//! The command line: every flag with its environment variable and its default. The comments here are the text of
//! `--help`, which is the reference.

mod admin;
mod client;
mod connection;
mod constraints;
mod export;
mod ids;
mod measure;
mod server;
mod sweep;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use admin::{ClientArgs, MigrateArgs, PruneArgs, PruneRules, TokenArgs, TokenCommand};
pub use client::{
    ClientCommand, DownloadArgs, EditArgs, InitArgs, JobEdits, JobIdsArgs, JobsArgs, LogsArgs, OneJobArgs, OpenArgs,
    SubmitArgs, UploadArgs, UploadFacts,
};
pub use connection::ConnectionArgs;
pub use constraints::ConstraintArgs;
pub use distillery_core::trainer_flags::LogFormat;
use distillery_core::trainer_flags::{ConvertArgs, DoctorArgs, EvaluateArgs, InspectArgs, TrainArgs, VerifyArgs};
pub use export::ExportArgs;
pub use measure::MeasureArgs;
pub use server::{ServeArgs, WorkerArgs, WorkerCount};
pub use sweep::{OneSweepArgs, SweepCommand, SweepListArgs, SweepShowArgs, SweepSubmitArgs};

use crate::dataset_cache::DatasetCache;
use crate::db::DatabaseLocation;

/// Distils large image classifiers into small ones by Scale Decoupled Distillation, as a job server.
#[derive(Debug, Parser)]
#[command(name = "distillery", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Format of log lines.
    #[arg(long, global = true, env = "DISTILLERY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API and the dashboard, with workers for this machine's devices.
    Serve(ServeArgs),
    /// Run a server's jobs on this machine's devices. The server can be on another machine.
    Worker(WorkerArgs),
    /// Bring the schema of a database up to date.
    Migrate(MigrateArgs),
    #[command(flatten)]
    Client(ClientCommand),
    /// Train from a job specification, without a server.
    Train(TrainArgs),
    /// Repeat the last epoch of a run, or the whole run, and report whether the student is the same.
    Verify(VerifyArgs),
    /// Measure a checkpoint's accuracy on a data set.
    Evaluate(EvaluateArgs),
    /// Convert any supported checkpoint to safetensors.
    Convert(ConvertArgs),
    /// Describe an exported network or a checkpoint as JSON.
    Inspect(InspectArgs),
    /// Check that jobs can run on this machine's GPUs, and say what is missing.
    Doctor(DoctorArgs),
    /// Write a student in another format: `.pt2`, ONNX, int8, or a bundle of several.
    Export(ExportArgs),
    /// Measure how long a student, or an untrained network, takes on this CPU.
    Measure(MeasureArgs),
    /// Create, list and revoke API tokens.
    Token(TokenArgs),
    /// Run a client of PostgreSQL, such as psql or pg_dump, on the server's own database.
    Database(ClientArgs),
    /// Remove finished jobs by age, size and accuracy, and unreferenced files.
    Prune(PruneArgs),
}

#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// Directory for everything the server keeps: its own PostgreSQL, artifacts, work in progress.
    #[arg(long, env = "DISTILLERY_DATA_DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// Directory that contains the data sets, one subdirectory each. Jobs refer to them by name.
    #[arg(long, env = "DISTILLERY_DATASETS_DIR", default_value = "datasets")]
    pub datasets_dir: PathBuf,
    /// Follow symbolic links that lead out of a data set's directory, such as those into a cache of downloads. Only for
    /// data sets whose links you trust. A data set's directory itself may always be a link.
    #[arg(long, env = "DISTILLERY_FOLLOW_LINKS")]
    pub follow_links: bool,
    /// Size limit, in MiB, of `dataset-cache` in the data directory, which holds copies of uploaded data sets. The
    /// least recently used ones are removed, but none that a job uses. A data set above the limit is not fetched; 0
    /// fetches none.
    #[arg(long, env = "DISTILLERY_DATASET_CACHE_MIB", default_value_t = 65536)]
    pub dataset_cache_mib: u64,
    /// Where to store checkpoints, data sets and artifacts: a directory or `s3://bucket/prefix`. Default: `artifacts`
    /// in the data directory.
    #[arg(long, env = "DISTILLERY_STORAGE")]
    pub storage: Option<String>,
}

impl DataArgs {
    /// This machine's copies of uploaded data sets.
    ///
    /// # Errors
    /// The current directory is not known.
    pub fn dataset_cache(&self) -> std::io::Result<DatasetCache> {
        let directory = std::path::absolute(&self.data_dir)?.join("dataset-cache");
        Ok(DatasetCache::new(directory, self.dataset_cache_mib.saturating_mul(1 << 20)))
    }

    /// The storage's address.
    #[must_use]
    pub fn storage(&self) -> String {
        self.storage.clone().unwrap_or_else(|| self.data_dir.join("artifacts").display().to_string())
    }

    /// Says so in the log if there is no directory of data sets. It may be mounted or filled later.
    pub fn warn_without_datasets(&self) {
        if let Err(error) = std::fs::read_dir(&self.datasets_dir) {
            let path = self.datasets_dir.display();
            tracing::warn!(
                "there are no data sets: cannot read --datasets-dir {path}: {error}; create it, or name another"
            );
        }
    }
}

/// How a command beside the server finds its database.
#[derive(Debug, Clone, Args)]
pub struct DatabaseArgs {
    /// URL of the server's PostgreSQL. Default: the server's own in the data directory.
    #[arg(long, global = true, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// The server's data directory.
    #[arg(long, global = true, env = "DISTILLERY_DATA_DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// Directory of the `postgres` and `initdb` programs, to start the server's own PostgreSQL if it is not running.
    #[arg(long, global = true, env = "DISTILLERY_POSTGRES_BIN_DIR")]
    pub postgres_bin_dir: Option<PathBuf>,
}

impl DatabaseArgs {
    #[must_use]
    pub fn location(&self) -> DatabaseLocation<'_> {
        DatabaseLocation {
            url: self.database_url.as_deref(),
            data_dir: &self.data_dir,
            postgres_bin_dir: self.postgres_bin_dir.as_deref(),
        }
    }
}
