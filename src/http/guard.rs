//! Keeps other web sites out: a page in the user's browser can send requests to an API on the same machine.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::Response;

use super::error::ApiError;

/// What this server answers to.
#[derive(Debug, Clone, Copy)]
pub struct Guard {
    /// The address that it listens at, where only this machine can reach it.
    loopback: Option<IpAddr>,
}

impl Guard {
    /// For a listener.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self { loopback: Some(listen.ip()).filter(IpAddr::is_loopback) }
    }

    /// Whether somebody who means this server would call it so. A name of the attacker's own that leads to 127.0.0.1
    /// (DNS rebinding) is not among them.
    fn is_ours(self, host: &str) -> bool {
        let Some(listen) = self.loopback else { return true };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip == listen || ip.is_loopback())
    }

    fn refuse(self, request: &Request) -> Option<&'static str> {
        let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        let host = header(HOST).filter(|host| !host.contains('@')).and_then(|host| host.parse::<Authority>().ok());
        let host = host.or_else(|| request.uri().authority().cloned());
        if !host.as_ref().is_some_and(|host| self.is_ours(host.host())) {
            return Some(
                "the Host header names another host: on a loopback address this server answers to localhost only; \
                 use --listen to serve others",
            );
        }
        // Browsers send Origin with every request of another site that could change something.
        let origin = header(ORIGIN).filter(|_| !request.method().is_safe())?;
        let origin = origin.split_once("://").and_then(|(_, origin)| origin.parse::<Authority>().ok());
        (origin != host).then_some("the request comes from a page of another site")
    }
}

/// Refuses what is meant for another host and what another site's page sent.
pub async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Result<Response, ApiError> {
    match guard.refuse(&request) {
        Some(reason) => Err(ApiError::Forbidden(reason.into())),
        None => Ok(next.run(request).await),
    }
}
