//! Lets nobody in without a token, once there is one or once the listener can be reached from elsewhere.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::ToSchema;

use super::error::ApiError;
use super::{AppState, Settings};
use crate::jobs::tokens::{self, Scope};

/// So long a token's validity is remembered: one that is revoked is refused after that at the latest.
pub const TOKEN_MEMORY: Duration = Duration::from_secs(5);
/// So long what was true before is taken for true while the database is away, so that `/metrics` can tell that it is.
const WHILE_AWAY: Duration = Duration::from_secs(600);
/// So many tokens are remembered.
const REMEMBERED: usize = 1000;
/// The browser's copy, which no script can read.
const COOKIE_NAME: &str = "distillery_token";

/// Who may do what.
#[derive(Clone)]
pub struct Gate {
    pool: PgPool,
    /// Whether only this machine can reach the listener.
    loopback: bool,
    /// Hash of a token that the operator gave by the environment.
    admin: Option<[u8; 32]>,
    memory: Arc<Mutex<Memory>>,
    /// By token. Only valid ones get so far, so that strangers cannot fill it.
    rates: Arc<RateLimiter<[u8; 32], HashMapStateStore<[u8; 32]>, DefaultClock>>,
}

#[derive(Default)]
struct Memory {
    /// Whether there is any token.
    any: Option<(bool, Instant)>,
    valid: HashMap<[u8; 32], (Scope, Instant)>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Gate").field("loopback", &self.loopback).finish_non_exhaustive()
    }
}

impl Gate {
    /// For a listener.
    #[must_use]
    pub fn new(pool: PgPool, settings: &Settings) -> Self {
        let quota = Quota::per_second(settings.requests_per_second);
        Self {
            pool,
            loopback: settings.listen.ip().is_loopback(),
            admin: settings.admin_token,
            memory: Arc::default(),
            rates: Arc::new(RateLimiter::hashmap(quota)),
        }
    }

    /// Refuses a token that asks too often: a loop that went wrong must not keep others out.
    fn slow_down(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(token) = token(headers) else { return Ok(()) };
        self.rates.check_key(&tokens::hash(token)).map_err(|refused| {
            let wait = refused.wait_time_from(DefaultClock::default().now());
            ApiError::TooMany(wait.as_secs() + 1)
        })
    }

    /// Whether requests need a token.
    async fn is_closed(&self) -> Result<bool, ApiError> {
        if !self.loopback || self.admin.is_some() {
            return Ok(true);
        }
        let remembered = self.memory(|memory| memory.any);
        if let Some(any) = younger(remembered, TOKEN_MEMORY) {
            return Ok(any);
        }
        match tokens::any(&self.pool).await {
            Ok(any) => {
                self.memory(|memory| memory.any = Some((any, Instant::now())));
                Ok(any)
            }
            Err(error) => younger(remembered, WHILE_AWAY).ok_or_else(|| error.into()),
        }
    }

    /// What the bearer of a request may do; none where it has no valid token.
    async fn scope(&self, headers: &HeaderMap) -> Result<Option<Scope>, ApiError> {
        let Some(token) = token(headers) else { return Ok(None) };
        let sha256 = tokens::hash(token);
        if self.admin == Some(sha256) {
            return Ok(Some(Scope::Admin));
        }
        let remembered = self.memory(|memory| memory.valid.get(&sha256).copied());
        if let Some(scope) = younger(remembered, TOKEN_MEMORY) {
            return Ok(Some(scope));
        }
        let found = match tokens::scope_of(&self.pool, &sha256).await {
            Ok(found) => found,
            Err(error) => return younger(remembered, WHILE_AWAY).map(Some).ok_or_else(|| error.into()),
        };
        self.memory(|memory| {
            if memory.valid.len() >= REMEMBERED {
                memory.valid.clear();
            }
            match found {
                Some(scope) => drop(memory.valid.insert(sha256, (scope, Instant::now()))),
                None => drop(memory.valid.remove(&sha256)),
            }
        });
        Ok(found)
    }

    fn memory<T>(&self, act: impl FnOnce(&mut Memory) -> T) -> T {
        // Whole between any two statements, so that a panic elsewhere does not spoil it.
        act(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What was remembered, unless it is too old.
fn younger<T>(remembered: Option<(T, Instant)>, age: Duration) -> Option<T> {
    remembered.filter(|(_, at)| at.elapsed() < age).map(|(what, _)| what)
}

/// The token of a request: a header for programs, a cookie for the dashboard, whose streams and links cannot send headers.
/// What another site's page sends has no such cookie (`SameSite=Strict`).
fn token(headers: &HeaderMap) -> Option<&str> {
    if let Some(authorization) = headers.get(AUTHORIZATION) {
        let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim());
    }
    let cookies = headers.get_all(COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    cookies.flat_map(|cookies| cookies.split(';')).find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == COOKIE_NAME).then_some(value)
    })
}

/// What a method needs, whatever the resource.
fn needed(method: &Method) -> Scope {
    match *method {
        Method::DELETE => Scope::Admin,
        _ if method.is_safe() => Scope::Read,
        _ => Scope::Submit,
    }
}

/// Refuses requests without a token that allows them.
pub async fn check(State(gate): State<Gate>, request: Request, next: Next) -> Result<Response, ApiError> {
    if gate.is_closed().await? {
        let needed = needed(request.method());
        match gate.scope(request.headers()).await? {
            None => return Err(unauthorized()),
            Some(scope) if scope < needed => {
                return Err(ApiError::Forbidden(
                    format!("this needs a token of scope {}, and yours has {}", needed.name(), scope.name()).into(),
                ));
            }
            Some(_) => gate.slow_down(request.headers())?,
        }
    }
    Ok(next.run(request).await)
}

fn unauthorized() -> ApiError {
    ApiError::Unauthorized(
        "this server needs a valid token: send `Authorization: Bearer …`. Its operator makes one with `distillery token \
         create`"
            .into(),
    )
}

/// Who is asking.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Whether this server needs a token.
    pub required: bool,
    /// What the token that was sent may do; everything where none is needed.
    pub scope: Option<Scope>,
}

/// Who am I
#[utoipa::path(get, path = "/v1/session", tag = "server", operation_id = "get_session",
    responses((status = 200, body = Session)))]
pub async fn get(State(state): State<AppState>, headers: HeaderMap) -> Result<Json<Session>, ApiError> {
    let required = state.gate.is_closed().await?;
    let scope = if required { state.gate.scope(&headers).await? } else { Some(Scope::Admin) };
    Ok(Json(Session { required, scope }))
}

/// Sign in
///
/// Puts the token of the Authorization header into a cookie that no script can read, for the dashboard.
#[utoipa::path(post, path = "/v1/session", tag = "server", operation_id = "sign_in",
    responses((status = 204, headers(("Set-Cookie" = String, description = "The token")))))]
pub async fn sign_in(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let token = token(&headers).unwrap_or_default();
    // A cookie's value has no spaces, quotes, commas or semicolons; neither has a token.
    if !tokens::is_plain(token) || state.gate.scope(&headers).await?.is_none() {
        return Err(unauthorized());
    }
    Ok(with_cookie(&headers, token, 30 * 24 * 3600))
}

/// Sign out
#[utoipa::path(delete, path = "/v1/session", tag = "server", operation_id = "sign_out",
    responses((status = 204, headers(("Set-Cookie" = String, description = "Nothing")))))]
pub async fn sign_out(headers: HeaderMap) -> Response {
    with_cookie(&headers, "", 0)
}

fn with_cookie(headers: &HeaderMap, token: &str, seconds: u32) -> Response {
    // Behind a proxy that speaks TLS the cookie must not travel without.
    let secure = headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes() == b"https");
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE_NAME}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Ok(mut cookie) = HeaderValue::try_from(cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}
