//! Tokens: who may do what, and how often. Requests need one once a token was made, even if all are revoked by now, or
//! if the server is reachable from other machines, by its listener or through a proxy.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::{HeaderMap, Method, Version};
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use sqlx::PgPool;
use tokio_util::task::AbortOnDropHandle;

use super::error::ApiError;
use super::{ServerSettings, origin};
use crate::db::tokens::{self, Scope};

/// How long a token's scope is cached by default. A revoked token is refused after that at the latest.
pub const TOKEN_MEMORY: Duration = Duration::from_secs(5);
/// How long the cache is trusted while the database is down, so that `/metrics` can report that.
const OUTAGE_TOKEN_MEMORY: Duration = Duration::from_secs(600);
/// How long asking whether there is a token may take, if the last answer was no: the database may be down.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
/// Shortest time between two checks of a token while one of its requests goes on.
const SHORTEST_RECHECK: Duration = Duration::from_millis(100);
/// Size of the cache, in tokens.
const MOST_CACHED: usize = 1000;
pub const COOKIE_NAME: &str = "distillery_token";

#[derive(Clone)]
pub struct Gate {
    pool: PgPool,
    /// Whether only this machine can reach the listener, and no proxy serves others.
    loopback: bool,
    /// SHA-256 of the token from the operator's environment.
    admin: Option<[u8; 32]>,
    cached_for: Duration,
    cache: Arc<Mutex<TokenCache>>,
    /// By token. Only valid tokens get this far, so strangers cannot fill it.
    rates: Arc<RateLimiter<[u8; 32], HashMapStateStore<[u8; 32]>, DefaultClock>>,
    /// Held while the token of a stream is checked again, so that a thousand streams ask the database once.
    rechecking: Arc<tokio::sync::Mutex<()>>,
}

/// The parts of a request that decide whether it is let in.
#[derive(Debug, Clone, Copy)]
pub struct Credentials {
    /// SHA-256 of its token.
    pub token: Option<[u8; 32]>,
    /// Whether a proxy passed it on, for anybody.
    is_forwarded: bool,
}

impl Credentials {
    pub fn of(version: Version, headers: &HeaderMap) -> Self {
        Self { token: token(headers).map(tokens::hash), is_forwarded: origin::is_forwarded(version, headers) }
    }

    fn of_request(request: &Request) -> Self {
        Self::of(request.version(), request.headers())
    }
}

#[derive(Default)]
struct TokenCache {
    /// Whether a token was ever made. Once true, it stays true.
    any: Option<(bool, Instant)>,
    valid: HashMap<[u8; 32], (Scope, Instant)>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Gate").field("loopback", &self.loopback).finish_non_exhaustive()
    }
}

impl Gate {
    #[must_use]
    pub fn new(pool: PgPool, settings: &ServerSettings) -> Self {
        let quota = Quota::per_second(settings.requests_per_second);
        Self {
            pool,
            loopback: settings.listen.ip().is_loopback() && settings.public_url.is_none(),
            admin: settings.admin_token,
            cached_for: settings.token_memory,
            cache: Arc::default(),
            rates: Arc::new(RateLimiter::hashmap(quota)),
            rechecking: Arc::default(),
        }
    }

    /// Limits the rate of a token, so that a runaway loop does not lock others out.
    fn limit_rate(&self, credentials: Credentials) -> Result<(), ApiError> {
        let Some(token) = credentials.token else { return Ok(()) };
        self.rates.check_key(&token).map_err(|refused| {
            let wait = refused.wait_time_from(DefaultClock::default().now());
            ApiError::RateLimited(wait.as_secs() + 1)
        })
    }

    /// Whether such a request needs a token. The first token counts at once.
    pub async fn is_closed(&self, credentials: Credentials) -> Result<bool, ApiError> {
        self.is_closed_after(credentials, Duration::ZERO).await
    }

    /// The same, but an earlier answer that there was no token holds for `open_for`.
    async fn is_closed_after(&self, credentials: Credentials, open_for: Duration) -> Result<bool, ApiError> {
        if !self.loopback || self.admin.is_some() || credentials.is_forwarded {
            return Ok(true);
        }
        let cached = self.cache(|cache| cache.any);
        if let Some((true, _)) = cached {
            return Ok(true);
        }
        if fresh(cached, open_for).is_some() {
            return Ok(false);
        }
        let look = tokens::any_ever(&self.pool);
        let remembered = fresh(cached, OUTAGE_TOKEN_MEMORY);
        let found = match remembered {
            Some(any) => match tokio::time::timeout(LOOK_PATIENCE, look).await {
                Ok(found) => found,
                Err(_) => return Ok(any),
            },
            None => look.await,
        };
        match found {
            Ok(any) => {
                self.cache(|cache| {
                    // Another request may have found the first token meanwhile.
                    if cache.any.is_none_or(|(known, _)| !known) {
                        cache.any = Some((any, Instant::now()));
                    }
                });
                Ok(any)
            }
            Err(error) => remembered.ok_or_else(|| error.into()),
        }
    }

    /// The scope of a request's token; `None` without a valid token.
    pub async fn scope(&self, credentials: Credentials) -> Result<Option<Scope>, ApiError> {
        let Some(sha256) = credentials.token else { return Ok(None) };
        if self.admin == Some(sha256) {
            return Ok(Some(Scope::Admin));
        }
        let cached = self.cache(|cache| cache.valid.get(&sha256).copied());
        if let Some(scope) = fresh(cached, self.cached_for) {
            return Ok(Some(scope));
        }
        let found = match tokens::scope_of(&self.pool, &sha256).await {
            Ok(found) => found,
            Err(error) => return fresh(cached, OUTAGE_TOKEN_MEMORY).map(Some).ok_or_else(|| error.into()),
        };
        self.cache(|cache| {
            if cache.valid.len() >= MOST_CACHED {
                cache.valid.clear();
            }
            match found {
                Some(scope) => drop(cache.valid.insert(sha256, (scope, Instant::now()))),
                None => drop(cache.valid.remove(&sha256)),
            }
        });
        Ok(found)
    }

    /// Refuses a request whose token does not allow it. Returns whether it needed one.
    async fn admit(&self, credentials: Credentials, needed: Scope) -> Result<bool, ApiError> {
        self.admit_after(credentials, needed, Duration::ZERO).await
    }

    /// The same, but an earlier answer that there was no token holds for `open_for`.
    async fn admit_after(&self, credentials: Credentials, needed: Scope, open_for: Duration) -> Result<bool, ApiError> {
        if !self.is_closed_after(credentials, open_for).await? {
            return Ok(false);
        }
        match self.scope(credentials).await? {
            None if self.loopback && credentials.is_forwarded => Err(ApiError::Unauthorized(
                "this server needs a valid token from requests that a proxy passed on, as this one's HTTP/1.0 or a header \
                 such as X-Forwarded-For says: send `Authorization: Bearer …`. Its operator makes one with `distillery \
                 token create`"
                    .into(),
            )),
            None => Err(unauthorized()),
            Some(scope) if scope < needed => Err(ApiError::Forbidden(
                format!("this needs a token with scope {}; yours has scope {}", needed.name(), scope.name()).into(),
            )),
            Some(_) => Ok(true),
        }
    }

    /// Returns once a request that was let in would be refused. An outage of the database refuses nobody.
    async fn until_refused(self, credentials: Credentials, needed: Scope) -> ApiError {
        loop {
            tokio::time::sleep(self.cached_for.max(SHORTEST_RECHECK)).await;
            let _one_at_a_time = self.rechecking.lock().await;
            if let Err(refusal @ (ApiError::Unauthorized(_) | ApiError::Forbidden(_))) =
                self.admit_after(credentials, needed, self.cached_for).await
            {
                return refusal;
            }
        }
    }

    fn cache<T>(&self, act: impl FnOnce(&mut TokenCache) -> T) -> T {
        // Consistent between any two statements, so a panic elsewhere does not corrupt it.
        act(&mut self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A cached value, unless it is too old.
fn fresh<T>(cached: Option<(T, Instant)>, age: Duration) -> Option<T> {
    cached.filter(|(_, at)| at.elapsed() < age).map(|(value, _)| value)
}

/// The token of a request: a header from programs, a cookie from the dashboard, whose streams and links cannot send
/// headers. Requests from other sites' pages lack the cookie (`SameSite=Strict`).
pub fn token(headers: &HeaderMap) -> Option<&str> {
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

/// The scope that a method requires, on any resource.
fn needed(method: &Method) -> Scope {
    match *method {
        Method::DELETE => Scope::Admin,
        _ if method.is_safe() => Scope::Read,
        _ => Scope::Submit,
    }
}

/// Refuses requests whose token does not allow them.
pub async fn check(State(gate): State<Gate>, request: Request, next: Next) -> Result<Response, ApiError> {
    let (credentials, needed) = (Credentials::of_request(&request), needed(request.method()));
    if gate.admit(credentials, needed).await? {
        gate.limit_rate(credentials)?;
    }
    Ok(next.run(request).await)
}

/// Like [`check`], for streams, downloads and uploads: what takes long ends once its token no longer allows it.
pub async fn check_throughout(State(gate): State<Gate>, request: Request, next: Next) -> Result<Response, ApiError> {
    let (credentials, needed) = (Credentials::of_request(&request), needed(request.method()));
    if gate.admit(credentials, needed).await? {
        gate.limit_rate(credentials)?;
    }
    // In a task of its own: the checks take turns, and nothing polls a body whose client does not read.
    let mut refused = AbortOnDropHandle::new(tokio::spawn(gate.until_refused(credentials, needed)));
    let response = tokio::select! {
        response = next.run(request) => response,
        refusal = &mut refused => return Err(refusal.map_err(anyhow::Error::from)?),
    };
    if response.body().size_hint().exact().is_some() {
        return Ok(response);
    }
    Ok(response.map(|body| Body::from_stream(body.into_data_stream().take_until(refused))))
}

pub fn unauthorized() -> ApiError {
    ApiError::Unauthorized(
        "this server needs a valid token: send `Authorization: Bearer …`. Its operator makes one with `distillery token \
         create`"
            .into(),
    )
}
