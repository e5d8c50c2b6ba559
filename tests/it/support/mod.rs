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

/// A client for HTTP, which needs an implementation of TLS even where it is not used.
pub fn http_client() -> reqwest::ClientBuilder {
    distillery::artifacts::install_tls_provider();
    reqwest::Client::builder()
}
