//! Returns the jobs of workers that went away. Every worker does this; the database sees to it that each job is
//! rescued once.

use std::time::Duration;

use super::Context;
use crate::db::queue;

/// How long after the end of a lease to look for it.
const LATER: Duration = Duration::from_millis(50);

/// Looks three times per lease, and when the next lease runs out, for ever: a job is rescued as its lease ends, and one
/// that another look had to leave (its row was locked) soon after.
pub(super) async fn run(context: Context) {
    let longest = context.settings.lease / 3;
    loop {
        let rescued = queue::rescue_expired(&context.pool).await;
        let pause = match rescued {
            Ok(jobs) => {
                if jobs > 0 {
                    tracing::warn!(jobs, "rescued jobs whose worker went away");
                }
                // A little after it, since it is renewed only before.
                let next = queue::until_next_expiry(&context.pool).await.ok().flatten().unwrap_or(longest);
                (next + LATER).min(longest)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot look for jobs to rescue");
                longest
            }
        };
        tokio::time::sleep(pause).await;
    }
}
