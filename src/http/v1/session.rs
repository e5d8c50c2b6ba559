//! `/v1/session`

use axum::Json;
use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::db::tokens::{self, Scope};
use crate::http::auth::{COOKIE_NAME, Credentials, token, unauthorized};
use crate::http::error::ApiError;
use crate::http::{AppState, PublicUrl};

const COOKIE_SECONDS: u32 = 30 * 24 * 3600;

/// Who is asking.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Whether this server requires a token.
    pub required: bool,
    /// Scope of the token that was sent; `admin` where none is required; null without a valid token.
    pub scope: Option<Scope>,
}

/// Get the session
#[utoipa::path(get, path = "/v1/session", tag = "server", operation_id = "get_session",
    responses((status = 200, body = Session)))]
pub async fn get(
    State(state): State<AppState>,
    version: Version,
    headers: HeaderMap,
) -> Result<Json<Session>, ApiError> {
    let credentials = Credentials::of(version, &headers);
    let required = state.gate.is_closed(credentials).await?;
    let scope = if required { state.gate.scope(credentials).await? } else { Some(Scope::Admin) };
    Ok(Json(Session { required, scope }))
}

/// Sign in
///
/// Stores the token from the Authorization header in a cookie for the dashboard. Scripts cannot read it.
#[utoipa::path(post, path = "/v1/session", tag = "server", operation_id = "sign_in",
    responses((status = 204, headers(("Set-Cookie" = String, description = "The token")))))]
pub async fn sign_in(
    State(state): State<AppState>,
    version: Version,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let token = token(&headers).unwrap_or_default();
    // A cookie's value contains no spaces, quotes, commas or semicolons. Neither does a token.
    if !tokens::is_plain(token) || state.gate.scope(Credentials::of(version, &headers)).await?.is_none() {
        return Err(unauthorized());
    }
    Ok(with_cookie(&state, &headers, token, COOKIE_SECONDS))
}

/// Sign out
#[utoipa::path(delete, path = "/v1/session", tag = "server", operation_id = "sign_out",
    responses((status = 204, headers(("Set-Cookie" = String, description = "An empty, expired cookie")))))]
pub async fn sign_out(State(state): State<AppState>, headers: HeaderMap) -> Response {
    with_cookie(&state, &headers, "", 0)
}

fn with_cookie(state: &AppState, headers: &HeaderMap, token: &str, seconds: u32) -> Response {
    // Behind a proxy that terminates TLS, the browser must send the cookie over TLS only.
    let secure = headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes() == b"https")
        || state.settings.public_url.as_ref().is_some_and(PublicUrl::is_secure);
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE_NAME}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Ok(mut cookie) = HeaderValue::try_from(cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}
