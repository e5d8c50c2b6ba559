//! Accepts connections and enforces their limits: their number, the size and duration of a request's head, and how long
//! a client may read nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::ServerSettings;

/// Largest head of a request, in bytes. A connection keeps this much at most of what it has received, and as much of
/// what it is to send, however long its client takes.
const LONGEST_HEAD: usize = 16 << 10;
/// File descriptors reserved for the database, the storage and downloads.
const OTHER_FILES: usize = 256;

/// A client's connection, which whoever serves a request of it can close. Without a client, as in tests of a router, it
/// is nobody's.
#[derive(Debug, Clone, Default)]
pub struct Connection(CancellationToken);

impl Connection {
    /// Closes it at once, whatever is being sent.
    pub fn close(&self) {
        self.0.cancel();
    }
}

/// Serves connections until `stopping`, then waits for running requests.
pub async fn serve(listener: TcpListener, app: Router, settings: &ServerSettings, stopping: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(settings.header_timeout).max_buf_size(LONGEST_HEAD);
    let free = Arc::new(Semaphore::new(settings.connections.min(most_files().saturating_sub(OTHER_FILES).max(1))));
    let open = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let connection = match accepted {
            Ok((connection, _)) => connection,
            Err(error) => {
                // The connection is already gone, or the machine is out of resources.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = free.clone().try_acquire_owned() else {
            tokio::spawn(refuse(connection));
            continue;
        };
        prepare(&connection, settings.reader_patience);
        let client = Connection::default();
        let of_request = client.clone();
        let app = app.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(of_request.clone());
            request.map(Body::new)
        });
        let served = open.watch(http.serve_connection(TokioIo::new(connection), TowerToHyperService::new(app)));
        tokio::spawn(async move {
            tokio::select! {
                // The client may have disconnected or violated the protocol.
                ended = served => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                },
                () = client.0.cancelled() => tracing::debug!("closed a connection to free its memory"),
            }
            drop(permit);
        });
    }
    drop(listener);
    open.shutdown().await;
}

fn prepare(connection: &TcpStream, patience: Duration) {
    // Otherwise, small events would wait for an acknowledgement (Nagle's algorithm).
    let _ = connection.set_nodelay(true);
    // Frees the buffers of clients that no longer read, or vanished without closing the connection.
    let patience = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(connection, patience);
}

/// Responds that there are too many connections. Written by hand, and not as an [`ApiError`](super::error::ApiError),
/// because no HTTP server is attached to the connection.
async fn refuse(mut connection: TcpStream) {
    let problem = r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"too many connections are open: try again in a moment"}"#;
    let response = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{problem}",
        problem.len()
    );
    let send = async {
        connection.write_all(response.as_bytes()).await?;
        connection.shutdown().await?;
        // Closing with unread data would reset the connection, and the client could lose the response.
        let mut request = [0; 1024];
        while connection.read(&mut request).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), send).await;
}

/// How many files this process may open, after raising its soft limit to the hard limit.
fn most_files() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}
