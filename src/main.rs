//! The `distillery` program: parses the command line and runs the subcommand.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command as Process, ExitCode};

use anyhow::Context;
use clap::Parser;
use distillery::cli::{Cli, Command};
use distillery::commands::{database, export, measure, prune, serve, token};
use distillery::{client, db, telemetry, worker};
use distillery_core::output::is_unread;
use distillery_core::tell;

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::start(cli.log_format);
    let result = match cli.command {
        Command::Serve(args) => run(serve::run(args)),
        Command::Worker(args) => run(worker::run_until_told(args)),
        Command::Migrate(args) => run(async move {
            let pool = db::connect(&args.database_url).await?;
            db::migrate(&pool).await
        }),
        Command::Token(args) => run(token::run(args)),
        Command::Database(args) => match run(database::run(args)) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Client(command) => return client::run(command),
        Command::Export(args) => match export::run(&args) {
            Ok(()) => Ok(()),
            Err(error) => {
                complain(&error);
                return export::exit_code(&error);
            }
        },
        Command::Measure(args) => match measure::run(&args) {
            Ok(()) => Ok(()),
            Err(error) => {
                complain(&error);
                return measure::exit_code(&error);
            }
        },
        Command::Prune(args) => run(prune::run(args)),
        Command::Train(_)
        | Command::Verify(_)
        | Command::Evaluate(_)
        | Command::Convert(_)
        | Command::Inspect(_)
        | Command::Doctor(_) => become_trainer(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Says why a command failed, unless it is that the reader of its output has gone, as in `distillery measure … | head`.
fn complain(error: &anyhow::Error) {
    if !error.downcast_ref::<io::Error>().is_some_and(is_unread) {
        tell!("distillery: {error:#}");
    }
}

fn run<T>(task: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(task)
}

/// Replaces this process by the trainer, which takes the same arguments: this program does not link libtorch.
fn become_trainer() -> anyhow::Result<()> {
    let trainer = worker::trainer_program(None)?;
    let error = Process::new(&trainer).args(std::env::args_os().skip(1)).exec();
    Err(error).with_context(|| format!("cannot start {}", trainer.display()))
}
