//! The trainer's commands: the only program that links libtorch.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use distillery::trainer_flags::{ConvertArgs, EvaluateArgs, TrainArgs, VerifyArgs};
use distillery_trainer::{commands, device};

/// Trains, evaluates and converts image classifiers; `distillery` starts it.
#[derive(Debug, Parser)]
#[command(name = "distillery-trainer", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train by a specification.
    Train(TrainArgs),
    /// Repeat the last epoch of a run, or all of it, and say whether the same student comes of it.
    Verify(VerifyArgs),
    /// Measure a checkpoint's accuracy on a data set: JSON on standard output.
    Evaluate(EvaluateArgs),
    /// Rewrite any supported checkpoint as safetensors.
    Convert(ConvertArgs),
    /// Be one of several processes that train together; started by `train`.
    #[command(hide = true)]
    Rank,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let command = Cli::parse().command;
    device::idle_threads_sleep();
    match command {
        Command::Train(args) => commands::train(&args),
        Command::Verify(args) => commands::verify(&args),
        Command::Evaluate(args) => commands::evaluate(&args),
        Command::Convert(args) => commands::convert(&args),
        Command::Rank => commands::rank(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_defined() {
        super::Cli::command().debug_assert();
    }
}
