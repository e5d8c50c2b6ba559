//! Connections to a server that break where a test says.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::support::PATIENCE;

/// A port that passes bytes on to a server, and breaks connections where the test says.
pub struct Proxy {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    state: Arc<ProxyState>,
    task: AbortHandle,
}

/// What the connections of a proxy share.
struct ProxyState {
    /// The heads of all requests, and their bodies as far as they are text.
    heads: Mutex<String>,
    /// Bytes of requests that were passed on, and the numbers of them at which connections break.
    requests: Mutex<(usize, Vec<usize>)>,
    /// Whether a connection falls silent instead of breaking.
    stalls: bool,
    stalled: Notify,
}

impl ProxyState {
    /// How many of `read` bytes of a request are passed on, and whether the connection breaks after them.
    fn take(&self, read: usize) -> (usize, bool) {
        let (passed, cuts) = &mut *self.requests.lock().expect("nobody panicked");
        let most = cuts.first().map_or(usize::MAX, |cut| cut - *passed);
        let taken = read.min(most);
        *passed += taken;
        if taken < most {
            return (taken, false);
        }
        cuts.remove(0);
        (taken, true)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// `cuts[n]` is how many bytes of answers connection `n` passes on; those after the last pass on all.
    pub async fn start(server: &str, cuts: &[usize]) -> Self {
        Self::with(server, cuts, &[], false).await
    }

    /// Breaks the connection in use when so many bytes of all requests have been passed on: numbers in ascending
    /// order.
    pub async fn cutting_requests(server: &str, cuts: &[usize]) -> Self {
        Self::with(server, &[], cuts, false).await
    }

    /// Passes on so many bytes of all requests, and no more.
    pub async fn stalling(server: &str, bytes: usize) -> Self {
        Self::with(server, &[], &[bytes], true).await
    }

    async fn with(server: &str, cuts: &[usize], request_cuts: &[usize], stalls: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (address, cuts) = (server.trim_start_matches("http://").to_owned(), cuts.to_vec());
        let requests = Mutex::new((0, request_cuts.to_vec()));
        let state = ProxyState { heads: Mutex::default(), requests, stalls, stalled: Notify::new() };
        let state = Arc::new(state);
        let shared = state.clone();
        let accept = async move {
            for connection in 0.. {
                let Ok((client, _)) = listener.accept().await else { return };
                let limit = cuts.get(connection).copied().unwrap_or(usize::MAX);
                let (address, shared) = (address.clone(), shared.clone());
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(address).await {
                        pass_on(client, server, limit, &shared).await;
                    }
                });
            }
        };
        let task = tokio::spawn(accept).abort_handle();
        Self { url, state, task }
    }

    /// The heads of all requests so far, in lower case.
    pub fn requests(&self) -> String {
        self.state.heads.lock().expect("nobody panicked").to_lowercase()
    }

    /// Waits until it has passed on as much as it does.
    pub async fn stalled(&self) {
        tokio::time::timeout(PATIENCE, self.state.stalled.notified()).await.expect("so many bytes come");
    }
}

async fn pass_on(client: TcpStream, server: TcpStream, limit: usize, state: &ProxyState) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let upwards = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            state.heads.lock().expect("nobody panicked").push_str(&String::from_utf8_lossy(&buffer[..read]));
            let (passed, breaks) = state.take(read);
            if to_server.write_all(&buffer[..passed]).await.is_err() {
                break;
            }
            if breaks && state.stalls {
                state.stalled.notify_one();
                std::future::pending::<()>().await;
            }
            if breaks {
                break;
            }
        }
    };
    let downwards = async {
        let (mut buffer, mut left) = (vec![0; 1 << 16], limit);
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            let passed = read.min(left);
            left -= passed;
            if to_client.write_all(&buffer[..passed]).await.is_err() || left == 0 {
                return;
            }
        }
    };
    tokio::select! {
        () = upwards => {}
        () = downwards => {}
    }
}
