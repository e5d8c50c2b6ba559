//! `distillery-trainer`, the only program that links libtorch.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use distillery_core::trainer_flags::{
    ConvertArgs, DoctorArgs, EvaluateArgs, InspectArgs, LogFormat, TrainArgs, VerifyArgs,
};
use distillery_trainer::{commands, device, doctor};
use tracing_subscriber::EnvFilter;

/// Trains, evaluates, converts and describes image classifiers. `distillery` starts this program.
#[derive(Debug, Parser)]
#[command(name = "distillery-trainer", version, propagate_version = true)]
struct TrainerCli {
    #[command(subcommand)]
    command: TrainerCommand,
    /// Format of log lines.
    #[arg(long, global = true, env = "DISTILLERY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum TrainerCommand {
    /// Train a student as a specification says.
    Train(TrainArgs),
    /// Repeat a run, or its last epoch, and check that it gives the same students.
    Verify(VerifyArgs),
    /// Measure a checkpoint's accuracy on a data set and print it as JSON.
    Evaluate(EvaluateArgs),
    /// Rewrite any supported checkpoint as safetensors.
    Convert(ConvertArgs),
    /// Describe an exported network or a checkpoint as JSON.
    Inspect(InspectArgs),
    /// Check that jobs can run on this machine's GPUs, and say what is missing.
    Doctor(DoctorArgs),
    /// Train as one of several processes. `train` starts them.
    #[command(hide = true)]
    Rank,
    /// Open devices and compute on each. Workers run this to see whether they can take jobs.
    #[command(hide = true)]
    Probe {
        /// The devices, separated by commas.
        #[arg(long)]
        device: String,
    },
}

fn main() -> ExitCode {
    let TrainerCli { command, log_format } = TrainerCli::parse();
    log(log_format);
    device::idle_threads_sleep();
    match command {
        TrainerCommand::Train(args) => commands::train(&args),
        TrainerCommand::Verify(args) => commands::verify(&args),
        TrainerCommand::Evaluate(args) => commands::evaluate(&args),
        TrainerCommand::Convert(args) => commands::convert(&args),
        TrainerCommand::Inspect(args) => commands::inspect(&args),
        TrainerCommand::Doctor(args) => doctor::run(&args),
        TrainerCommand::Rank => commands::rank(),
        TrainerCommand::Probe { device } => commands::probe(&device),
    }
}

/// Starts logging to standard error, filtered by `RUST_LOG` if it is set.
fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal();
    // It would tell of a line that nobody reads by a macro that panics then.
    let builder = tracing_subscriber::fmt().log_internal_errors(false);
    let builder = builder.with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.with_target(false).json().flatten_event(true).init(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_defined() {
        super::TrainerCli::command().debug_assert();
    }
}
