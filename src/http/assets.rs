//! `/`: the dashboard, embedded into the program.

use std::borrow::Cow;
use std::convert::Infallible;

use axum::body::Bytes;
use axum::extract::Request;
use axum::handler::HandlerWithoutStateExt;
use axum::http::Method;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};
use tower::{Layer, Service};
use tower_http::compression::CompressionLayer;

use super::cached;
use super::error::ApiError;

/// Thumbnails of data sets come as `data:` in JSON.
const POLICY: &str =
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

#[derive(RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/static"]
#[allow_missing = true]
struct Dashboard;

/// Installed by `npm ci`.
#[derive(RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/node_modules/uplot/dist"]
#[allow_missing = true]
struct Uplot;

/// Handles every path that is not a route of the API.
pub fn service() -> impl Service<Request, Response: IntoResponse, Error = Infallible, Future: Send> + Clone + Send + Sync
{
    CompressionLayer::new().layer(serve.into_service())
}

async fn serve(request: Request) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let file = find(path).filter(|_| matches!(*request.method(), Method::GET | Method::HEAD));
    let Some((content_type, file)) = file else {
        let shown: String = path.chars().take(100).collect();
        return Err(ApiError::not_found(format!("there is nothing at {shown}: see /docs for the API")));
    };
    let etag = cached::etag(&file.metadata.sha256_hash());
    let headers =
        [(CONTENT_TYPE, content_type.as_str()), (CONTENT_SECURITY_POLICY, POLICY), (REFERRER_POLICY, "no-referrer")];
    let body = match file.data {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    Ok(cached::respond(request.headers(), &etag, headers, body))
}

/// The content type and the file at a path.
fn find(path: &str) -> Option<(String, EmbeddedFile)> {
    let name = match path.strip_prefix('/')? {
        "" => "index.html",
        name => name,
    };
    let file = match name.strip_prefix("vendor/uplot/") {
        Some(name) => Uplot::get(name),
        None => Dashboard::get(name),
    }?;
    let kind = file.metadata.mimetype();
    let is_text = kind.starts_with("text/") && !kind.contains("charset");
    Some((if is_text { format!("{kind}; charset=utf-8") } else { kind.to_owned() }, file))
}
