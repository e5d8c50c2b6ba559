//! Opens the database: connects with bounds on every wait, brings the schema up to date, and finds or starts the
//! server.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::embedded::{self, InUse, Server};
use super::errors::Transient;
use distillery_core::tell;

/// The schema, compiled in. A migration never changes once it is released, not even its comments: databases remember
/// its hash and refuse another.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// Connections of a process's pool, if it asks for no other number.
const CONNECTIONS: u32 = 16;

/// The most connections of a process: those of its pool, that of its listener, one that brings the schema up to date,
/// and two that are about to be replaced.
pub const CONNECTIONS_OF_A_PROCESS: u32 = CONNECTIONS + 4;

/// Where the server's database is.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseLocation<'a> {
    /// Its URL, if it is not the embedded server of the data directory.
    pub url: Option<&'a str>,
    /// The server's data directory.
    pub data_dir: &'a Path,
    /// Directory of the `postgres` and `initdb` programs, if they are not to be looked for.
    pub postgres_bin_dir: Option<&'a Path>,
}

/// Reads the URL of a database.
///
/// # Errors
/// It is no URL of PostgreSQL. Does not repeat it: it may hold a password.
fn read_url(url: &str) -> anyhow::Result<PgConnectOptions> {
    // The driver reads every scheme alike, and another server would leave it without an answer.
    let scheme = url.split_once(':').map_or("none", |(scheme, _)| scheme);
    anyhow::ensure!(
        ["postgres", "postgresql"].iter().any(|known| known.eq_ignore_ascii_case(scheme)),
        "the database URL has the scheme {}: expected postgresql://USER:PASSWORD@HOST/DATABASE, since only PostgreSQL is \
         supported",
        if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) { scheme } else { "none" }
    );
    url.parse().context("cannot read the database URL")
}

/// Connects a pool whose every wait has a bound.
///
/// # Errors
/// When the URL cannot be read or the database does not answer.
pub async fn connect(url: &str) -> anyhow::Result<PgPool> {
    connect_at_most(url, CONNECTIONS).await
}

/// Connects a pool of at most `connections`, whose every wait has a bound.
///
/// # Errors
/// When the URL cannot be read or the database does not answer.
pub async fn connect_at_most(url: &str, connections: u32) -> anyhow::Result<PgPool> {
    let options = read_url(url)?.application_name("distillery").options([
        ("statement_timeout", "30s"),
        ("lock_timeout", "10s"),
        // No transaction here waits for anything but the database. A process that is frozen in one keeps its job's row
        // locked for this long at most, and so delays the job's rescue no longer.
        ("idle_in_transaction_session_timeout", "5s"),
        // A peer that vanished is noticed within half a minute instead of two hours.
        ("tcp_keepalives_idle", "15"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ]);
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(10))
        .idle_timeout(Duration::from_secs(300))
        .max_lifetime(Duration::from_secs(3600))
        .connect_with(options)
        .await
        .context("cannot connect to the database")
}

/// Waits for a database that is not up yet, connects, and brings the schema up to date. The processes of a cluster may
/// start in any order, and the first one creates the schema. None if `stop` is cancelled first.
///
/// # Errors
/// When the URL cannot be read, or the database refuses for a reason that waiting does not remove.
pub async fn open_when_there(url: &str, stop: &CancellationToken) -> anyhow::Result<Option<PgPool>> {
    let options = read_url(url)?;
    loop {
        match open(url, &options).await {
            Ok(pool) => return Ok(Some(pool)),
            Err(error) if may_come_up(&error) => {
                tracing::warn!(error = format!("{error:#}"), "waiting for the database");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Connects to a database that may not be there, and brings the schema up to date.
async fn open(url: &str, options: &PgConnectOptions) -> anyhow::Result<PgPool> {
    // One connection first: a pool waits long for a server that is not there.
    options.connect().await.context("cannot connect to the database")?;
    let pool = connect(url).await?;
    migrate(&pool).await?;
    Ok(pool)
}

fn may_come_up(error: &anyhow::Error) -> bool {
    let passes = |error: &sqlx::Error| Transient::of(error).is_some_and(Transient::passes_by_waiting);
    error.chain().filter_map(|cause| cause.downcast_ref()).any(passes)
}

/// How long a command waits for a database that starts, stops, or takes no writes. Whoever typed it waits too.
const PATIENCE_OF_COMMANDS: Duration = Duration::from_secs(30);

struct Patience {
    until: Instant,
    has_said: bool,
}

impl Patience {
    fn new() -> Self {
        Self { until: Instant::now() + PATIENCE_OF_COMMANDS, has_said: false }
    }

    /// Lets some time pass before the next try.
    ///
    /// # Errors
    /// The error of the last try, once the command has waited long enough.
    async fn wait(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        if Instant::now() >= self.until {
            return Err(error);
        }
        if !std::mem::replace(&mut self.has_said, true) {
            tell!("waiting up to {} seconds for the database: {error:#}", PATIENCE_OF_COMMANDS.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    }
}

/// Brings the schema up to date; several processes may do so at once.
///
/// # Errors
/// When a migration fails, or the database has one that this program does not know.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    let options = pool.connect_options();
    // Building an index, or waiting for another process to do it, may take longer than any other statement.
    let unbounded = [("statement_timeout", "0"), ("lock_timeout", "0")];
    let mut connection = options.as_ref().clone().options(unbounded).connect().await?;
    MIGRATIONS.run(&mut connection).await.context("cannot bring the database's schema up to date")?;
    Ok(())
}

/// The server's database, for a command that runs beside the server: `token`, `prune`.
#[derive(Debug)]
pub struct Database {
    /// Connections to the database, whose schema is up to date.
    pub pool: PgPool,
    /// The embedded server, if no other process runs it.
    server: Option<Server>,
}

impl Database {
    /// Connects to the given URL, to the embedded server of the data directory, or, if that is not running, to one that
    /// runs until [`close`](Self::close). Waits a little for a database that starts or takes no writes.
    ///
    /// # Errors
    /// When the database can neither be reached nor started.
    pub async fn open(location: DatabaseLocation<'_>) -> anyhow::Result<Self> {
        let (url, server) = locate(location, false).await?;
        let options = read_url(&url)?;
        let mut patience = Patience::new();
        loop {
            match open(&url, &options).await {
                Ok(pool) => return Ok(Self { pool, server }),
                Err(error) if may_come_up(&error) => patience.wait(error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Disconnects, and stops the server if this started it.
    pub async fn close(self) {
        self.pool.close().await;
        if let Some(server) = self.server {
            server.stop().await;
        }
    }
}

/// The URL of the server's database, and the embedded server, if it had to be started. Waits a little for one that
/// another process starts or stops. Only with `may_create` a data directory without a database gets an empty one.
///
/// # Errors
/// When there is none, or it cannot be started.
pub async fn locate(location: DatabaseLocation<'_>, may_create: bool) -> anyhow::Result<(String, Option<Server>)> {
    let mut patience = Patience::new();
    loop {
        if let Some(url) = running(location).await {
            return Ok((url, None));
        }
        let started = match embedded::expect_cluster(location.data_dir) {
            Err(error) if !may_create => Err(error),
            _ => start(location).await,
        };
        match started {
            Ok(server) => return Ok((server.url().to_owned(), Some(server))),
            Err(error) if error.is::<InUse>() => patience.wait(error).await?,
            Err(error) => return Err(error),
        }
    }
}

/// The URL of a database that is up, or that the user says is.
async fn running(location: DatabaseLocation<'_>) -> Option<String> {
    if let Some(url) = location.url {
        return Some(url.to_owned());
    }
    let url = embedded::read_url(location.data_dir)?;
    PgConnection::connect(&url).await.is_ok().then_some(url)
}

async fn start(location: DatabaseLocation<'_>) -> anyhow::Result<Server> {
    Server::start(&embedded::PostgresOptions::new(location.data_dir, location.postgres_bin_dir)).await
}
