//! Flags of `distillery sweep`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::connection::{ConnectionArgs, idempotency_key};
use super::constraints::ConstraintArgs;
use super::ids::sweep_id;

#[derive(Debug, Clone, Subcommand)]
pub enum SweepCommand {
    /// Post a sweep, and print its id.
    Submit(SweepSubmitArgs),
    /// List sweeps, newest first.
    List(SweepListArgs),
    /// Show the combinations of a sweep, the best first.
    Show(SweepShowArgs),
    /// Follow a sweep until it has ended, and show its combinations. Ctrl-C ends this command, but not the sweep.
    Watch(OneSweepArgs),
    /// Pause a sweep with all of its jobs.
    Pause(OneSweepArgs),
    /// Resume a paused sweep with all of its jobs.
    Resume(OneSweepArgs),
    /// Cancel a sweep with all of its jobs.
    Cancel(OneSweepArgs),
    /// Delete a sweep that has ended, with all of its jobs and their files.
    Delete(OneSweepArgs),
}

impl SweepCommand {
    /// How it reaches its server.
    #[must_use]
    pub fn connection(&self) -> &ConnectionArgs {
        match self {
            Self::Submit(args) => &args.connection,
            Self::List(args) => &args.connection,
            Self::Show(args) => &args.connection,
            Self::Watch(args) | Self::Pause(args) | Self::Resume(args) | Self::Cancel(args) | Self::Delete(args) => {
                &args.connection
            }
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct SweepSubmitArgs {
    /// The sweep's document; - reads it from standard input.
    pub sweep: PathBuf,
    /// Follow the sweep until it has ended, as `sweep watch` does.
    #[arg(long, env = "DISTILLERY_WATCH")]
    pub watch: bool,
    /// Check every job, and estimate the memory and time of all of them, but create nothing.
    #[arg(long, env = "DISTILLERY_SUBMIT_DRY_RUN", conflicts_with = "watch")]
    pub dry_run: bool,
    /// Tell this webhook of the server when the sweep has ended. Can be repeated. The error for a wrong name lists
    /// all names.
    #[arg(long, env = "DISTILLERY_SUBMIT_WEBHOOK", value_name = "NAME", value_delimiter = ',')]
    pub webhook: Vec<String>,
    /// Tell this webhook of the end of every job of the sweep. Can be repeated.
    #[arg(long, env = "DISTILLERY_SUBMIT_JOB_WEBHOOK", value_name = "NAME", value_delimiter = ',')]
    pub job_webhook: Vec<String>,
    /// Posting the same document twice with the same key creates one sweep. Default: a new key for each call.
    #[arg(long, env = "DISTILLERY_IDEMPOTENCY_KEY", value_name = "KEY", value_parser = idempotency_key)]
    pub idempotency_key: Option<String>,
    #[command(flatten)]
    pub constraints: ConstraintArgs,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[derive(Debug, Clone, Args)]
pub struct SweepListArgs {
    /// Most sweeps to list.
    #[arg(long, env = "DISTILLERY_SWEEPS_LIMIT", value_name = "SWEEPS", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub limit: u32,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[derive(Debug, Clone, Args)]
pub struct SweepShowArgs {
    /// Id of the sweep, `swp_…`.
    #[arg(value_parser = sweep_id)]
    pub id: String,
    /// Print the table as CSV.
    #[arg(long, env = "DISTILLERY_CSV", conflicts_with = "json")]
    pub csv: bool,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[derive(Debug, Clone, Args)]
pub struct OneSweepArgs {
    /// Id of the sweep, `swp_…`.
    #[arg(value_parser = sweep_id)]
    pub id: String,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}
