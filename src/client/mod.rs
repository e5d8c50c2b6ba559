//! The commands that use a server over its HTTP API: `submit`, `watch`, `download` and so on. They know nothing of its
//! database, storage or processes, and run on any machine.

mod display;
mod download;
mod error;
mod facts;
mod follow;
mod init;
mod jobs;
mod part;
mod server;
mod sse;
mod submit;
mod sweep;
mod text;
mod token;
mod upload;
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

pub use error::Exit;

use crate::cli::{Cli, ClientCommand, ConnectionArgs};
use error::Error;
use server::ApiClient;

/// Runs a command, and says why if it fails.
#[must_use]
pub fn run(command: ClientCommand) -> ExitCode {
    let is_json = connection(&command).is_some_and(|connection| connection.json);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(act(command)),
        Err(error) => Err(error.into()),
    };
    let exit = outcome.unwrap_or_else(|error| {
        if !error.is_closed_pipe() {
            error.print(is_json);
        }
        error.exit()
    });
    exit.code().into()
}

/// How a command reaches its server; `None` for those that need none.
fn connection(command: &ClientCommand) -> Option<&ConnectionArgs> {
    Some(match command {
        ClientCommand::Init(args) => &args.connection,
        ClientCommand::Submit(args) => &args.connection,
        ClientCommand::Watch(args) => &args.connection,
        ClientCommand::Jobs(args) => &args.connection,
        ClientCommand::Logs(args) => &args.connection,
        ClientCommand::Download(args) => &args.connection,
        ClientCommand::Upload(args) => &args.connection,
        ClientCommand::Cancel(args)
        | ClientCommand::Pause(args)
        | ClientCommand::Resume(args)
        | ClientCommand::Retry(args) => &args.connection,
        ClientCommand::Edit(args) => &args.connection,
        ClientCommand::Sweep(command) => command.connection(),
        ClientCommand::Open(args) => &args.connection,
        ClientCommand::Completions { .. } => return None,
    })
}

async fn act(command: ClientCommand) -> Result<Exit, Error> {
    match &command {
        ClientCommand::Init(args) => init::init(&ApiClient::new(&args.connection)?, args).await,
        ClientCommand::Submit(args) => submit::submit(&ApiClient::new(&args.connection)?, args).await,
        ClientCommand::Watch(args) => {
            watch::watch(&ApiClient::new(&args.connection)?, &args.id, args.connection.json).await
        }
        ClientCommand::Jobs(args) => jobs::list(&ApiClient::new(&args.connection)?, args).await,
        ClientCommand::Logs(args) => watch::logs(&ApiClient::new(&args.connection)?, args).await,
        ClientCommand::Download(args) => download::download(&ApiClient::new(&args.connection)?, args).await,
        ClientCommand::Upload(args) => upload::upload(&ApiClient::new(&args.connection)?, args).await,
        ClientCommand::Cancel(args) => jobs::change(&ApiClient::new(&args.connection)?, "cancel", args).await,
        ClientCommand::Pause(args) => jobs::change(&ApiClient::new(&args.connection)?, "pause", args).await,
        ClientCommand::Resume(args) => jobs::change(&ApiClient::new(&args.connection)?, "resume", args).await,
        ClientCommand::Retry(args) => jobs::change(&ApiClient::new(&args.connection)?, "retry", args).await,
        ClientCommand::Edit(args) => jobs::edit(&ApiClient::new(&args.connection)?, args).await,
        ClientCommand::Sweep(command) => sweep::act(&ApiClient::new(command.connection())?, command).await,
        ClientCommand::Open(args) => jobs::open(&ApiClient::new(&args.connection)?, args),
        ClientCommand::Completions { shell } => completions(*shell),
    }
}

fn completions(shell: Shell) -> Result<Exit, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "distillery", &mut script);
    io::stdout().write_all(&script)?;
    Ok(Exit::Success)
}
