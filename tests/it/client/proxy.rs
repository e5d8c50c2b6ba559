//! Connections to a server that break where a test says.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// A port that passes bytes on to a server, and ends each connection after as many bytes of the answer as the test
/// says.
pub struct Proxy {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    heads: Arc<Mutex<String>>,
    task: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// `cuts[n]` is how many bytes of answers connection `n` passes on; those after the last pass on all.
    pub async fn start(server: &str, cuts: &[usize]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (address, cuts) = (server.trim_start_matches("http://").to_owned(), cuts.to_vec());
        let heads = Arc::new(Mutex::new(String::new()));
        let seen = heads.clone();
        let accept = async move {
            for connection in 0.. {
                let Ok((client, _)) = listener.accept().await else { return };
                let limit = cuts.get(connection).copied().unwrap_or(usize::MAX);
                let (address, seen) = (address.clone(), seen.clone());
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(address).await {
                        pass_on(client, server, limit, &seen).await;
                    }
                });
            }
        };
        let task = tokio::spawn(accept).abort_handle();
        Self { url, heads, task }
    }

    /// The heads of all requests so far, in lower case.
    pub fn requests(&self) -> String {
        self.heads.lock().expect("nobody panicked").to_lowercase()
    }
}

async fn pass_on(client: TcpStream, server: TcpStream, limit: usize, seen: &Mutex<String>) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let upwards = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            seen.lock().expect("nobody panicked").push_str(&String::from_utf8_lossy(&buffer[..read]));
            if to_server.write_all(&buffer[..read]).await.is_err() {
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
