//! Promise: whoever listens to the database hears of every change, or that it may have missed some, even if a
//! connection dies without a word.

use std::path::Path;

use distillery::db;
use distillery::db::jobs::Change;
use distillery::db::listen::{Changes, Wakeups};
use serde_json::json;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::support::PATIENCE;
use crate::support::db::TestDb;

/// Passes connections on to the database, until it is told to let them hang.
struct Proxy {
    url: String,
    /// Connections of an earlier generation than this are silent.
    generation: watch::Sender<u32>,
    _dir: tempfile::TempDir,
}

impl Proxy {
    fn before(url: &str) -> Self {
        let options: PgConnectOptions = url.parse().unwrap();
        let name = format!(".s.PGSQL.{}", options.get_port());
        let server = options.get_socket().expect("the tests' database has a socket").join(&name);
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(&name)).unwrap();
        let generation = watch::Sender::new(0);
        let generations = generation.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(pass_on(client, server.clone(), generations.subscribe()));
            }
        });
        let url = options.socket(dir.path()).to_url_lossy().to_string();
        Self { url, generation, _dir: dir }
    }

    /// Every connection hangs from now on, as if a router had forgotten it. Later ones work.
    fn silence(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

async fn pass_on(mut client: UnixStream, server: impl AsRef<Path>, mut generation: watch::Receiver<u32>) {
    let mut server = UnixStream::connect(server).await.unwrap();
    tokio::select! {
        // It ends when either side does.
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
        _ = generation.changed() => {}
    }
    // Both ends stay open.
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_reader_and_a_worker_hear_again_after_their_connection_died_without_a_word() {
    let db = TestDb::new().await;
    let proxy = Proxy::before(&db.url);
    let pool = db::connect(&proxy.url).await.unwrap();
    let listener = Changes::listen(pool.clone());
    let mut changes = listener.subscribe();
    let wakeups = Wakeups::listen(&pool).await.unwrap();
    let mut statuses = wakeups.statuses();
    // It says so when it has begun to listen.
    assert_eq!(within_patience(changes.next()).await.job, None);

    let before = db.add_job(json!({})).await;
    while within_patience(changes.next()).await.job.is_none_or(|job| &*job != before) {}
    proxy.silence();
    db.add_job(json!({})).await;
    let queue = wakeups.queue.notified();
    // Whatever happened meanwhile may have been missed, and that is what they hear.
    assert_eq!(within_patience(changes.next()).await.job, None);
    assert_eq!(within_patience(statuses.recv()).await.unwrap(), "");
    within_patience(queue).await;
    // And they hear what happens after that.
    let after = db.add_job(json!({})).await;
    while within_patience(changes.next()).await.job.is_none_or(|job| &*job != after) {}
    db.change(after, Change::Cancel).await;
    assert_eq!(within_patience(statuses.recv()).await.unwrap(), after);
}

async fn within_patience<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event).await.expect("it comes")
}
