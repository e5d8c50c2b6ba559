//! `distillery serve`: the embedded PostgreSQL, the API and the workers of this machine, started and stopped in order.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::artifacts::Store;
use crate::config::ServeArgs;
use crate::{http, jobs, postgres, worker};

/// Name of the file in the data directory that tells `distillery worker` and `psql` where the server's own database is.
const DATABASE_NOTE: &str = "postgres.url";

/// Serves until SIGTERM or SIGINT, then stops the workers (which give their jobs back), the API and the database.
///
/// # Errors
/// Whatever keeps the server from starting: the address in use, the database, the storage.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let told_to_stop = stop_signal()?;
    std::fs::create_dir_all(&args.data.data_dir)
        .with_context(|| format!("cannot create the data directory {}", args.data.data_dir.display()))?;
    // First of all, since a second server on the same address is the commonest mistake and costs nothing to find.
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let (database_url, embedded) = database(&args).await?;
    let outcome = serve(&args, listener, &database_url, told_to_stop).await;
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    outcome
}

/// The database to use, and the server's own where none was given.
async fn database(args: &ServeArgs) -> anyhow::Result<(String, Option<postgres::Server>)> {
    if let Some(url) = &args.database_url {
        return Ok((url.clone(), None));
    }
    let options = postgres::Options {
        data_dir: args.data.data_dir.clone(),
        bin_dir: args.postgres_bin_dir.clone(),
    };
    let server = postgres::Server::start(options).await.context("cannot start the embedded PostgreSQL")?;
    let url = server.url().to_owned();
    note(&args.data.data_dir, &url)?;
    Ok((url, Some(server)))
}

fn note(data_dir: &Path, url: &str) -> anyhow::Result<()> {
    let path = data_dir.join(DATABASE_NOTE);
    std::fs::write(&path, url).with_context(|| format!("cannot write {}", path.display()))
}

async fn serve(
    args: &ServeArgs,
    listener: TcpListener,
    database_url: &str,
    told_to_stop: CancellationToken,
) -> anyhow::Result<()> {
    let pool = jobs::connect(database_url).await.context("cannot reach the database")?;
    jobs::migrate(&pool).await.context("cannot bring the database's schema up to date")?;
    let store = Store::open(&args.data.storage())?;
    let settings = http::Settings::new(args, listener.local_addr()?);
    let state = http::State::new(pool, store, settings)?;
    let address = listener.local_addr()?;
    let workers = tokio::spawn(worker::supervise::run(args.clone(), database_url.to_owned(), told_to_stop.clone()));
    // Scripts wait for this line.
    writeln!(std::io::stdout(), "distillery is listening on http://{address}")?;
    http::serve(listener, state, told_to_stop).await?;
    workers.await.context("the supervisor of the workers failed")?
}

/// A token that SIGTERM and SIGINT cancel.
fn stop_signal() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        told.cancel();
    });
    Ok(token)
}
