//! Promise: a server that is told to stop does so in order, and its log has nothing to worry about.

use std::process::Stdio;

use rustix::process::Signal;

use crate::support::http_client;
use crate::support::process::{Process, distillery};
use crate::support::server::write_patterns;

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_server_that_is_told_to_stop_warns_of_nothing() {
    // `timeout` tells it twice.
    for times in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        write_patterns(&dir.path().join("datasets/patterns"), 8, 8);
        let mut command = distillery();
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--workers", "1"])
            .args(["--data-dir".as_ref(), dir.path().join("data").as_os_str()])
            .args(["--datasets-dir".as_ref(), dir.path().join("datasets").as_os_str()])
            // Not how long queries take on a busy machine.
            .env("RUST_LOG", "info,sqlx::query=error,sqlx::pool::acquire=error")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut server = Process::start(command);
        // The worker writes there too.
        let mut log = server.stderr();
        let url = server.stdout().address().await.expect("the server prints its address");
        log.until("ready for jobs").await;
        let client = http_client().build().unwrap();
        let _stream = client.get(format!("{url}/v1/stream")).send().await.unwrap();
        for _ in 0..times {
            server.signal(Signal::TERM);
        }
        let status = server.ended().await;
        let worry = ["WARN", "ERROR"];
        let told = log.find(|line| worry.iter().any(|word| line.contains(word)).then(|| line.to_owned())).await;
        assert_eq!((status.code(), told), (Some(0), None), "told {times} times");
    }
}
