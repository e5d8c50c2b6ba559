//! What the tests that need a database share: one PostgreSQL per test process, one database per test.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use distillery::db::{self, embedded};
use distillery::spec;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool};
use tokio::sync::OnceCell;

/// The server of this test process; it dies with it.
static SERVER: OnceCell<embedded::Server> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// What a test of the embedded server starts from: an empty data directory, and no waiting for disks.
pub fn postgres_options(data_dir: PathBuf) -> embedded::Options {
    let settings = [("fsync", "off"), ("full_page_writes", "off"), ("max_connections", "200")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    embedded::Options { data_dir, bin_dir: None, settings }
}

async fn server() -> &'static embedded::Server {
    let start = || async {
        let dir = tempfile::Builder::new().prefix("distillery-test-").tempdir().expect("a temporary directory").keep();
        let server = embedded::Server::start(&postgres_options(dir.clone())).await.expect("PostgreSQL starts");
        remove_when_over(&dir, server.pid());
        let mut template = connection(server.url()).await;
        sqlx::raw_sql("create database template_jobs").execute(&mut template).await.expect("a database can be created");
        let pool = db::connect(&url_of(server.url(), "template_jobs")).await.expect("the database answers");
        db::migrate(&pool).await.expect("the migrations apply");
        pool.close().await;
        server
    };
    SERVER.get_or_init(start).await
}

/// Nothing runs at the end of a test process, so a shell waits for that end, and then for the server's.
fn remove_when_over(dir: &std::path::Path, server: u32) {
    let script =
        r#"trap "" INT TERM HUP; cat >/dev/null; while kill -0 "$1" 2>/dev/null; do sleep 0.1; done; rm -rf "$2""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh", &server.to_string()]).arg(dir).stdin(Stdio::piped());
    let shell = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("there is a shell");
    // Its standard input ends when this process does.
    std::mem::forget(shell);
}

/// Whether root runs the tests.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A connection outside every pool.
pub async fn connection(url: &str) -> PgConnection {
    let options: sqlx::postgres::PgConnectOptions = url.parse().expect("a database URL");
    options.connect().await.expect("the database answers")
}

fn url_of(url: &str, database: &str) -> String {
    let options: sqlx::postgres::PgConnectOptions = url.parse().expect("a database URL");
    options.database(database).to_url_lossy().to_string()
}

/// A database of one test's own, with the schema.
pub struct TestDb {
    /// For what connects by itself.
    pub url: String,
    /// Connections as the program has them.
    pub pool: PgPool,
}

impl TestDb {
    /// Creates it.
    pub async fn new() -> Self {
        let server = server().await;
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut admin = connection(server.url()).await;
        let create = format!("create database {name} template template_jobs strategy file_copy");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await.expect("a database can be created");
        admin.close().await.expect("a connection can be closed");
        let url = url_of(server.url(), &name);
        let pool = db::connect(&url).await.expect("the database answers");
        Self { url, pool }
    }
    /// Queues plain training of a small network, but for what `changes` says, as the API would.
    pub async fn add_job(&self, id: &str, changes: Value) {
        let mut document = json!({
            "name": id,
            "student": {"architecture": "resnet20"},
            "dataset": {"name": "patterns"},
            "distillation": {"method": "none"},
        });
        let members = changes.as_object().expect("an object").clone();
        document.as_object_mut().expect("an object").extend(members);
        let spec = spec::parse(&document, spec::Mode::Server).expect("a specification");
        let teacher = spec.teacher.as_ref().and_then(|teacher| teacher.job.clone());
        sqlx::query(
            "insert into jobs (id, name, spec, priority, max_attempts, teacher_job) values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(id)
        .bind(&spec.name)
        .bind(json!(spec))
        .bind(spec.priority)
        .bind(i32::try_from(spec.max_attempts).expect("a small number"))
        .bind(teacher)
        .execute(&self.pool)
        .await
        .expect("a job can be stored");
    }
}
