//! Starts the embedded server again when it ends.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{PostgresOptions, Server, write_url};
use crate::process;

/// An embedded server that is restarted whenever it ends.
#[derive(Debug)]
pub struct KeptServer {
    url: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl KeptServer {
    /// Starts the server, and writes its URL to the data directory.
    ///
    /// # Errors
    /// When the first start fails; later ones are tried again.
    pub async fn start(options: PostgresOptions) -> anyhow::Result<Self> {
        let server = Server::start(&options).await?;
        let url = server.url().to_owned();
        write_url(&options.data_dir, &url)?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_running(server, options, stop.clone()));
        Ok(Self { url, stop, task })
    }

    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Shuts the server down.
    ///
    /// # Errors
    /// When the task that restarts it panicked.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await.context("the embedded database's keeper failed")
    }
}

async fn keep_running(mut server: Server, options: PostgresOptions, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return server.stop().await,
            status = server.exited() => {
                tracing::error!("the embedded PostgreSQL {}; starting it again", process::describe(status));
            }
        }
        // Releases the lock on the data directory.
        drop(server);
        server = loop {
            match Server::start(&options).await {
                Ok(server) => break server,
                Err(error) => tracing::error!(error = format!("{error:#}"), "trying again in a second"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        };
    }
}
