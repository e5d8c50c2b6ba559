//! `distillery database`: runs a client of PostgreSQL, such as `psql` or `pg_dump`, on the server's own database. Where
//! no server runs, PostgreSQL runs for as long as the client does.

use std::process::ExitCode;

use anyhow::{Context, ensure};
use sqlx::postgres::PgConnectOptions;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ClientArgs;
use crate::db::{self, embedded};

/// What could lead a client to another database.
const MISLEADING: [&str; 6] = ["PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE", "PGOPTIONS", "PGPASSWORD", "PGSSLMODE"];

/// Returns the exit code of the client.
///
/// # Errors
/// The data directory has no database (or, with `--create`, has one), cannot be read, or the client cannot be started.
pub async fn run(args: ClientArgs) -> anyhow::Result<ExitCode> {
    let data_dir = args.database.data_dir.display();
    ensure!(
        args.database.database_url.is_none(),
        "this is for the server's own PostgreSQL in --data-dir, and DATABASE_URL names another: give that URL to the client \
         itself, as in `pg_dump \"$DATABASE_URL\"`"
    );
    let exists = embedded::has_cluster(&args.database.data_dir)?;
    ensure!(
        exists || args.create,
        "there is no database in {data_dir}: give the server's --data-dir, or --create to make an empty database there"
    );
    ensure!(!exists || !args.create, "there is a database in {data_dir} already: give --create another --data-dir");
    // Ctrl-C is for the client, which may go on.
    let _interrupts = signal(SignalKind::interrupt())?;
    let (url, server) = db::locate(args.database.location(), args.create).await?;
    let status = client(&args, &url)?.status().await;
    if let Some(server) = server {
        server.stop().await;
    }
    let status = status.with_context(|| format!("cannot start {}", args.command[0].display()))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)))
}

fn client(args: &ClientArgs, url: &str) -> anyhow::Result<Command> {
    let options: PgConnectOptions = url.parse()?;
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    for name in MISLEADING {
        command.env_remove(name);
    }
    let socket = options.get_socket().context("the server's own database has a socket")?;
    command.env("DATABASE_URL", url).env("PGHOST", socket).env("PGPORT", options.get_port().to_string());
    command.env("PGUSER", options.get_username()).env("PGDATABASE", options.get_database().unwrap_or_default());
    // A dump needs a client of the server's version.
    if let Ok(programs) = embedded::find_programs(args.database.postgres_bin_dir.as_deref()) {
        let others = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(programs).chain(std::env::split_paths(&others));
        command.env("PATH", std::env::join_paths(paths)?);
    }
    Ok(command)
}
