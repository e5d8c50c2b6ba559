//! The HTTP API and the dashboard. Handlers are in files and folders named like their URLs: `v1/jobs/metrics.rs` serves
//! `/v1/jobs/{id}/metrics`, `metrics.rs` serves `/metrics`.
//!
//! A handler extracts, validates, makes one call to [`crate::jobs`] or [`crate::artifacts`] and answers. What goes
//! wrong is an `error::ApiError`.
#![allow(unused_qualifications, reason = "utoipa qualifies the types of query parameters")]

mod assets;
mod auth;
mod connections;
mod download;
mod error;
mod extract;
mod feed;
mod guard;
mod health;
mod metrics;
mod openapi;
mod resolve;
mod sse;
mod v1;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::HeaderName;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::TraceLayer;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::artifacts::Store;
use crate::jobs::changes::Changes;
use error::ApiError;

pub use auth::TOKEN_MEMORY;
pub use error::Problem;

/// A busy dashboard makes some ten requests a second, and a script that waits in between fewer.
pub const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(500).expect("not zero");

/// Most connections at a time, most of which would be streams.
pub const CONNECTIONS: usize = 10_000;

/// What the API is told at the start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The address of the listener, which decides which `Host` is ours.
    pub listen: SocketAddr,
    /// SHA-256 of a token that may do everything, besides those of the database.
    pub admin_token: Option<[u8; 32]>,
    /// How many requests a token may make per second, on average over a second; each token has its own measure.
    pub requests_per_second: NonZeroU32,
    /// The directory whose directories are the data sets.
    pub datasets_dir: PathBuf,
    /// Where uploads are collected until they are stored.
    pub spool_dir: PathBuf,
    /// Largest checkpoint that is accepted, in bytes.
    pub checkpoint_limit: u64,
    /// Most bytes that all uploaded checkpoints may have together.
    pub uploads_limit: Option<u64>,
    /// How many uploads are read at a time; further ones are asked to come back.
    pub uploads: usize,
    /// Most connections at a time; further ones are asked to come back. Fewer where the process may not open so many files.
    pub connections: usize,
    /// How long a client may take to send the head of a request, and a connection may be idle.
    pub header_timeout: Duration,
    /// How long a request may take that is no upload, download or stream.
    pub timeout: Duration,
    /// How long an upload may stand still.
    pub upload_timeout: Duration,
    /// How long a stream may be silent.
    pub keep_alive: Duration,
    /// How long a client may take nothing of what it is sent before its connection is closed.
    pub reader_patience: Duration,
    /// How long requests under way have to end when the server stops.
    pub grace: Duration,
}

impl Settings {
    /// The defaults.
    #[must_use]
    pub fn new(listen: SocketAddr, datasets_dir: PathBuf, spool_dir: PathBuf) -> Self {
        Self {
            listen,
            admin_token: None,
            requests_per_second: REQUESTS_PER_SECOND,
            datasets_dir,
            spool_dir,
            checkpoint_limit: 8 << 30,
            uploads_limit: None,
            uploads: 8,
            connections: CONNECTIONS,
            header_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            upload_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(15),
            reader_patience: Duration::from_secs(60),
            grace: Duration::from_secs(20),
        }
    }
}

/// What handlers share.
#[derive(Debug, Clone)]
pub struct AppState {
    pool: PgPool,
    artifacts: Store,
    settings: Arc<Settings>,
    changes: Changes,
    feeds: feed::Feeds,
    gate: auth::Gate,
    uploads: Arc<Semaphore>,
    datasets: Arc<v1::datasets::Catalogue>,
    /// Ends the streams, which would go on for ever.
    stopping: CancellationToken,
}

impl AppState {
    /// Starts to listen for changes of jobs.
    #[must_use]
    pub fn new(pool: PgPool, artifacts: Store, settings: Settings) -> Self {
        Self {
            changes: Changes::listen(pool.clone()),
            feeds: feed::Feeds::default(),
            gate: auth::Gate::new(pool.clone(), &settings),
            uploads: Arc::new(Semaphore::new(settings.uploads)),
            datasets: Arc::new(v1::datasets::Catalogue::new(settings.datasets_dir.clone())),
            settings: Arc::new(settings),
            pool,
            artifacts,
            stopping: CancellationToken::new(),
        }
    }
}

/// One page of a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    pub data: Vec<T>,
    /// Whether there are more.
    pub has_more: bool,
    /// The `after` of the next page; null where there is none.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Made of one entry more than a page holds, if there are so many.
    fn new(mut data: Vec<T>, limit: i64, cursor: impl Fn(&T) -> String) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = data.len() > limit;
        data.truncate(limit);
        let next = data.last().filter(|_| has_more).map(cursor);
        Self { data, has_more, next }
    }
}

/// A list that is always whole.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// The entries.
    pub data: Vec<T>,
}

/// All routes, with what surrounds them.
pub fn app(state: AppState) -> Router {
    let settings = &state.settings;
    let short = OpenApiRouter::new()
        .routes(routes!(v1::jobs::create, v1::jobs::list))
        .routes(routes!(v1::summaries::list))
        .routes(routes!(v1::labels::list))
        .routes(routes!(v1::jobs::get, v1::jobs::delete))
        .routes(routes!(v1::jobs::cancel))
        .routes(routes!(v1::jobs::pause))
        .routes(routes!(v1::jobs::resume))
        .routes(routes!(v1::jobs::retry))
        .routes(routes!(v1::jobs::submitted))
        .routes(routes!(v1::jobs::attempts::list))
        .routes(routes!(v1::jobs::metrics::get))
        .routes(routes!(v1::jobs::events::list))
        .routes(routes!(v1::jobs::artifacts::list))
        .routes(routes!(v1::checkpoints::list))
        .routes(routes!(v1::checkpoints::get, v1::checkpoints::delete))
        .routes(routes!(v1::architectures::list))
        .routes(routes!(v1::datasets::list))
        .routes(routes!(v1::workers::list))
        .routes(routes!(v1::system::get))
        .routes(routes!(metrics::get));
    let open = OpenApiRouter::new()
        .routes(routes!(v1::session::get, v1::session::sign_in, v1::session::sign_out))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready));
    let guarded = middleware::from_fn_with_state(state.gate.clone(), auth::check);
    let short = short
        .route_layer(guarded.clone())
        .merge(open)
        .layer(middleware::from_fn_with_state(settings.timeout, time_out))
        .layer(CompressionLayer::new());
    let long = OpenApiRouter::new()
        .routes(routes!(v1::jobs::stream::get))
        .routes(routes!(v1::stream::get))
        .routes(routes!(v1::changes::get))
        .routes(routes!(v1::jobs::student::get))
        .routes(routes!(v1::jobs::artifacts::get))
        .routes(routes!(v1::checkpoints::put, v1::checkpoints::post))
        .route_layer(guarded);
    let (api, document) = OpenApiRouter::with_openapi(openapi::base()).merge(short).merge(long).split_for_parts();
    api.merge(openapi::routes(document))
        .fallback_service(assets::service())
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(DefaultBodyLimit::max(extract::BODY_LIMIT))
        .layer(middleware::from_fn_with_state(guard::Guard::new(settings.listen), guard::check))
        .layer(CatchPanicLayer::custom(on_panic))
        .layer(middleware::from_fn(metrics::count))
        .layer(
            ServiceBuilder::new()
                .layer(SetRequestIdLayer::x_request_id(NewRequestId))
                .layer(TraceLayer::new_for_http().make_span_with(span).on_failure(()))
                .layer(PropagateRequestIdLayer::x_request_id())
                .layer(SetResponseHeaderLayer::if_not_present(
                    HeaderName::from_static("x-content-type-options"),
                    axum::http::HeaderValue::from_static("nosniff"),
                )),
        )
        .with_state(state)
}

/// Serves until `stop` is cancelled and what was under way then has ended, or its grace is over.
pub async fn serve(listener: TcpListener, state: AppState, stop: CancellationToken) {
    let stopping = state.stopping.clone();
    tokio::spawn({
        let stopping = stopping.clone();
        async move {
            stop.cancelled().await;
            stopping.cancel();
        }
    });
    let grace = state.settings.grace;
    metrics::keep_up(stopping.clone());
    let settings = state.settings.clone();
    let serving = connections::serve(listener, app(state), &settings, stopping.clone());
    let too_late = async {
        stopping.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        () = serving => {}
        () = too_late => tracing::warn!("requests that did not end in time are cut off"),
    }
}

async fn time_out(State(limit): State<Duration>, request: Request, next: Next) -> Result<Response, ApiError> {
    let late = |_| ApiError::Unavailable("the answer took too long: try again".into());
    tokio::time::timeout(limit, next.run(request)).await.map_err(late)
}

fn on_panic(panic: Box<dyn std::any::Any + Send>) -> Response {
    let message = panic.downcast_ref::<&str>().map(ToString::to_string);
    let message = message.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    ApiError::Internal(anyhow::anyhow!("a handler panicked: {message}")).into_response()
}

#[derive(Clone)]
struct NewRequestId;

impl MakeRequestId for NewRequestId {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        ulid::Ulid::generate().to_string().parse().ok().map(RequestId::new)
    }
}

fn span(request: &Request) -> tracing::Span {
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).unwrap_or("-");
    tracing::info_span!("request", id, method = %request.method(), path = request.uri().path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_answer_without_its_message() {
        let routes = Router::new()
            .route("/", axum::routing::get(async || -> &'static str { panic!("a secret") }))
            .layer(CatchPanicLayer::custom(on_panic));
        let request = axum::http::Request::builder().body(axum::body::Body::empty()).expect("a request");
        let response = tower::ServiceExt::oneshot(routes, request).await.expect("an answer");
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.expect("a body");
        let problem: Problem = serde_json::from_slice(&body).expect("a problem");
        assert!(!problem.detail.contains("secret"));
    }
}
