//! Graceful shutdown on SIGTERM or SIGINT.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A signal this soon after the first is the same request: `timeout` sends it to the process and to its group, and who
/// signals all processes of a server also has the server signal its workers.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// A token that SIGTERM or SIGINT cancels. A second signal, at least a second later, exits at once.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = token.clone();
    tokio::spawn(async move {
        let mut first: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            match first {
                None => {
                    tracing::info!("stopping");
                    told.cancel();
                    first = Some(Instant::now());
                }
                Some(first) if first.elapsed() < SAME_REQUEST => {}
                Some(_) => std::process::exit(130),
            }
        }
    });
    Ok(token)
}
