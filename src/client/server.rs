//! Requests to a server: address, token, timeouts, repetitions, and the meaning of refusals.

use std::error::Error as _;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;

use super::error::{DocumentFault, Error};
use super::text::{indented, plain};
use super::token;
use crate::cli::ConnectionArgs;
use distillery_core::tell;

/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// Largest answer that is read into memory, in bytes: a page of jobs may have megabytes.
const LARGEST_ANSWER: usize = 256 << 20;
/// Largest refusal that is read, in bytes.
const LARGEST_REFUSAL: usize = 4 << 20;
/// Most times that a request is sent.
const TRIES: u32 = 4;
/// Longest wait before a request is sent again, whatever the server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Longest text of an answer that is no problem document.
const LONGEST_EXCERPT: usize = 200;

/// Sends requests to one server, with this user's token.
#[derive(Debug)]
pub struct ApiClient {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
    /// Longest time without a byte before the server is considered unreachable.
    pub patience: Duration,
    /// How long to try to connect again after a lost connection.
    pub reconnect: Duration,
}

impl ApiClient {
    /// Sends nothing yet.
    ///
    /// # Errors
    /// The address or the token cannot be used.
    pub fn new(args: &ConnectionArgs) -> Result<Self, Error> {
        let base = address(&args.url)?;
        let token = token::find(args.token_file.as_deref())?;
        crate::artifacts::install_tls_provider();
        let builder = reqwest::Client::builder()
            .connect_timeout(CONNECT.min(Duration::from_secs(args.timeout)))
            .user_agent(concat!("distillery/", env!("CARGO_PKG_VERSION")))
            // A redirect would turn a POST into a GET.
            .redirect(reqwest::redirect::Policy::none());
        // For a proxy, the loopback address is another machine.
        let builder = if is_loopback(&base) { builder.no_proxy() } else { builder };
        let http = builder.build().map_err(anyhow::Error::from)?;
        let (patience, reconnect) = (Duration::from_secs(args.timeout), Duration::from_secs(args.reconnect));
        Ok(Self { http, base, token, patience, reconnect })
    }

    /// The server's address with these path segments.
    #[must_use]
    pub fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// The address of a page of the dashboard.
    #[must_use]
    pub fn page(&self, fragment: &str) -> Url {
        let mut url = self.url(&[""]);
        url.set_fragment(Some(fragment));
        url
    }

    pub fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let request = self.http.request(method, self.url(path));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request once, and waits for the head of the answer, which must be a success.
    ///
    /// # Errors
    /// The server refuses the request or cannot be reached, or no answer begins in time.
    pub async fn send_once(&self, request: RequestBuilder, patience: Duration) -> Result<Response, Error> {
        match tokio::time::timeout(patience, request.send()).await {
            Ok(Ok(response)) => self.accepted(response).await,
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Err(_) => Err(self.silent(patience)),
        }
    }

    /// Like [`send_once`](Self::send_once), but sends the request again if the server asks for that or the connection
    /// breaks. Only for requests that may be repeated.
    ///
    /// # Errors
    /// As for `send_once`.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let mut wait = Duration::from_millis(500);
        let mut left = TRIES;
        loop {
            left -= 1;
            let Some(again) = request.try_clone().filter(|_| left > 0) else {
                return self.send_once(request, self.patience).await;
            };
            let failure = match self.send_once(again, self.patience).await {
                Err(failure @ Error::Unreachable { is_final: false, .. }) => failure,
                // If nobody listens there, scripts want to know that soon.
                answer => return answer,
            };
            let Error::Unreachable { detail, retry_after, .. } = failure else { return Err(failure) };
            let pause = retry_after.unwrap_or(wait).min(LONGEST_WAIT);
            tell!("{}; trying again in {:.1} s", indented(&detail, 2), pause.as_secs_f64());
            tokio::time::sleep(pause).await;
            wait *= 2;
        }
    }

    /// `GET`: a JSON document.
    ///
    /// # Errors
    /// As for [`send`](Self::send), or the answer is not JSON.
    pub async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Error> {
        let response = self.send(self.request(Method::GET, path).query(query)).await?;
        self.json(response).await
    }

    /// `GET /v1/jobs/{id}`.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub async fn job(&self, id: &str) -> Result<Value, Error> {
        self.get(&["v1", "jobs", id], &[]).await
    }

    /// The JSON document of an answer.
    ///
    /// # Errors
    /// It is something else, too large, or does not arrive.
    pub async fn json(&self, response: Response) -> Result<Value, Error> {
        let kind = content_type(&response);
        let body = self.body(response, LARGEST_ANSWER).await?;
        serde_json::from_slice(&body).map_err(|_| {
            let kind = if kind.is_empty() { "something".to_owned() } else { plain(&kind) };
            Error::unreachable(format!(
                "{} answers with {kind} instead of JSON: is that the address of a distillery server?",
                self.base
            ))
        })
    }

    /// The next chunk of a body; `None` at its end.
    ///
    /// # Errors
    /// The connection breaks, or no byte comes in time.
    pub async fn piece(&self, response: &mut Response, patience: Duration) -> Result<Option<Bytes>, Error> {
        match tokio::time::timeout(patience, response.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(error)) => {
                Err(Error::unreachable(format!("the connection to {} was lost: {}", self.base, causes(&error))))
            }
            Err(_) => Err(self.silent(patience)),
        }
    }

    async fn body(&self, mut response: Response, limit: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(&mut response, self.patience).await? {
            if body.len() + piece.len() > limit {
                return Err(Error::unreachable(format!("an answer of {} has more than {limit} bytes", self.base)));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// The error for a server that sent nothing for `patience`.
    #[must_use]
    pub fn silent(&self, patience: Duration) -> Error {
        let seconds = patience.as_secs_f64();
        let detail = format!("{} sent nothing for {seconds} s (--timeout)", self.base);
        Error::Unreachable { detail, retry_after: None, is_final: true }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        let (base, causes) = (&self.base, causes(error));
        let is_final = error.is_connect();
        let detail = if is_final {
            format!("cannot reach {base}: {causes}. Is the server running, and is its address right (DISTILLERY_URL)?")
        } else {
            format!("the connection to {base} was lost: {causes}")
        };
        Error::Unreachable { detail, retry_after: None, is_final }
    }

    /// Returns a successful answer, and turns any other into an error.
    async fn accepted(&self, response: Response) -> Result<Response, Error> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status.is_redirection() {
            let target = response.headers().get(LOCATION).and_then(|target| target.to_str().ok()).unwrap_or("nowhere");
            return Err(Error::Usage(format!(
                "{} redirects to {}: set DISTILLERY_URL to the address at which the server answers itself",
                self.base,
                plain(target)
            )));
        }
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = header.map(Duration::from_secs);
        let (detail, faults) = self.refusal(response).await;
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Access(self.access_hint(detail)),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Error::Unreachable { detail, retry_after, is_final: false }
            }
            status if status.is_server_error() => Error::Unreachable { detail, retry_after, is_final: false },
            status => Error::Refused { status: status.as_u16(), detail, faults },
        })
    }

    fn access_hint(&self, detail: String) -> String {
        match self.token {
            Some(_) => detail,
            None => {
                format!("{detail}. Put the token into DISTILLERY_TOKEN, or into a file of mode 0600 (--token-file)")
            }
        }
    }

    /// The detail and faults of a problem document, or the beginning of any other answer.
    async fn refusal(&self, response: Response) -> (String, Vec<DocumentFault>) {
        let (status, base) = (response.status(), &self.base);
        let body = self.body(response, LARGEST_REFUSAL).await.unwrap_or_default();
        let problem = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        let Some(detail) = problem["detail"].as_str() else {
            let text: String = String::from_utf8_lossy(&body).chars().take(LONGEST_EXCERPT).collect();
            let text = plain(&text.split_whitespace().collect::<Vec<_>>().join(" "));
            return (format!("{base} answers {status}, and not as a distillery server does: {text}"), Vec::new());
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let fault = |fault: &Value| DocumentFault { pointer: text(&fault["pointer"]), detail: text(&fault["detail"]) };
        (detail.to_owned(), problem["errors"].as_array().into_iter().flatten().map(fault).collect())
    }
}

fn address(text: &str) -> Result<Url, Error> {
    let wrong = |reason: &str| {
        Error::Usage(format!("{text:?} is not the address of a server ({reason}): expected http://… or https://…"))
    };
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(wrong("it begins otherwise"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // The address is not shown, because it has a secret.
        return Err(Error::Usage(
            "the server's address has a password: put the token into DISTILLERY_TOKEN".to_owned(),
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a query or a fragment"));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

fn content_type(response: &Response) -> String {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

/// The innermost cause of an error: the outer ones only repeat the address.
fn causes(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    let mut innermost = error.to_string();
    while let Some(error) = cause {
        innermost = error.to_string();
        cause = error.source();
    }
    plain(&innermost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_that_of_a_server_without_secrets() {
        for right in ["http://localhost:8080", "https://distillery.example/base/", "http://[::1]:80"] {
            assert!(address(right).is_ok(), "{right}");
        }
        for wrong in ["localhost:8080", "ftp://localhost", "", "http://", "http://host/?a=b", "/v1"] {
            assert!(matches!(address(wrong), Err(Error::Usage(_))), "{wrong}");
        }
        let Err(error) = address("http://ada:secret@host") else { panic!("a password is refused") };
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn loopback_needs_no_proxy() {
        let is_loopback = |text: &str| is_loopback(&Url::parse(text).expect("an address"));
        assert!(["http://localhost:1", "http://127.0.0.1", "http://[::1]:8080"].into_iter().all(is_loopback));
        assert!(!["http://10.0.0.1", "http://example.org", "http://[2001:db8::1]"].into_iter().any(is_loopback));
    }
}
