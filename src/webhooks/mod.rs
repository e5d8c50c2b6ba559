//! Tells webhooks how jobs and sweeps ended, as Standard Webhooks specify (<https://www.standardwebhooks.com>): signed,
//! at least once, with the same id in every attempt.
//!
//! A trigger inserts a message in the transaction that ends a job or a sweep (`migrations/`). Every server takes due
//! messages and sends them. If one dies meanwhile, the others send its messages again after a minute.

mod endpoints;

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::StreamExt;
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

pub use endpoints::{Endpoint, Endpoints};

use crate::db::listen::WebhookNews;
use crate::db::webhooks::{self, DueMessage};

/// Wait after each failed attempt: the schedule of the specification's example, a little over three days in all.
const WAITS: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(5 * 3600),
    Duration::from_secs(10 * 3600),
    Duration::from_secs(14 * 3600),
    Duration::from_secs(20 * 3600),
    Duration::from_secs(24 * 3600),
];
/// How long a receiver may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a message belongs to the server that has taken it. Longer than sending takes.
const LEASE: Duration = Duration::from_secs(60);
/// Number of messages that are sent at the same time.
const AT_ONCE: usize = 8;
/// Number of messages that are taken together. All of them are sent before their lease ends.
const BATCH: i64 = 16;
/// Longest time between two queries, because a notification may be lost with its connection.
const POLL: Duration = Duration::from_secs(15);

/// Sends due messages until `stop`. Those being sent at that time are sent again later.
pub async fn deliver(pool: PgPool, endpoints: Arc<Endpoints>, stop: CancellationToken) {
    let names = endpoints.names();
    if names.is_empty() {
        return;
    }
    crate::artifacts::install_tls_provider();
    let client = reqwest::Client::builder()
        .timeout(PATIENCE)
        .user_agent(concat!("distillery/", env!("CARGO_PKG_VERSION")))
        // A redirect would lead to an address that the operator has not set.
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => return tracing::error!(%error, "webhooks are not told of anything: no client can be made"),
    };
    let sender = Dispatcher { pool, client, endpoints, names };
    tokio::select! {
        () = stop.cancelled() => {}
        () = sender.send_for_ever() => {}
    }
}

struct Dispatcher {
    pool: PgPool,
    client: reqwest::Client,
    endpoints: Arc<Endpoints>,
    names: Vec<String>,
}

impl Dispatcher {
    async fn send_for_ever(&self) {
        let mut news = None;
        loop {
            if news.is_none() {
                // Listens before it queries, so that nothing in between is missed.
                news = WebhookNews::listen(&self.pool).await.ok();
            }
            let pause = match self.send_due().await {
                Ok(next) => next.map_or(POLL, |next| next.min(POLL)),
                Err(error) => {
                    tracing::warn!(%error, "cannot look for messages to webhooks; trying again");
                    POLL
                }
            };
            let heard = async {
                match &mut news {
                    Some(news) => news.next().await,
                    None => std::future::pending().await,
                }
            };
            let heard = tokio::time::timeout(pause, heard).await;
            if matches!(heard, Ok(Err(_))) {
                news = None;
            }
        }
    }

    /// Sends due messages. Returns the time until the next one is due; `None` if there is none.
    async fn send_due(&self) -> sqlx::Result<Option<Duration>> {
        loop {
            let due = webhooks::take_due(&self.pool, &self.names, LEASE, BATCH).await?;
            if due.is_empty() {
                return webhooks::until_next(&self.pool, &self.names).await;
            }
            futures::stream::iter(due).for_each_concurrent(AT_ONCE, |message| self.send(message)).await;
        }
    }

    async fn send(&self, message: DueMessage) {
        let DueMessage { id, webhook, subject, kind, attempts, .. } = &message;
        let noted = match self.post(&message).await {
            Ok(()) => {
                tracing::info!(id, webhook, subject, kind, "told a webhook of an end");
                webhooks::delivered(&self.pool, id).await
            }
            Err(DeliveryFailure { reason, is_final }) => {
                let place = usize::try_from(attempts - 1).unwrap_or(usize::MAX);
                let wait = WAITS.get(place).filter(|_| !is_final).map(|wait| jittered(*wait));
                tracing::warn!(
                    id,
                    webhook,
                    subject,
                    kind,
                    attempts,
                    ?wait,
                    "cannot tell a webhook of an end: {reason}"
                );
                webhooks::failed(&self.pool, &message, &reason, wait).await
            }
        };
        if let Err(error) = noted {
            tracing::warn!(id, webhook, %error, "cannot note what became of a message: it is sent again");
        }
    }

    /// Sends a message once.
    async fn post(&self, message: &DueMessage) -> Result<(), DeliveryFailure> {
        let passing = |reason: String| DeliveryFailure { reason, is_final: false };
        let Some(endpoint) = self.endpoints.get(&message.webhook) else {
            return Err(passing("this server has no such webhook".to_owned()));
        };
        let timestamp = Utc::now().timestamp();
        let request = self
            .client
            .post(endpoint.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", endpoint.signature(&message.id, timestamp, &message.body))
            .body(message.body.clone());
        // The address is left out, because some have a secret in their path.
        let response = request.send().await.map_err(|error| passing(describe(&error.without_url())))?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::GONE => Err(DeliveryFailure {
                reason: "the receiver answered 410, that it wants no more messages".to_owned(),
                is_final: true,
            }),
            status => Err(passing(format!("the receiver answered {}", status.as_u16()))),
        }
    }
}

/// Why an attempt failed.
struct DeliveryFailure {
    reason: String,
    /// Whether sending the message again is pointless.
    is_final: bool,
}

fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("the receiver did not answer within {} s", PATIENCE.as_secs());
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    format!("the receiver cannot be reached: {innermost}")
}

/// Extends a wait by up to a tenth, so that messages that failed together are not sent again together.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + f64::from(Utc::now().timestamp_subsec_micros() % 1000) / 10_000.0)
}
