//! Promise: behind a proxy, browsers can sign in at the public address, and nobody passes for this machine's user.

use std::process::Stdio;

use crate::support::api::{Answer, Api, plain_job};
use crate::support::process::{Process, distillery};
use distillery::db::tokens::{self, Scope};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PUBLIC: &str = "https://distillery.example";
const SECRET: &str = "dst_of_a_test_behind_a_proxy";

async fn behind_a_proxy() -> Api {
    let api = Api::start_with(|settings| settings.public_url = Some(PUBLIC.parse().unwrap())).await;
    tokens::create(&api.db.pool, "a test", Scope::Submit, &tokens::hash(SECRET)).await.unwrap();
    api
}

async fn send(api: &Api, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = api.request(method, path).json(&plain_job());
    api.send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

#[tokio::test]
async fn a_request_that_a_proxy_passed_on_is_not_this_machines() {
    let api = Api::start().await;
    for (name, value) in [
        ("forwarded", "for=203.0.113.7;proto=https"),
        ("via", "1.1 proxy.example"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "localhost"),
        ("x-forwarded-proto", "http"),
        ("x-real-ip", "127.0.0.1"),
    ] {
        let says = ["needs a valid token", "that a proxy passed on", "distillery token create"];
        send(&api, Method::GET, "/v1/jobs", &[(name, value)]).await.says(401, &says);
        send(&api, Method::POST, "/v1/jobs", &[(name, value)]).await.problem(401);
        send(&api, Method::GET, "/v1/stream", &[(name, value)]).await.problem(401);
        let session = send(&api, Method::GET, "/v1/session", &[(name, value)]).await.expect(200);
        assert_eq!(session, json!({"required": true, "scope": null}), "{name}");
    }
    // Who uses the machine itself still needs none.
    send(&api, Method::POST, "/v1/jobs", &[]).await.expect(201);
}

/// What the server answers to a request of HTTP/1.0 without a header of a proxy, as nginx passes it on by default.
async fn of_version_1_0(api: &Api, method: &str, path: &str) -> String {
    let address = api.url.strip_prefix("http://").unwrap();
    let body = plain_job().to_string();
    let mut connection = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_request_of_an_old_version_is_taken_for_one_that_a_proxy_passed_on() {
    let api = Api::start().await;
    for (method, path) in [("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/v1/stream"), ("GET", "/metrics")] {
        let answer = of_version_1_0(&api, method, path).await;
        let status = answer.split(' ').nth(1);
        let is_told = answer.contains("needs a valid token") && answer.contains("HTTP/1.0 or a header");
        assert!(status == Some("401") && is_told, "{method} {path}: {answer}");
    }
    let session = of_version_1_0(&api, "GET", "/v1/session").await;
    assert!(session.ends_with(r#"{"required":true,"scope":null}"#), "{session}");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(of_version_1_0(&api, "GET", path).await.split(' ').nth(1), Some("200"), "{path}");
    }
    api.job().await;
}

#[tokio::test]
async fn browsers_sign_in_at_the_public_address_whatever_host_the_proxy_passes_on() {
    let api = behind_a_proxy().await;
    let token = format!("Bearer {SECRET}");
    let port = api.url.rsplit(':').next().unwrap().to_owned();
    let local = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    // The last is the name of a group of servers in nginx, which it passes on unless it is told otherwise.
    let others = ["distillery.example", "10.0.0.7:8080", "distillery_backend"];
    for host in local.into_iter().chain(others.map(str::to_owned)) {
        let headers = [("host", host.as_str()), ("origin", PUBLIC), ("authorization", &token)];
        let answer = send(&api, Method::POST, "/v1/session", &headers).await;
        assert_eq!(answer.status, 204, "{host}: {}", answer.text());
        assert!(answer.header("set-cookie").ends_with("; Secure"));
        let pair = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        let with_cookie = |origin| [("host", host.as_str()), ("origin", origin), ("cookie", pair.as_str())];
        send(&api, Method::POST, "/v1/jobs", &with_cookie(PUBLIC)).await.expect(201);
        for other in ["https://evil.example", "http://distillery.example:81", "null"] {
            send(&api, Method::POST, "/v1/jobs", &with_cookie(other))
                .await
                .says(403, &["another site", "--public-url"]);
        }
    }
    // Without a token, as from a page whose domain was made to resolve to this machine.
    let rebound = [("host", "evil.example"), ("origin", "http://evil.example")];
    for method in [Method::GET, Method::POST] {
        send(&api, method, "/v1/jobs", &rebound).await.says(401, &["needs a valid token"]);
    }
}

#[tokio::test]
async fn without_a_public_address_a_request_for_another_host_is_refused() {
    let api = Api::start().await;
    send(&api, Method::GET, "/v1/jobs", &[("host", "distillery_backend")]).await.says(403, &["--public-url"]);
}

#[tokio::test]
async fn with_a_public_address_every_request_needs_a_token_even_before_there_is_one() {
    let api = Api::start_with(|settings| settings.public_url = Some(PUBLIC.parse().unwrap())).await;
    // As a proxy that rewrites the host and adds nothing passes it on.
    send(&api, Method::GET, "/v1/jobs", &[]).await.problem(401);
    send(&api, Method::POST, "/v1/jobs", &[]).await.problem(401);
    assert_eq!(api.get("/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_behind_a_proxy_does_not_start_without_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let serve = |url: &str| {
        let mut command = distillery();
        command.args(["serve", "--listen", "127.0.0.1:0", "--workers", "0", "--public-url", url, "--data-dir"]);
        command.arg(dir.path().join("data"));
        command
    };
    let refused = serve(PUBLIC).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("is reachable from other machines"), "{said}");
    let refused = serve("https://example.com/distillery").output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("below a path"), "{said}");
    let mut command = serve(PUBLIC);
    command.env("DISTILLERY_ADMIN_TOKEN", "a-token-of-the-operator-0123456789-and-more").stdout(Stdio::piped());
    let mut server = Process::start(command);
    server.stdout().address().await.expect("the server starts");
    server.terminate().await;
}
