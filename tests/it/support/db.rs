//! One PostgreSQL for the whole run, started by the first test that needs it, and a database of its own for each test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use distillery::db::jobs::{self, Change, Created, NetworkNames, NewJob};
use distillery::db::{self, embedded};
use distillery::spec::Request;
use serde_json::{Value, json};
use sqlx::postgres::PgListener;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool};
use tokio::sync::{OnceCell, mpsc};

use super::PATIENCE;

/// Databases that a test has finished with, to be dropped: hundreds of copies of the schema would take gigabytes.
type Finished = mpsc::UnboundedSender<String>;

static CLUSTER: OnceCell<(embedded::Server, Finished)> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Tells [`TestDb::until`] of the changes that the schema itself notifies nobody of.
const TEST_TRIGGERS: &str = "
    create function notify_test() returns trigger language plpgsql as $$ begin notify test; return null; end $$;
    create trigger notify_test after insert or update or delete on attempts execute function notify_test();
    create trigger notify_test after insert or update or delete on workers execute function notify_test();
    create trigger notify_test after delete on jobs execute function notify_test();
    create trigger notify_test after delete on file_deletions execute function notify_test();
    create trigger notify_test after delete on deleted_jobs execute function notify_test();
";

/// A cluster in `data_dir` that does not wait for disks.
pub fn postgres_options(data_dir: PathBuf) -> embedded::PostgresOptions {
    let settings = [("fsync", "off"), ("full_page_writes", "off"), ("max_connections", "500")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    embedded::PostgresOptions { data_dir, bin_dir: None, settings }
}

/// The cluster of this run, which the kernel ends when this process ends.
async fn cluster() -> &'static (embedded::Server, Finished) {
    let start = || async {
        let dir = tempfile::Builder::new().prefix("distillery-test-").tempdir().expect("a temporary directory").keep();
        let server = embedded::Server::start(&postgres_options(dir.clone())).await.expect("PostgreSQL starts");
        remove_afterwards(&dir, server.pid());
        let mut admin = connection(server.url()).await;
        sqlx::raw_sql("create database template_jobs").execute(&mut admin).await.expect("a database can be created");
        let pool = db::connect(&url_of(server.url(), "template_jobs")).await.expect("the database answers");
        db::migrate(&pool).await.expect("the migrations apply");
        sqlx::raw_sql(TEST_TRIGGERS).execute(&pool).await.expect("triggers can be created");
        pool.close().await;
        let finished = drop_databases(server.url().to_owned());
        (server, finished)
    };
    CLUSTER.get_or_init(start).await
}

/// No code runs at the end of a test process, so a shell waits for that end, then for the server's.
fn remove_afterwards(dir: &Path, server: u32) {
    let script =
        r#"trap "" INT TERM HUP; cat >/dev/null; while kill -0 "$1" 2>/dev/null; do sleep 0.1; done; rm -rf "$2""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh", &server.to_string()]).arg(dir).stdin(Stdio::piped());
    let shell = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("there is a shell");
    // Its standard input ends when this process does.
    std::mem::forget(shell);
}

/// Drops databases on a thread of its own: a test's runtime is gone soon after the test.
fn drop_databases(url: String) -> Finished {
    let (finished, mut names) = mpsc::unbounded_channel::<String>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut admin = connection(&url).await;
            while let Some(name) = names.recv().await {
                let statement = AssertSqlSafe(format!("drop database {name} with (force)"));
                sqlx::raw_sql(statement).execute(&mut admin).await.expect("a database can be dropped");
            }
        });
    });
    finished
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

/// A database with the schema, for one test.
pub struct TestDb {
    /// For programs that connect to it.
    pub url: String,
    /// Connections with the program's own settings.
    pub pool: PgPool,
    /// Its name, where it is in the cluster of this run.
    name: Option<String>,
}

impl Drop for TestDb {
    fn drop(&mut self) {
        if let (Some(name), Some((_, finished))) = (self.name.take(), CLUSTER.get()) {
            let _ = finished.send(name);
        }
    }
}

impl TestDb {
    /// A database in the cluster of this run.
    pub async fn new() -> Self {
        let (server, _) = cluster().await;
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut admin = connection(server.url()).await;
        let create = format!("create database {name} template template_jobs strategy file_copy");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await.expect("a database can be created");
        admin.close().await.expect("a connection can be closed");
        let url = url_of(server.url(), &name);
        let pool = db::connect(&url).await.expect("the database answers");
        Self { url, pool, name: Some(name) }
    }

    /// The database of a cluster that the test stops or breaks.
    pub async fn of(server: &embedded::Server) -> Self {
        let url = server.url().to_owned();
        let pool = db::connect(&url).await.expect("the database answers");
        db::migrate(&pool).await.expect("the migrations apply");
        sqlx::raw_sql(TEST_TRIGGERS).execute(&pool).await.expect("triggers can be created");
        Self { url, pool, name: None }
    }

    /// Makes the whole cluster read-only, as for a failover, or writable again. Returns once new transactions are.
    pub async fn set_read_only(&self, read_only: bool) {
        let mut admin = connection(&self.url).await;
        let value = if read_only { "on" } else { "off" };
        sqlx::raw_sql("set default_transaction_read_only = off").execute(&mut admin).await.expect("it can be set");
        let change = format!("alter system set default_transaction_read_only = {value}");
        sqlx::raw_sql(AssertSqlSafe(change)).execute(&mut admin).await.expect("the superuser may");
        sqlx::raw_sql("select pg_reload_conf()").execute(&mut admin).await.expect("the superuser may");
        // Every session hears of it by a signal.
        let told = async {
            loop {
                let mut session = connection(&self.url).await;
                let query = sqlx::query_scalar("select current_setting('transaction_read_only')");
                let now: String = query.fetch_one(&mut session).await.expect("it answers");
                if now == value {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("the setting is taken over");
    }

    /// Queues a job that trains a small network without a teacher, with these changes to its specification. The id is
    /// leaked, so that tests can use it like a literal.
    pub async fn add_job(&self, changes: Value) -> &'static str {
        let mut document = json!({
            "student": {"architecture": "resnet20"},
            "dataset": {"name": "patterns"},
            "distillation": {"method": "none"},
        });
        let members = changes.as_object().expect("an object").clone();
        document.as_object_mut().expect("an object").extend(members);
        let spec = Request::read(&document).complete().expect("a specification");
        let submitted = document.to_string();
        let new = NewJob {
            spec: &spec,
            submitted: &submitted,
            idempotency: None,
            warnings: &[],
            notes: &[],
            dataset_fingerprint: None,
            dataset: None,
            networks: NetworkNames::default(),
            webhooks: &[],
        };
        match jobs::create(&self.pool, &new).await.expect("the database answers") {
            Created::New(job) => job.id.leak(),
            other => panic!("the job is not created: {other:?}"),
        }
    }

    /// Queues a job whose teacher is the student of `teacher`.
    pub async fn add_pupil(&self, teacher: &str) -> &'static str {
        let teacher = json!({"architecture": "resnet20", "job": teacher});
        self.add_job(json!({"teacher": teacher, "distillation": {"method": "kd"}})).await
    }

    /// Changes a job on a user's request.
    pub async fn change(&self, job: &str, change: Change) {
        let changed = jobs::change(&self.pool, job, change).await.expect("the database answers");
        changed.unwrap_or_else(|refused| panic!("{change:?} is refused: {refused:?}"));
    }

    /// Sets columns of a job's row as only the passing of time would.
    pub async fn set(&self, job: &str, assignment: &'static str) {
        let update = AssertSqlSafe(format!("update jobs set {assignment} where id = $1"));
        sqlx::query(update).bind(job).execute(&self.pool).await.expect("a row can be changed");
    }

    /// Lets the lease of a job run out.
    pub async fn expire_lease(&self, job: &str) {
        self.set(job, "lease_expires_at = now() - interval '1 second'").await;
    }

    /// A job's row as JSON, in which documents with numbers too large for float64 are null.
    pub async fn job(&self, job: &str) -> Value {
        let query =
            "select to_jsonb(jobs) || jsonb_build_object('spec', readable(spec), 'checkpoint', readable(checkpoint),
                'progress', readable(progress))
            from jobs where id = $1";
        let query = sqlx::query_scalar(query).bind(job);
        query.fetch_one(&self.pool).await.expect("there is such a job")
    }

    /// The steps of a job's points, in the order in which they were recorded.
    pub async fn steps(&self, job: &str) -> Vec<i64> {
        let query = sqlx::query_scalar("select step from metrics where job_id = $1 order by id");
        query.bind(job).fetch_all(&self.pool).await.expect("the database answers")
    }

    /// The messages of a job's events.
    pub async fn messages(&self, job: &str) -> Vec<String> {
        let query = sqlx::query_scalar("select message from events where job_id = $1 order by seq");
        query.bind(job).fetch_all(&self.pool).await.expect("the database answers")
    }

    /// Waits until `find` finds something; it is called again after every change of a job, an attempt or a worker.
    pub async fn until<T>(&self, find: impl AsyncFn() -> Option<T>) -> Option<T> {
        let mut changes = PgListener::connect(&self.url).await.expect("the database answers");
        changes.listen_all(["distillery_job", "test"]).await.expect("the database answers");
        let look = async {
            loop {
                if let Some(found) = find().await {
                    return found;
                }
                changes.recv().await.expect("the database answers");
            }
        };
        tokio::time::timeout(PATIENCE, look).await.ok()
    }

    /// Waits until a job's row is as wanted, and returns it.
    pub async fn until_job(&self, job: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = self.until(async || Some(self.job(job).await).filter(|row| wanted(row))).await;
        match found {
            Some(row) => row,
            None => panic!("the job stayed {:#}\n{:#?}", self.job(job).await, self.messages(job).await),
        }
    }

    /// Waits until a job has this status, and returns its row.
    pub async fn until_status(&self, job: &str, status: &str) -> Value {
        self.until_job(job, |row| row["status"] == status).await
    }

    /// Waits until the first point of a job is recorded.
    pub async fn until_training(&self, job: &str) {
        let found = self.until(async || self.steps(job).await.first().copied()).await;
        assert!(found.is_some(), "no point was recorded: {:#}", self.job(job).await);
    }
}
