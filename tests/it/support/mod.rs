//! What the tests share: databases, processes, the API in this process, the real server, and workers with scripted
//! trainers.

use std::time::Duration;

pub mod api;
pub mod archives;
pub mod db;
pub mod process;
pub mod s3;
pub mod server;
pub mod worker;

/// Small exported networks. The tests of their reader change more of them.
#[allow(dead_code)]
#[path = "../../../core/tests/it/exported/programs.rs"]
pub mod programs;

/// How long a test waits for an event before it fails. No event takes nearly so long, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// What `look` finds once it finds something, for what no event announces. `what` says what a test waits for in vain.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect(what)
}

/// A client for HTTP, which needs an implementation of TLS even where it is not used.
pub fn http_client() -> reqwest::ClientBuilder {
    distillery::artifacts::install_tls_provider();
    reqwest::Client::builder()
}
