//! What PostgreSQL tells a worker at once, instead of at the next look.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::{Notify, broadcast};

/// Ends of the one connection that listens.
#[derive(Debug)]
pub(super) struct Wakeups {
    /// Somebody queued a job.
    pub(super) queue: Arc<Notify>,
    /// Ids of jobs whose status changed; an empty one means "look again, something may have been missed".
    status: broadcast::Sender<String>,
    task: tokio::task::JoinHandle<()>,
}

impl Wakeups {
    /// Ids of jobs whose status changes from now on.
    pub(super) fn statuses(&self) -> broadcast::Receiver<String> {
        self.status.subscribe()
    }
}

impl Drop for Wakeups {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts listening; what happens after this returned is heard.
pub(super) async fn listen(pool: &PgPool) -> sqlx::Result<Wakeups> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen_all(["distillery_queue", "distillery_status"]).await?;
    let queue = Arc::new(Notify::new());
    let (status, _) = broadcast::channel(256);
    let (wake, tell) = (queue.clone(), status.clone());
    let task = tokio::spawn(async move {
        loop {
            match listener.try_recv().await {
                Ok(Some(notification)) if notification.channel() == "distillery_queue" => wake.notify_waiters(),
                Ok(Some(notification)) => drop(tell.send(notification.payload().to_owned())),
                // The connection was lost: whatever happened meanwhile was not heard.
                Ok(None) => {
                    wake.notify_waiters();
                    drop(tell.send(String::new()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot listen for notifications");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    });
    Ok(Wakeups { queue, status, task })
}
