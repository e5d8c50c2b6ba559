//! What PostgreSQL tells at once, by `notify` in the triggers of `migrations/`: [`Changes`] for readers of jobs,
//! [`Wakeups`] for workers. Notifications can be lost with a connection, so both say when everything should be looked
//! at again.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Carries the id of a job that changed in any way.
pub(super) const JOB: &str = "distillery_job";
/// Carries the id of a job whose status changed, so that no heartbeat wakes the worker that sent it.
const STATUS: &str = "distillery_status";
/// Says that there may be a job to claim.
const QUEUE: &str = "distillery_queue";

/// What a reader should read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The job of this id; none stands for every job, as notifications may have been lost.
    pub job: Option<Arc<str>>,
    /// When this process heard of it: whatever is read later shows the change.
    pub heard: Instant,
}

impl Changed {
    /// Any job may have changed until now.
    #[must_use]
    pub fn any() -> Self {
        Self { job: None, heard: Instant::now() }
    }
}

/// Tells every reader in this process which jobs changed, over one connection.
#[derive(Debug, Clone)]
pub struct Changes {
    sender: broadcast::Sender<Changed>,
    _listener: Arc<AbortOnDropHandle<()>>,
}

/// The changes for one reader.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<Changed>);

impl Changes {
    /// Starts to listen, until the last clone is dropped.
    #[must_use]
    pub fn listen(pool: PgPool) -> Self {
        let (sender, _) = broadcast::channel(1024);
        let task = tokio::spawn(listen_for_ever(pool, sender.clone()));
        Self { sender, _listener: Arc::new(AbortOnDropHandle::new(task)) }
    }

    /// Every change from now on. Subscribe before the first read, or a change in between is missed.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.sender.subscribe())
    }
}

impl Subscription {
    /// The next change.
    pub async fn next(&mut self) -> Changed {
        match self.0.recv().await {
            Ok(changed) => changed,
            Err(broadcast::error::RecvError::Lagged(_)) => Changed::any(),
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

async fn listen_for_ever(pool: PgPool, sender: broadcast::Sender<Changed>) {
    while !pool.is_closed() {
        if let Err(error) = listen_for_changes(&pool, &sender).await {
            tracing::warn!(%error, "cannot listen for changes of jobs; trying again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn listen_for_changes(pool: &PgPool, sender: &broadcast::Sender<Changed>) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(JOB).await?;
    loop {
        // Nobody heard what happened before this connection.
        let _ = sender.send(Changed::any());
        while let Some(notification) = listener.try_recv().await? {
            let job = Some(notification.payload().into());
            let _ = sender.send(Changed { job, heard: Instant::now() });
        }
    }
}

/// Tells a worker what concerns it, over one connection.
#[derive(Debug)]
pub struct Wakeups {
    /// Notified when there may be a job to claim.
    pub queue: Arc<Notify>,
    status: broadcast::Sender<String>,
    _listener: AbortOnDropHandle<()>,
}

impl Wakeups {
    /// Starts to listen: whatever happens after this has returned is heard.
    pub async fn listen(pool: &PgPool) -> sqlx::Result<Self> {
        let listener = listen_for_work(pool).await?;
        let queue = Arc::new(Notify::new());
        let (status, _) = broadcast::channel(256);
        let task = tokio::spawn(pass_on(pool.clone(), listener, queue.clone(), status.clone()));
        Ok(Self { queue, status, _listener: AbortOnDropHandle::new(task) })
    }

    /// Ids of the jobs whose status changes from now on; an empty one stands for every job, as notifications may have
    /// been lost.
    #[must_use]
    pub fn statuses(&self) -> broadcast::Receiver<String> {
        self.status.subscribe()
    }
}

async fn listen_for_work(pool: &PgPool) -> sqlx::Result<PgListener> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen_all([QUEUE, STATUS]).await?;
    Ok(listener)
}

async fn pass_on(pool: PgPool, mut listener: PgListener, queue: Arc<Notify>, status: broadcast::Sender<String>) {
    let look_at_everything = || {
        queue.notify_waiters();
        drop(status.send(String::new()));
    };
    loop {
        match listener.try_recv().await {
            Ok(Some(notification)) if notification.channel() == QUEUE => queue.notify_waiters(),
            Ok(Some(notification)) => drop(status.send(notification.payload().to_owned())),
            // The connection was lost, and whatever happened meanwhile was not heard.
            Ok(None) => look_at_everything(),
            // There is no database to connect to again. The listener would later do so without saying it.
            Err(error) => {
                tracing::warn!(%error, "cannot listen for notifications; trying again");
                listener = loop {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    if let Ok(listener) = listen_for_work(&pool).await {
                        break listener;
                    }
                };
                look_at_everything();
            }
        }
    }
}
