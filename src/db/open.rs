//! The server's database, for commands that run beside it: that of a running server, or its own started for the while.

use anyhow::Context;
use sqlx::{Connection, PgConnection, PgPool};

use crate::cli::DatabaseArgs;
use crate::commands::serve::DATABASE_NOTE;
use crate::{jobs, postgres};

/// An open database.
#[derive(Debug)]
pub struct Database {
    /// Connections to it; its schema is current.
    pub pool: PgPool,
    /// The server of it, where that had to be started for this.
    own: Option<postgres::Server>,
}

impl Database {
    /// Connects.
    ///
    /// # Errors
    /// When the database can neither be reached nor started.
    pub async fn open(args: &DatabaseArgs) -> anyhow::Result<Self> {
        let (url, own) = match &args.database_url {
            Some(url) => (url.clone(), None),
            None => {
                let note = args.data_dir.join(DATABASE_NOTE);
                let running = std::fs::read_to_string(&note).unwrap_or_default();
                if !running.is_empty() && PgConnection::connect(&running).await.is_ok() {
                    (running, None)
                } else {
                    let server = start(args).await?;
                    (server.url().to_owned(), Some(server))
                }
            }
        };
        let pool = jobs::connect(&url).await?;
        jobs::migrate(&pool).await?;
        Ok(Self { pool, own })
    }

    /// Disconnects, and stops what was started.
    pub async fn close(self) {
        self.pool.close().await;
        if let Some(server) = self.own {
            server.stop().await;
        }
    }
}

async fn start(args: &DatabaseArgs) -> anyhow::Result<postgres::Server> {
    std::fs::create_dir_all(&args.data_dir)
        .with_context(|| format!("cannot create the data directory {}", args.data_dir.display()))?;
    let options = postgres::Options {
        data_dir: args.data_dir.clone(),
        bin_dir: args.postgres_bin_dir.clone(),
        settings: Vec::new(),
    };
    postgres::Server::start(&options).await.context("cannot start the embedded PostgreSQL")
}
