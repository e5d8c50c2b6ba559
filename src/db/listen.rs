//! Tells every reader in this process which jobs changed, over one connection to the database.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// What a reader should look at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The job of this id; none stands for every job, as notifications may have been lost.
    pub job: Option<Arc<str>>,
    /// When this process heard of it. A look that began later shows it.
    pub heard: Instant,
}

impl Changed {
    /// Whatever may have changed up to now.
    #[must_use]
    pub fn any() -> Self {
        Self { job: None, heard: Instant::now() }
    }
}

/// The one listener of this process.
#[derive(Debug, Clone)]
pub struct Changes {
    sender: broadcast::Sender<Changed>,
    _listener: Arc<AbortOnDropHandle<()>>,
}

/// One reader's share of it.
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

    /// Every change from now on. Subscribe first and look then, or a change in between is missed.
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
        if let Err(error) = listen(&pool, &sender).await {
            tracing::warn!(%error, "cannot listen for changes of jobs; trying again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn listen(pool: &PgPool, sender: &broadcast::Sender<Changed>) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen("distillery_job").await?;
    loop {
        // Nobody heard what came before the connection or between two of them.
        let _ = sender.send(Changed::any());
        while let Some(notification) = listener.try_recv().await? {
            let job = Some(notification.payload().into());
            let _ = sender.send(Changed { job, heard: Instant::now() });
        }
    }
}
