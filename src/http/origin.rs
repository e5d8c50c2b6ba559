//! Refuses requests from other web sites: any page in the user's browser can send requests to an API on this machine.
//! Knows the address that browsers use where a proxy is in front, and which requests a proxy passed on.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::{Authority, Uri};
use axum::http::{HeaderMap, Version};
use axum::middleware::Next;
use axum::response::Response;

use super::ServerSettings;
use super::error::ApiError;

/// What proxies add to the requests that they pass on. A client that sends one itself loses by it: it needs a token.
const FORWARDED: [&str; 8] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
];

/// Whether a proxy passed a request on, so that it may come from anywhere although its connection comes from here.
/// HTTP/1.0 is what nginx speaks to servers behind it unless it is told otherwise, and no client of today.
pub fn is_forwarded(version: Version, headers: &HeaderMap) -> bool {
    version < Version::HTTP_11 || FORWARDED.iter().any(|name| headers.contains_key(*name))
}

/// The address that browsers use: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    scheme: &'static str,
    /// In lower case.
    host: String,
    port: u16,
}

impl PublicUrl {
    pub fn is_secure(&self) -> bool {
        self.scheme == "https"
    }
}

impl FromStr for PublicUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected http://HOST or https://HOST, with :PORT if it has one, found {text:?}");
        let url: Uri = text.parse().map_err(|_| expected())?;
        let (scheme, usual) = match url.scheme_str() {
            Some("http") => ("http", 80),
            Some("https") => ("https", 443),
            _ => return Err(expected()),
        };
        let authority = url.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(expected)?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(format!("{} (the server cannot be below a path)", expected()));
        }
        let has_port = authority.as_str() != authority.host();
        let port = if has_port { authority.port_u16().ok_or_else(expected)? } else { usual };
        Ok(Self { scheme, host: authority.host().to_ascii_lowercase(), port })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

#[derive(Debug)]
pub struct Guard {
    /// The listener's address, if only this machine can reach it and no proxy serves others. A proxy may pass on any
    /// `Host`, and behind one every request needs a token, which a page at an attacker's domain does not have.
    loopback: Option<IpAddr>,
    /// The proxy's address for browsers, if there is one.
    public: Option<PublicUrl>,
}

impl Guard {
    #[must_use]
    pub fn new(settings: &ServerSettings) -> Self {
        let is_private = settings.listen.ip().is_loopback() && settings.public_url.is_none();
        let loopback = is_private.then_some(settings.listen.ip());
        Self { loopback, public: settings.public_url.clone() }
    }

    /// Whether a `Host` is a legitimate name of this server. An attacker's domain that resolves to 127.0.0.1 (DNS
    /// rebinding) is not.
    fn is_ours(&self, host: &str) -> bool {
        let Some(listen) = self.loopback else { return true };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip == listen || ip.is_loopback())
    }

    /// Why a request is refused, if it is.
    fn refusal(&self, request: &Request) -> Option<&'static str> {
        let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        let host = header(HOST).filter(|host| !host.contains('@')).and_then(|host| host.parse::<Authority>().ok());
        let host = host.or_else(|| request.uri().authority().cloned());
        if !host.as_ref().is_some_and(|host| self.is_ours(host.host())) {
            return Some(
                "the Host header names another host: on a loopback address this server accepts localhost only; use --listen \
                 to serve other machines, or --public-url for a proxy on this machine",
            );
        }
        // Browsers send Origin with every cross-site request that could change something.
        let origin = header(ORIGIN).filter(|_| !request.method().is_safe())?;
        if self.public.is_some() && origin.parse().ok() == self.public {
            return None;
        }
        let origin = origin.split_once("://").and_then(|(_, origin)| origin.parse::<Authority>().ok());
        (origin != host).then_some(
            "the request comes from another site's page. If a proxy is in front of this server, start it with \
             --public-url and the address that browsers use",
        )
    }
}

/// Refuses requests for another host, and requests from other sites' pages.
pub async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Result<Response, ApiError> {
    match guard.refusal(&request) {
        Some(reason) => Err(ApiError::Forbidden(reason.into())),
        None => Ok(next.run(request).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_an_origin_and_nothing_more() {
        let read = |text: &str| text.parse::<PublicUrl>().map(|url| url.to_string());
        for (text, url) in [
            ("https://Distillery.example", "https://distillery.example:443"),
            ("https://distillery.example/", "https://distillery.example:443"),
            ("http://10.0.0.7:8000", "http://10.0.0.7:8000"),
            ("http://[fd00::1]", "http://[fd00::1]:80"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(url));
        }
        for text in ["distillery.example", "ftp://distillery.example", "https://", "https://ada@distillery.example", ""]
        {
            assert!(read(text).unwrap_err().starts_with("expected http://HOST"), "{text}");
        }
        assert!(read("https://example.com/distillery").unwrap_err().contains("below a path"));
        assert!(read("https://distillery.example:99999").is_err());
    }
}
