//! All routes, and the layers around them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::TraceLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::ApiError;
use super::{AppState, answers, assets, auth, extract, health, openapi, origin, prometheus, unread, v1};

pub fn router(state: AppState) -> Router {
    let with_token = middleware::from_fn_with_state(state.gate.clone(), auth::check);
    let throughout = || middleware::from_fn_with_state(state.gate.clone(), auth::check_throughout);
    let short = short()
        .route_layer(with_token)
        .merge(charts().route_layer(throughout()))
        .merge(public())
        .layer(middleware::from_fn_with_state(state.answers.clone(), answers::hold))
        .layer(middleware::from_fn_with_state(state.settings.timeout, time_out))
        .layer(CompressionLayer::new());
    let long = long().route_layer(throughout());
    let uploads = uploads().route_layer(throughout()).route_layer(middleware::from_fn(unread::read_rest));
    let (api, document) =
        OpenApiRouter::with_openapi(openapi::base()).merge(short).merge(long).merge(uploads).split_for_parts();
    let origins = Arc::new(origin::Guard::new(&state.settings));
    api.merge(openapi::routes(document))
        .fallback_service(assets::service())
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(extract::BODY_LIMIT))
        .layer(middleware::from_fn_with_state(origins, origin::check))
        .layer(CatchPanicLayer::custom(on_panic))
        .layer(middleware::from_fn(prometheus::count))
        .layer(
            ServiceBuilder::new()
                .layer(SetRequestIdLayer::x_request_id(NewRequestId))
                .layer(TraceLayer::new_for_http().make_span_with(span).on_failure(()))
                .layer(PropagateRequestIdLayer::x_request_id())
                .layer(SetResponseHeaderLayer::if_not_present(
                    HeaderName::from_static("x-content-type-options"),
                    HeaderValue::from_static("nosniff"),
                )),
        )
        .with_state(state)
}

/// Requests that must complete within [`ServerSettings::timeout`](super::ServerSettings::timeout).
fn short() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(v1::jobs::create, v1::jobs::list))
        .routes(routes!(v1::summaries::list))
        .routes(routes!(v1::labels::list))
        .routes(routes!(v1::pareto::get))
        .routes(routes!(v1::groups::list))
        .routes(routes!(v1::settings::list))
        .routes(routes!(v1::jobs::get, v1::jobs::amend::patch, v1::jobs::delete))
        .routes(routes!(v1::jobs::cancel))
        .routes(routes!(v1::jobs::pause))
        .routes(routes!(v1::jobs::resume))
        .routes(routes!(v1::jobs::retry))
        .routes(routes!(v1::jobs::submitted))
        .routes(routes!(v1::jobs::attempts::list))
        .routes(routes!(v1::jobs::events::list))
        .routes(routes!(v1::jobs::updates::get))
        .routes(routes!(v1::jobs::artifacts::list))
        .routes(routes!(v1::jobs::predictions::list))
        .routes(routes!(v1::jobs::predictions::summary))
        .routes(routes!(v1::jobs::webhooks::list))
        .routes(routes!(v1::sweeps::create::create, v1::sweeps::list))
        .routes(routes!(v1::sweeps::get, v1::sweeps::delete))
        .routes(routes!(v1::sweeps::pause))
        .routes(routes!(v1::sweeps::resume))
        .routes(routes!(v1::sweeps::cancel))
        .routes(routes!(v1::sweeps::submitted))
        .routes(routes!(v1::sweeps::webhooks::list))
        .routes(routes!(v1::checkpoints::list))
        .routes(routes!(v1::checkpoints::get, v1::checkpoints::delete))
        .routes(routes!(v1::architectures::list))
        .routes(routes!(v1::datasets::list))
        .routes(routes!(v1::datasets::details::get, v1::datasets::details::delete))
        .routes(routes!(v1::datasets::images::list))
        .routes(routes!(v1::datasets::pieces::get, v1::datasets::pieces::delete))
        .routes(routes!(v1::datasets::unfinished::shards, v1::datasets::unfinished::delete_shards))
        .routes(routes!(v1::workers::list))
        .routes(routes!(v1::webhooks::list))
        .routes(routes!(v1::system::get))
        .routes(routes!(prometheus::get))
}

/// Requests whose answers must begin within that time, and may be long.
fn charts() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(v1::jobs::metrics::get)).routes(routes!(v1::jobs::tensorboard::get))
}

/// Requests that need no token.
fn public() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(v1::session::get, v1::session::sign_in, v1::session::sign_out))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
}

/// Streams and downloads, which have time limits of their own.
fn long() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(v1::jobs::stream::get))
        .routes(routes!(v1::stream::get))
        .routes(routes!(v1::changes::get))
        .routes(routes!(v1::jobs::student::get))
        .routes(routes!(v1::jobs::artifacts::get))
}

/// Uploads, which have time limits of their own, too.
fn uploads() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(v1::checkpoints::put, v1::checkpoints::post))
        .routes(routes!(v1::datasets::upload::put))
}

async fn time_out(State(limit): State<Duration>, request: Request, next: Next) -> Result<Response, ApiError> {
    let late = |_| ApiError::Unavailable("the request took too long: try again".into());
    tokio::time::timeout(limit, next.run(request)).await.map_err(late)
}

async fn method_not_allowed(request: Request) -> ApiError {
    // As `curl -T FILE …/v1/checkpoints/` asks, which adds the file's name.
    let path = request.uri().path();
    let is_upload = matches!(*request.method(), Method::PUT | Method::POST);
    ApiError::MethodNotAllowed(if is_upload && path.starts_with("/v1/checkpoints/") {
        ". To upload a file, PUT the file itself to /v1/checkpoints without a slash at the end, to which curl adds the \
         file's name: curl -T FILE …/v1/checkpoints"
    } else if is_upload && path.starts_with("/v1/datasets") {
        ". To upload a data set, PUT the file itself to its name, not a form: curl -T FILE …/v1/datasets/NAME"
    } else {
        ""
    })
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
    use crate::http::Problem;

    #[tokio::test]
    async fn a_panic_becomes_a_response_without_its_message() {
        let routes = Router::new()
            .route("/", axum::routing::get(async || -> &'static str { panic!("a secret") }))
            .layer(CatchPanicLayer::custom(on_panic));
        let request = axum::http::Request::builder().body(axum::body::Body::empty()).expect("a request");
        let response = tower::ServiceExt::oneshot(routes, request).await.expect("a response");
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.expect("a body");
        let problem: Problem = serde_json::from_slice(&body).expect("a problem");
        assert!(!problem.detail.contains("secret"));
    }
}
