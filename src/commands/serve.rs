//! `distillery serve`: starts the embedded PostgreSQL, the API and this machine's workers, and stops them in reverse
//! order.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::housekeeping::{self, Chores};
use crate::cli::ServeArgs;
use crate::db::embedded::{self, KeptServer};
use crate::db::{self, tokens};
use crate::storage_check::{self, Opener};
use crate::webhooks::{self, Endpoints};
use crate::{http, process, removals, worker};

/// How long connections to the database may take to close.
const CLOSING: Duration = Duration::from_secs(20);

/// Serves until SIGTERM or SIGINT, then stops the workers (which release their jobs), the API and the database.
///
/// # Errors
/// The server cannot start: the address is in use, or the database or the storage cannot be opened.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let told_to_stop = process::shutdown::on_signal()?;
    // Before anything else, and before anything is made: a second server on the same address is the most common
    // mistake, and cheap to detect.
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let endpoints = args.webhooks.as_deref().map(Endpoints::read).transpose()?;
    let endpoints = Arc::new(endpoints.unwrap_or_default());
    args.data.warn_without_datasets();
    let Some(database_url) = &args.database_url else {
        return serve_with_own_database(&args, endpoints, listener, told_to_stop).await;
    };
    serve(&args, endpoints, listener, database_url, told_to_stop).await
}

async fn serve_with_own_database(
    args: &ServeArgs,
    endpoints: Arc<Endpoints>,
    listener: TcpListener,
    told_to_stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut options = embedded::PostgresOptions::new(&args.data.data_dir, args.postgres_bin_dir.as_deref());
    options.settings.push(("max_connections".into(), args.database_connections().to_string()));
    let database = KeptServer::start(options).await?;
    let outcome = serve(args, endpoints, listener, database.url(), told_to_stop).await;
    // Last: workers and requests need the database until they have ended.
    database.stop().await?;
    outcome
}

async fn serve(
    args: &ServeArgs,
    endpoints: Arc<Endpoints>,
    listener: TcpListener,
    database_url: &str,
    told_to_stop: CancellationToken,
) -> anyhow::Result<()> {
    let Some(pool) = db::open_when_there(database_url, &told_to_stop).await? else { return Ok(()) };
    let database = pool.clone();
    let storage = args.data.storage();
    let opened = storage_check::open_when_there(&storage, &pool, Opener::Server, &told_to_stop).await?;
    let Some(store) = opened else { return Ok(()) };
    embedded::create_private(&args.data.data_dir)?;
    let address = listener.local_addr()?;
    let data = &args.data;
    let mut settings = http::ServerSettings::new(address, data.datasets_dir.clone(), data.data_dir.join("uploads"));
    settings.follow_links = data.follow_links;
    settings.onnxruntime = args.onnxruntime.clone();
    settings.export_memory_mib = args.export_memory_mib;
    settings.measure_latency = args.measure_latency;
    settings.public_url = args.public_url.clone();
    settings.requests_per_second = args.requests_per_second;
    settings.connections = args.max_connections;
    settings.checkpoint_limit = args.max_checkpoint_bytes;
    settings.dataset_limit = args.max_dataset_bytes;
    settings.dataset_cache = data.dataset_cache()?;
    settings.uploads_limit = args.max_uploaded_bytes;
    settings.webhooks = endpoints.names();
    settings.admin_token = args.admin_token.as_deref().map(tokens::hash);
    let is_private = address.ip().is_loopback() && args.public_url.is_none();
    let reachable = args.public_url.as_ref().map_or_else(|| address.to_string(), ToString::to_string);
    anyhow::ensure!(
        is_private || settings.admin_token.is_some() || tokens::any(&pool).await?,
        "{reachable} is reachable from other machines, but there is no token yet: create one with `distillery token create \
         NAME --scope admin` (with the same --data-dir or --database-url), or set DISTILLERY_ADMIN_TOKEN"
    );
    // Scripts wait for this line, so its words are part of the interface. The listener already takes connections.
    // Before anything runs that needs the database until it has ended.
    if let Err(error) = writeln!(std::io::stdout(), "distillery is listening on http://{address}") {
        // As after `| head`: who uses the server need not be who started it.
        tracing::warn!(%error, "cannot write to standard output; the server goes on");
    }
    let chores = Chores { compact_after_days: args.compact_after_days, rules: args.rules.clone() };
    let housekeeping = tokio::spawn(housekeeping::run(pool.clone(), store.clone(), chores, told_to_stop.clone()));
    let removals = tokio::spawn(removals::keep_up(pool.clone(), store.clone(), told_to_stop.clone()));
    let messages = tokio::spawn(webhooks::deliver(pool.clone(), endpoints, told_to_stop.clone()));
    let state = http::AppState::new(pool, store, settings);
    let workers = tokio::spawn(worker::supervise::run(args.clone(), database_url.to_owned(), told_to_stop.clone()));
    http::serve(listener, state, told_to_stop).await;
    // All of them, whichever fails.
    let (housekeeping, removals, messages, workers) = tokio::join!(housekeeping, removals, messages, workers);
    // Who still used a database that stops would warn of it.
    let _ = tokio::time::timeout(CLOSING, database.close()).await;
    housekeeping.context("housekeeping failed")?;
    removals.context("the removal of files failed")?;
    messages.context("the delivery to webhooks failed")?;
    workers.context("the supervisor of the workers failed")?
}
