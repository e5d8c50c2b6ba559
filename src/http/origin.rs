//! Refuses requests from other web sites: any page in the user's browser can send requests to an API on this machine.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::Response;

use super::error::ApiError;

#[derive(Debug, Clone, Copy)]
pub struct Guard {
    /// The listener's address, if only this machine can reach it.
    loopback: Option<IpAddr>,
}

impl Guard {
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self { loopback: Some(listen.ip()).filter(IpAddr::is_loopback) }
    }

    /// Whether a `Host` is a legitimate name of this server. An attacker's domain that resolves to 127.0.0.1 (DNS
    /// rebinding) is not.
    fn is_ours(self, host: &str) -> bool {
        let Some(listen) = self.loopback else { return true };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip == listen || ip.is_loopback())
    }

    /// Why a request is refused, if it is.
    fn refusal(self, request: &Request) -> Option<&'static str> {
        let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        let host = header(HOST).filter(|host| !host.contains('@')).and_then(|host| host.parse::<Authority>().ok());
        let host = host.or_else(|| request.uri().authority().cloned());
        if !host.as_ref().is_some_and(|host| self.is_ours(host.host())) {
            return Some(
                "the Host header names another host: on a loopback address this server accepts localhost only; use --listen \
                 to serve other machines",
            );
        }
        // Browsers send Origin with every cross-site request that could change something.
        let origin = header(ORIGIN).filter(|_| !request.method().is_safe())?;
        let origin = origin.split_once("://").and_then(|(_, origin)| origin.parse::<Authority>().ok());
        (origin != host).then_some("the request comes from another site's page")
    }
}

/// Refuses requests for another host, and requests from other sites' pages.
pub async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Result<Response, ApiError> {
    match guard.refusal(&request) {
        Some(reason) => Err(ApiError::Forbidden(reason.into())),
        None => Ok(next.run(request).await),
    }
}
