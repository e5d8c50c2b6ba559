//! Returns the jobs of workers that went away. Every worker does this; the database sees to it that each job is
//! rescued once.

use super::Context;
use crate::jobs::queue;

/// Looks three times per lease, for ever.
pub(super) async fn run(context: Context) {
    loop {
        match queue::rescue_expired(&context.pool).await {
            Ok(0) => {}
            Ok(jobs) => tracing::warn!(jobs, "rescued jobs whose worker went away"),
            Err(error) => tracing::warn!(%error, "cannot look for jobs to rescue"),
        }
        tokio::time::sleep(context.settings.lease / 3).await;
    }
}
