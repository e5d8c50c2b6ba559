//! The embedded database: PostgreSQL itself, started as a child process on a Unix socket.
//!
//! `serve` starts it when it is given no database URL, and so do the tests. The server ends with this process, however
//! this process ends, and never listens on a network. It lets in whoever the kernel lets connect to its socket: its own
//! user, who is this process's or has nothing else, and root.

mod account;
mod cluster;
mod keeper;
mod log;
mod programs;
mod socket;
mod space;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Signal;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};

use account::Account;
use log::Log;
use socket::SocketDir;

use crate::process::{self, Child};

pub use cluster::{InUse, create_private};
pub use keeper::KeptServer;
pub use programs::find as find_programs;

/// The superuser of the embedded server, and its only user.
const USER: &str = "postgres";
/// The database that jobs live in.
const DATABASE: &str = "distillery";
/// Part of the socket's file name; the server listens on no network.
const PORT: u16 = 5432;
/// How long a server that lives may take to answer: after a crash it has much to recover.
const START_PATIENCE: Duration = Duration::from_secs(300);
/// The file in the data directory that holds the URL of the server's own database, for `distillery worker`, the
/// commands beside the server, and `psql`.
const URL_FILE: &str = "postgres.url";

/// Where and how to start the server.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Holds `postgres/` (the cluster), `postgres.log`, `postgres.lock` and the socket; created if it is missing.
    pub data_dir: PathBuf,
    /// The directory of initdb and postgres; the usual places are searched if it is not given.
    pub bin_dir: Option<PathBuf>,
    /// Settings of PostgreSQL besides those that every embedded server gets.
    pub settings: Vec<(String, String)>,
}

impl PostgresOptions {
    /// The embedded server of a data directory.
    #[must_use]
    pub fn new(data_dir: &Path, bin_dir: Option<&Path>) -> Self {
        Self { data_dir: data_dir.to_owned(), bin_dir: bin_dir.map(Path::to_owned), settings: Vec::new() }
    }
}

/// Notes where the embedded server of a data directory is.
///
/// # Errors
/// When the file cannot be written.
pub fn write_url(data_dir: &Path, url: &str) -> anyhow::Result<()> {
    let path = data_dir.join(URL_FILE);
    let open = File::options().create(true).truncate(true).write(true).mode(0o600).open(&path);
    let written = open.and_then(|mut file| file.write_all(url.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Where the embedded server of a data directory is, or was when one last ran there.
#[must_use]
pub fn read_url(data_dir: &Path) -> Option<String> {
    fs::read_to_string(data_dir.join(URL_FILE)).ok().filter(|url| !url.is_empty())
}

/// Whether a data directory has a database.
///
/// # Errors
/// This user may not read the data directory.
pub fn has_cluster(data_dir: &Path) -> anyhow::Result<bool> {
    data_dir.join("postgres/PG_VERSION").try_exists().map_err(|error| {
        let path = data_dir.display();
        let advice = match error.kind() {
            std::io::ErrorKind::PermissionDenied => ": run this as the server's user, or as root",
            _ => "",
        };
        anyhow::anyhow!("cannot tell whether there is a database in {path}: {error}{advice}")
    })
}

/// Makes sure that a data directory has a database, for callers that do not want an empty one instead.
///
/// # Errors
/// It has none. [`InUse`] if another process may be about to make it.
pub fn expect_cluster(data_dir: &Path) -> anyhow::Result<()> {
    if has_cluster(data_dir)? {
        return Ok(());
    }
    if data_dir.join(cluster::LOCK_FILE).exists() {
        drop(cluster::lock(data_dir)?);
    }
    anyhow::ensure!(
        has_cluster(data_dir)?,
        "there is no database in {}: give the server's --data-dir, or its --database-url. A new server makes its database \
         when it first starts",
        data_dir.display()
    );
    Ok(())
}

/// A running server, which is told to stop when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    url: String,
    _socket_dir: SocketDir,
    _lock: File,
}

impl Server {
    /// Starts the server, and creates its cluster and database at the first start.
    ///
    /// # Errors
    /// When there is no PostgreSQL, when another process uses the directory, or when the server does not come up; then
    /// with the last lines of its log.
    pub async fn start(options: &PostgresOptions) -> anyhow::Result<Self> {
        Self::try_start(options).await.context("cannot start the embedded PostgreSQL")
    }

    async fn try_start(options: &PostgresOptions) -> anyhow::Result<Self> {
        // Before there is anything to leave behind.
        let bin_dir = programs::find(options.bin_dir.as_deref())?;
        create_private(&options.data_dir)?;
        let data_dir = fs::canonicalize(&options.data_dir)?;
        let lock = cluster::lock(&data_dir)?;
        let cluster = data_dir.join("postgres");
        let account = Account::choose(&cluster, &bin_dir)?;
        cluster::clear_leftovers(&cluster).await?;
        let log = Log::open(&data_dir.join("postgres.log"))?;
        if !has_cluster(&data_dir)? {
            cluster::create(&cluster, &bin_dir, &account, &log).await?;
        }
        if account.take(&cluster)? {
            tracing::info!("gave {} to a user who has nothing else", cluster.display());
        }
        let socket_dir = SocketDir::create(&data_dir, &account)?;
        let mut command = account.command("INT", &bin_dir.join("postgres"));
        command.arg("-D").arg(&cluster);
        configure(&mut command, &socket_dir, &options.settings);
        log.receive(&mut command)?;
        let child = process::spawn(command).context("cannot start its process")?;
        let url = url_of(&socket_dir.path);
        let options: PgConnectOptions = url.parse()?;
        wait_until_ready(&child, &log, &options.database("postgres")).await?;
        Ok(Self { child, url, _socket_dir: socket_dir, _lock: lock })
    }

    /// The URL to connect to. Other processes of the same user, or of root, can use it too.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The id of the server's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id
    }

    /// Waits until the server ends, which it should not do unless it is told to.
    pub async fn exited(&mut self) -> ExitStatus {
        self.child.wait().await
    }

    /// Shuts the server down: connections are closed, and everything is on disk afterwards.
    pub async fn stop(mut self) {
        let patience = Duration::from_secs;
        let signals = [(Signal::INT, patience(30)), (Signal::QUIT, patience(5)), (Signal::KILL, patience(5))];
        let status = self.child.stop(&signals).await;
        tracing::debug!(status = process::describe(status), "stopped PostgreSQL");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.signal(Signal::INT);
    }
}

/// The URL of the database, in the form that libpq (so `psql`, `pg_dump` and `psycopg`) and the drivers of other
/// languages read: the socket's directory is a parameter, because few read it as the host.
fn url_of(socket_dir: &Path) -> String {
    let mut url = format!("postgresql:///{DATABASE}?host=");
    for &byte in socket_dir.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
    let _ = write!(url, "&port={PORT}&user={USER}&sslmode=disable");
    url
}

/// Passes the server its settings: a socket instead of a network, its log on standard error, and those of the caller.
fn configure(command: &mut Command, socket_dir: &SocketDir, settings: &[(String, String)]) {
    let socket_path = socket_dir.path.display().to_string().replace('"', "\"\"");
    let usual = [
        ("listen_addresses", ""),
        ("unix_socket_directories", &format!("\"{socket_path}\"")),
        ("unix_socket_permissions", "0700"),
        ("port", &PORT.to_string()),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        // The queue changes much faster than the default of a minute allows for.
        ("autovacuum_naptime", "10s"),
    ];
    for (name, value) in usual.into_iter().chain(settings.iter().map(|(name, value)| (name.as_str(), value.as_str()))) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
}

/// Waits until the server answers, and creates the database of the jobs if it is missing.
async fn wait_until_ready(child: &Child, log: &Log, options: &PgConnectOptions) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    let mut connection = loop {
        let error = match options.connect().await {
            Ok(connection) => break connection,
            Err(error) => error,
        };
        if let Some(status) = child.exit_status() {
            bail!("PostgreSQL {}{}", process::describe(status), log.told());
        }
        if Instant::now() > deadline {
            bail!("PostgreSQL does not answer ({error}){}", log.told());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let exists = sqlx::query("select from pg_database where datname = $1").bind(DATABASE);
    if exists.fetch_optional(&mut connection).await?.is_none() {
        sqlx::raw_sql("create database distillery").execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}
