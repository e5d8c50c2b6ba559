//! What all uploads share: the progress bar, and how long an answer is waited for.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::{RequestBuilder, Response};
use tokio::sync::watch;

use crate::client::error::Error;
use crate::client::server::ApiClient;

/// How long the server may take to check and store a file after its last byte.
const STORE_PATIENCE: Duration = Duration::from_secs(1800);

/// A bar of so many bytes, on a terminal.
pub(super) fn bar(size: u64, is_quiet: bool) -> ProgressBar {
    if is_quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bytes} of {total_bytes} {bar:40} {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr()).with_style(style)
}

/// Sends a request of `size` bytes, and waits for the answer: as long as bytes are sent, and then [`STORE_PATIENCE`].
///
/// # Errors
/// The server refuses the request or cannot be reached, or nothing moves for too long.
pub(super) async fn answer(
    server: &ApiClient,
    request: RequestBuilder,
    progress: &mut watch::Receiver<u64>,
    size: u64,
) -> Result<Response, Error> {
    let answer = server.send_once(request, Duration::MAX);
    tokio::pin!(answer);
    loop {
        let is_sent = *progress.borrow_and_update() >= size;
        let patience = if is_sent { server.patience.max(STORE_PATIENCE) } else { server.patience };
        tokio::select! {
            answer = &mut answer => return answer,
            // Ends when the request has dropped its body; after that only the answer is missing.
            moved = tokio::time::timeout(patience, progress.changed()), if !is_sent => {
                if moved.is_err() {
                    return Err(server.silent(patience));
                }
                if moved.is_ok_and(|moved| moved.is_err()) {
                    let late = |_| Err(server.silent(STORE_PATIENCE));
                    return tokio::time::timeout(STORE_PATIENCE, answer).await.unwrap_or_else(late);
                }
            }
            () = tokio::time::sleep(patience), if is_sent => return Err(server.silent(patience)),
        }
    }
}
