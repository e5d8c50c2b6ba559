//! Answers that browsers cache and revalidate: with an entity tag, and 304 for a client that has the content.

use axum::body::Bytes;
use axum::http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

/// The entity tag of content with this hash. Weak, because the same content is also sent compressed.
pub fn etag(sha256: &[u8]) -> String {
    format!("W/\"{}\"", hex::encode(&sha256[..16]))
}

/// The content, or 304 if the client has it. `headers` go with both.
pub fn respond(
    asked: &HeaderMap,
    etag: &str,
    headers: impl axum::response::IntoResponseParts,
    body: Bytes,
) -> Response {
    let known = asked.get(IF_NONE_MATCH).and_then(|known| known.to_str().ok()).unwrap_or_default();
    let is_known = known.split(',').map(str::trim).any(|known| known == "*" || known == etag);
    let caching = [(ETAG, etag), (CACHE_CONTROL, "no-cache")];
    if is_known {
        return (StatusCode::NOT_MODIFIED, caching, headers, ()).into_response();
    }
    (caching, headers, body).into_response()
}
