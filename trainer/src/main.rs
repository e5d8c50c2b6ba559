//! `distillery-trainer`, the only program that links libtorch.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use distillery_core::trainer_flags::{ConvertArgs, EvaluateArgs, InspectArgs, TrainArgs, VerifyArgs};
use distillery_trainer::{commands, device};

/// Trains, evaluates, converts and describes image classifiers. `distillery` starts this program.
#[derive(Debug, Parser)]
#[command(name = "distillery-trainer", version, propagate_version = true)]
struct TrainerCli {
    #[command(subcommand)]
    command: TrainerCommand,
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
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let command = TrainerCli::parse().command;
    device::idle_threads_sleep();
    match command {
        TrainerCommand::Train(args) => commands::train(&args),
        TrainerCommand::Verify(args) => commands::verify(&args),
        TrainerCommand::Evaluate(args) => commands::evaluate(&args),
        TrainerCommand::Convert(args) => commands::convert(&args),
        TrainerCommand::Inspect(args) => commands::inspect(&args),
        TrainerCommand::Rank => commands::rank(),
        TrainerCommand::Probe { device } => commands::probe(&device),
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
