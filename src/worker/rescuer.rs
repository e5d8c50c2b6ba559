//! Returns jobs to the queue whose worker has disappeared, and says why jobs wait that no worker can run. Every worker
//! does this; the database ensures that each job is rescued only once.

use std::time::Duration;

use tokio::time::Instant;

use super::WorkerContext;
use crate::db::queue;

/// How long after the end of a lease to check it.
const LATER: Duration = Duration::from_millis(50);
/// Time between two looks for jobs that no worker can run.
const BETWEEN_EXPLANATIONS: Duration = Duration::from_secs(30);

/// Checks for expired leases forever: whenever the next one is due, and at least three times per lease. So a job is
/// rescued as soon as its lease ends, and one whose row was locked then is rescued soon after.
pub(super) async fn run(context: WorkerContext) {
    let longest = context.settings.lease / 3;
    let mut explain_at = Instant::now();
    loop {
        if explain_at <= Instant::now() {
            if let Err(error) = queue::explain_waits(&context.pool).await {
                tracing::warn!(%error, "cannot look for jobs that no worker can run");
            }
            explain_at = Instant::now() + BETWEEN_EXPLANATIONS;
        }
        let rescued = queue::rescue_expired(&context.pool).await;
        let pause = match rescued {
            Ok(jobs) => {
                if jobs > 0 {
                    tracing::warn!(jobs, "rescued jobs whose worker disappeared");
                }
                // A little after its end, because a lease can be renewed until then.
                let next = queue::until_next_expiry(&context.pool).await.ok().flatten().unwrap_or(longest);
                (next + LATER).min(longest)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot check for expired leases");
                longest
            }
        };
        tokio::time::sleep(pause).await;
    }
}
