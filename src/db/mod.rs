//! Jobs in PostgreSQL: the only SQL of the project.
//!
//! [`state`] says which status follows which, [`store`] is what the API calls, [`queue`] is what a worker calls,
//! [`retention`] and [`compaction`] are what housekeeping calls.

pub mod attempts;
pub mod changes;
pub mod checkpoints;
pub mod compaction;
pub mod events;
pub mod labels;
pub mod ledger;
pub mod metrics;
pub mod queue;
pub mod retention;
pub mod state;
pub mod store;
pub mod summaries;
pub mod system;
pub mod thin;
pub mod tokens;
pub mod workers;

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

/// The schema, compiled in.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// Most connections of a process that was not told otherwise.
const CONNECTIONS: u32 = 16;

/// Connects, with bounds on everything that could otherwise wait for ever.
///
/// # Errors
/// When the URL cannot be read or the database does not answer.
pub async fn connect(url: &str) -> anyhow::Result<PgPool> {
    connect_at_most(url, CONNECTIONS).await
}

/// The same, with so many connections at most.
///
/// # Errors
/// When the URL cannot be read or the database does not answer.
pub async fn connect_at_most(url: &str, connections: u32) -> anyhow::Result<PgPool> {
    let options: PgConnectOptions = url.parse().context("cannot read the database URL")?;
    let options = options.application_name("distillery").options([
        ("statement_timeout", "30s"),
        ("lock_timeout", "10s"),
        // Nothing here waits for anything else within a transaction. A process that was frozen in one holds its job's row
        // no longer than this, and with it the rescue of the job.
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

/// Waits for a database that is not there yet, or not yet ready, connects, and brings its schema up to date: what makes up a
/// cluster may start in any order, and whichever comes first makes the schema. None if `stop` was cancelled before.
///
/// # Errors
/// When the URL cannot be read, or the database refuses, which waiting does not mend.
pub async fn open_when_there(url: &str, stop: &CancellationToken) -> anyhow::Result<Option<PgPool>> {
    let options: PgConnectOptions = url.parse().context("cannot read the database URL")?;
    loop {
        let open = async {
            // A pool waits long for a server that is not there.
            options.connect().await.context("cannot connect to the database")?;
            let pool = connect(url).await?;
            migrate(&pool).await?;
            anyhow::Ok(pool)
        };
        match open.await {
            Ok(pool) => return Ok(Some(pool)),
            Err(error) if error.chain().filter_map(|cause| cause.downcast_ref()).any(may_come) => {
                tracing::warn!(error = format!("{error:#}"), "the database is not there yet; waiting for it");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Whether a database may answer later that does not now.
fn may_come(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        // It starts, stops, or has no connection left.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P") || code == "53300"),
        _ => false,
    }
}

/// Brings the schema up to date; several processes may do so at once.
///
/// # Errors
/// When a migration fails, or the database has one that this program does not know.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    let options = pool.connect_options();
    // Waiting for another process's migration, or building an index, may take longer than any other statement.
    let unbounded = [("statement_timeout", "0"), ("lock_timeout", "0")];
    let mut connection = options.as_ref().clone().options(unbounded).connect().await?;
    MIGRATIONS.run(&mut connection).await.context("cannot bring the database's schema up to date")?;
    Ok(())
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum EventKind {
    /// The job's status changed; the data hold the new one as `status`.
    Status,
    /// A line from the trainer.
    Log,
    /// A line from the trainer that somebody should look at.
    Warning,
    /// A state to resume from was stored.
    Checkpoint,
    /// The teacher was evaluated.
    Teacher,
    /// Stands for log lines and checkpoints of a job that ended long ago.
    Compacted,
}

impl EventKind {
    /// The name in the database and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Log => "log",
            Self::Warning => "warning",
            Self::Checkpoint => "checkpoint",
            Self::Teacher => "teacher",
            Self::Compacted => "compacted",
        }
    }
}

/// One entry to be of a job's history.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// What it is about.
    pub kind: EventKind,
    /// For people.
    pub message: String,
    /// For programs.
    pub data: Option<Value>,
}

impl NewEvent {
    /// A change of status.
    #[must_use]
    pub fn status(status: state::Status, message: impl Into<String>) -> Self {
        let data = Some(serde_json::json!({"status": status.name()}));
        Self { kind: EventKind::Status, message: message.into(), data }
    }
}

/// Appends to a job's history, in order and without a gap. Called in the transaction of the change that it tells of:
/// the job's row, which holds the last number, is locked until that ends.
///
/// # Errors
/// Those of the database.
pub async fn append_events(connection: &mut PgConnection, job: &str, events: &[NewEvent]) -> sqlx::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let kinds: Vec<String> = events.iter().map(|event| event.kind.name().to_owned()).collect();
    let messages: Vec<String> = events.iter().map(|event| storable(&event.message)).collect();
    let data: Vec<Option<Value>> = events.iter().map(|event| event.data.clone()).collect();
    sqlx::query!(
        r#"
        with numbered as (
            update jobs set event_seq = event_seq + cardinality($2::text[]) where id = $1
            returning event_seq - cardinality($2::text[]) as before, attempt
        )
        insert into events (job_id, seq, attempt, kind, message, data)
        select $1, before + place, attempt, kind, message, data
        from numbered, unnest($2::text[], $3::text[], $4::jsonb[]) with ordinality as new (kind, message, data, place)
        "#,
        job,
        &kinds,
        &messages,
        &data as &[Option<Value>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// PostgreSQL's text holds every character but NUL.
#[must_use]
pub fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
