//! What PostgreSQL announces, by `notify` in the triggers of `migrations/`: [`Changes`] for readers of jobs,
//! [`Wakeups`] for workers, [`WebhookNews`] for the task that sends messages to webhooks. Notifications can be lost
//! with a connection, so all of them say when everything should be looked at again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgNotification, PgPoolOptions};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Carries the id of a job that changed in any way.
pub(super) const JOB: &str = "distillery_job";
/// Carries the id of a job whose status changed, so that no heartbeat wakes the worker that sent it.
const STATUS: &str = "distillery_status";
/// Says that there may be a job to claim.
const QUEUE: &str = "distillery_queue";
/// The channel that announces messages for webhooks.
const WEBHOOK: &str = "distillery_webhook";

/// Makes idle workers look at the queue, and at their data sets before that.
pub async fn wake_workers(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::query("select pg_notify($1, '')").bind(QUEUE).execute(pool).await?;
    Ok(())
}

/// How long a connection may be silent before it is tested with a query. PostgreSQL sends nothing of its own accord, so
/// a network that has dropped the connection, or a machine that is gone, would never be noticed.
const SILENCE: Duration = Duration::from_secs(10);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to open one: a busy database starts a process for it.
const OPENING: Duration = Duration::from_secs(15);

/// A connection that listens. It is outside of the pool: one that died would keep its place there until the kernel
/// gives up, a quarter of an hour later.
#[derive(Debug)]
struct Listener {
    /// Before the connection, so that it is closed first.
    _own: OwnPool,
    connection: PgListener,
}

/// The pool of one connection that listens.
#[derive(Debug)]
struct OwnPool(PgPool);

impl Drop for OwnPool {
    fn drop(&mut self) {
        // An open pool would test the connection in the background to use it again, and warn if the database has been
        // stopped meanwhile. The call itself closes the pool; its future would wait for the connection.
        drop(self.0.close());
    }
}

impl Listener {
    async fn open(pool: &PgPool, channels: &[&str]) -> sqlx::Result<Self> {
        let options = pool.connect_options().as_ref().clone();
        let own = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
        let own = OwnPool(own.connect_lazy_with(options));
        let opened = async {
            let mut connection = PgListener::connect_with(&own.0).await?;
            // Whoever listens has to know of every loss.
            connection.eager_reconnect(false);
            connection.listen_all(channels.iter().copied()).await?;
            Ok(connection)
        };
        let connection = tokio::time::timeout(OPENING, opened).await.unwrap_or_else(|_| Err(timed_out()))?;
        Ok(Self { _own: own, connection })
    }

    /// The next notification. An error once the connection is lost, or dead without having said so.
    async fn next(&mut self) -> sqlx::Result<PgNotification> {
        loop {
            match tokio::time::timeout(SILENCE, self.connection.try_recv()).await {
                Ok(Ok(Some(notification))) => return Ok(notification),
                Ok(Ok(None)) => return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    // Notifications that come before the answer are kept for the next round.
                    let asked = sqlx::query!("select 1 as one").fetch_one(&mut self.connection);
                    tokio::time::timeout(PATIENCE, asked).await.map_err(|_| timed_out())??;
                }
            }
        }
    }
}

fn timed_out() -> sqlx::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "the connection that listens no longer answers").into()
}

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
        tokio::select! {
            () = pool.close_event() => return,
            Err(error) = listen_for_changes(&pool, &sender) => {
                tracing::warn!(%error, "cannot listen for changes of jobs; trying again");
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Listens until the connection is lost.
async fn listen_for_changes(pool: &PgPool, sender: &broadcast::Sender<Changed>) -> sqlx::Result<Infallible> {
    let mut listener = Listener::open(pool, &[JOB]).await?;
    // Nobody heard what happened before this connection.
    let _ = sender.send(Changed::any());
    loop {
        let notification = listener.next().await?;
        let job = Some(notification.payload().into());
        let _ = sender.send(Changed { job, heard: Instant::now() });
    }
}

/// Says when there are messages for webhooks, over a connection of its own.
#[derive(Debug)]
pub struct WebhookNews(Listener);

impl WebhookNews {
    /// Starts to listen: whatever happens after this has returned is heard.
    pub async fn listen(pool: &PgPool) -> sqlx::Result<Self> {
        Listener::open(pool, &[WEBHOOK]).await.map(Self)
    }

    /// Returns when there is a message. An error once the connection is lost.
    pub async fn next(&mut self) -> sqlx::Result<()> {
        self.0.next().await.map(drop)
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
        let listener = Listener::open(pool, &[QUEUE, STATUS]).await?;
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

async fn pass_on(pool: PgPool, mut listener: Listener, queue: Arc<Notify>, status: broadcast::Sender<String>) {
    let check_everything = || {
        queue.notify_waiters();
        drop(status.send(String::new()));
    };
    loop {
        match listener.next().await {
            Ok(notification) if notification.channel() == QUEUE => queue.notify_waiters(),
            Ok(notification) => drop(status.send(notification.payload().to_owned())),
            // The connection was lost, and whatever happens until there is another is not heard.
            Err(error) => {
                tracing::warn!(%error, "cannot listen for notifications; trying again");
                listener = loop {
                    if let Ok(listener) = Listener::open(&pool, &[QUEUE, STATUS]).await {
                        break listener;
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                };
                check_everything();
            }
        }
    }
}
