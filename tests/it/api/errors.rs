//! Promise: every error is a problem document that says what to do.

use std::time::Duration;

use crate::support::PATIENCE;
use crate::support::api::{Answer, Api, checkpoint, plain_job};
use crate::support::db::{TestDb, postgres_options};
use distillery::db::embedded::Server;
use distillery::db::{self, tokens};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Executor;
use sqlx::postgres::PgPoolOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn post_text(api: &Api, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
    api.send(api.request(Method::POST, "/v1/jobs").header("content-type", content_type).body(body)).await
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused_with_the_reason() {
    let api = Api::start().await;
    post_text(&api, "application/json", "{\"name\": }").await.says(400, &["not JSON", "line 1 column 10"]);
    for empty in ["", " \n"] {
        post_text(&api, "application/json", empty).await.says(400, &["the body is empty"]);
    }
    post_text(&api, "application/json", &b"{\"name\": \"\xff\"}"[..]).await.says(400, &["not JSON"]);
    let deep = "[".repeat(100_000);
    post_text(&api, "application/json", deep).await.says(400, &["recursion limit"]);
    post_text(&api, "text/plain", "{}").await.says(415, &["content-type: application/json"]);
    api.ask("/v1/jobs").await.says(415, &["content-type: application/json"]);
    for kind in ["application/json; charset=utf-8", "application/merge-patch+json", "Application/JSON"] {
        let problem = post_text(&api, kind, "[]").await.problem(422);
        assert_eq!(problem["errors"], json!([{"pointer": "", "detail": "expected an object, found a list"}]));
    }
    let problem = post_text(&api, "application/json", "null").await.problem(422);
    assert_eq!(problem["errors"].as_array().unwrap().len(), 1, "{problem}");
}

#[tokio::test]
async fn a_body_above_a_mebibyte_is_refused_announced_or_not() {
    let api = Api::start().await;
    let body = format!("{{\"name\": \"{}\"}}", "x".repeat(1 << 20));
    post_text(&api, "application/json", body.clone()).await.says(413, &["1048576"]);
    let pieces = futures::stream::iter(
        body.into_bytes().chunks(10_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect::<Vec<_>>(),
    );
    post_text(&api, "application/json", reqwest::Body::wrap_stream(pieces)).await.says(413, &["1048576"]);
    let mut large = plain_job();
    large["name"] = json!("x".repeat(1_000_000));
    api.post("/v1/jobs", &large).await.says(422, &["/name"]);
}

#[tokio::test]
async fn bodies_that_do_not_come_keep_nobody_from_posting() {
    let api = Api::start().await;
    let address = api.url.strip_prefix("http://").unwrap();
    let mut slow = Vec::new();
    for number in 0..200 {
        let length = if number % 2 == 0 { "content-length: 1000000" } else { "transfer-encoding: chunked" };
        let mut connection = TcpStream::connect(address).await.unwrap();
        let head =
            format!("POST /v1/jobs HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n{length}\r\n\r\n");
        connection.write_all(head.as_bytes()).await.unwrap();
        slow.push(connection);
    }
    api.job().await;
    // One of many kibibytes too, which come in several pieces.
    let mut large = plain_job().to_string();
    large.insert_str(1, &" ".repeat(500_000));
    post_text(&api, "application/json", large).await.expect(201);
}

#[tokio::test]
async fn large_bodies_together_are_bounded_and_small_ones_go_on() {
    let api = Api::start().await;
    let address = api.url.strip_prefix("http://").unwrap();
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /v1/jobs HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             content-length: 1000000\r\n\r\n"
        );
        // Whoever is one too many is answered before all of it is sent.
        let _ = connection.write_all(&[head.as_bytes(), &[b' '; 999_000]].concat()).await;
        slow.push(connection);
    }
    let mut refused = 0;
    for connection in &mut slow {
        let mut status = [0; 12];
        let read = connection.read_exact(&mut status).await;
        // In the end all are refused: those that have room for not sending the rest.
        refused += usize::from(read.is_err() || &status == b"HTTP/1.1 503");
        api.job().await;
    }
    assert!((1..40).contains(&refused), "{refused}");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let api = Api::start().await;
    for path in ["/v1/job", "/v1/jobs/", "/v2/jobs", "/static/none.js", "/docs/none", "/v1/jobs/x/y/z", "/%ff", "//"] {
        api.get(path).await.problem(404);
    }
    api.ask("/nowhere").await.says(404, &["/docs"]);
    for (method, path, allowed) in [
        (Method::DELETE, "/v1/jobs", vec!["GET", "HEAD", "POST"]),
        (Method::PUT, "/v1/jobs/job_00000000000000000000000000", vec!["DELETE", "GET", "HEAD", "PATCH"]),
        (Method::GET, "/v1/jobs/job_00000000000000000000000000/cancel", vec!["POST"]),
        (Method::POST, "/healthz", vec!["GET", "HEAD"]),
        (Method::OPTIONS, "/v1/stream", vec!["GET", "HEAD"]),
    ] {
        let answer = api.send(api.request(method.clone(), path)).await;
        let mut found: Vec<_> = answer.header("allow").split(',').map(str::trim).collect();
        found.sort_unstable();
        assert_eq!(found, allowed, "{method} {path}");
        answer.problem(405);
    }
}

#[tokio::test]
async fn an_answer_has_the_id_of_its_request() {
    let api = Api::start().await;
    let one = api.get("/healthz").await.header("x-request-id").to_owned();
    let two = api.get("/healthz").await.header("x-request-id").to_owned();
    assert!(one.len() == 26 && one != two);
    let named = api.send(api.request(Method::GET, "/nowhere").header("x-request-id", "mine")).await;
    assert_eq!(named.header("x-request-id"), "mine");
    assert_eq!(named.header("x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn requests_from_other_sites_are_refused() {
    let api = Api::start().await;
    let port = api.url.rsplit(':').next().unwrap();
    let send = async |method: Method, headers: &[(&str, String)]| {
        let request = api.request(method, "/v1/jobs").json(&plain_job());
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        api.send(request).await
    };
    for host in ["localhost", "127.0.0.1", "[::1]", "LocalHost"] {
        assert_eq!(send(Method::GET, &[("host", format!("{host}:{port}"))]).await.status, 200, "{host}");
    }
    assert_eq!(send(Method::GET, &[("host", "localhost".into())]).await.status, 200);
    for host in [
        "attacker.example",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example:80",
        "0.0.0.0",
        "10.0.0.1",
        "user@localhost",
        "",
    ] {
        send(Method::GET, &[("host", host.into())]).await.says(403, &["--listen"]);
        send(Method::POST, &[("host", host.into())]).await.problem(403);
    }
    for origin in ["http://attacker.example", "null", "http://localhost:1", "http://127.0.0.1"] {
        send(Method::POST, &[("origin", origin.into())]).await.says(403, &["another site"]);
        assert_eq!(
            send(Method::GET, &[("origin", origin.into())]).await.status,
            200,
            "reading is for the browser to refuse"
        );
    }
    send(Method::POST, &[("origin", format!("http://127.0.0.1:{port}"))]).await.expect(201);
}

#[tokio::test]
async fn a_server_on_a_public_address_accepts_any_host_name() {
    let api = Api::start_with(|settings| {
        settings.listen = "0.0.0.0:80".parse().unwrap();
        settings.admin_token = Some(tokens::hash("dst_admin"));
    })
    .await;
    let get = api.request(Method::GET, "/v1/jobs").header("host", "distillery.example").bearer_auth("dst_admin");
    api.send(get).await.expect(200);
    let post = |origin: &'static str| {
        let request =
            api.request(Method::POST, "/v1/jobs").header("host", "distillery.example").header("origin", origin);
        api.send(request.bearer_auth("dst_admin").json(&plain_job()))
    };
    post("https://distillery.example").await.expect(201);
    post("https://attacker.example").await.problem(403);
}

#[tokio::test]
async fn a_request_that_gets_no_connection_is_told_to_try_again() {
    let db = TestDb::new().await;
    let options = PgPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_millis(200));
    let pool = options.connect(&db.url).await.unwrap();
    let held = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    let api = Api::start_on(db, pool.clone(), |_| ()).await;
    let answer = api.get("/v1/jobs").await;
    assert_eq!(answer.header("retry-after"), "2");
    answer.says(503, &["try again"]);
    drop(held);
    api.get("/v1/jobs").await.expect(200);
}

#[tokio::test]
async fn an_unreachable_database_is_reported_without_its_secrets() {
    let db = TestDb::new().await;
    let pool = db::connect(&db.url).await.unwrap();
    let db_pool = db.pool.clone();
    let api = Api::start_on(db, pool.clone(), |_| ()).await;
    let read = tokens::Scope::Read;
    tokens::create(&db_pool, "monitoring", read, &tokens::hash("dst_monitoring")).await.unwrap();
    let get = |path: &'static str| api.send(api.request(Method::GET, path).bearer_auth("dst_monitoring"));
    get("/v1/jobs").await.expect(200);
    pool.close().await;
    let problem = get("/v1/jobs").await.problem(503);
    assert!(!problem.to_string().contains("postgres"), "{problem}");
    api.get("/healthz").await.expect(200);
    api.get("/readyz").await.says(503, &["the database"]);
    // A token that was valid before is still accepted.
    assert!(get("/metrics").await.text().contains("distillery_database_up 0"));
}

#[tokio::test]
async fn an_internal_error_tells_the_client_no_details() {
    let api = Api::start().await;
    let id = api.job().await;
    api.db.pool.execute("alter table events rename column message to secret").await.unwrap();
    let problem = api.get(&format!("/v1/jobs/{id}/events")).await.problem(500);
    assert!(!problem.to_string().contains("message") && !problem.to_string().contains("column"), "{problem}");
    // The change must not be half done.
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.problem(500);
    assert_eq!(api.get(&format!("/v1/jobs/{id}")).await.expect(200)["status"], "queued");
}

#[tokio::test]
async fn a_request_above_the_time_limit_gets_503() {
    let api = Api::start_with(|settings| settings.timeout = Duration::from_millis(300)).await;
    let id = api.job().await;
    let mut holder = api.db.pool.begin().await.unwrap();
    holder.execute(sqlx::AssertSqlSafe(format!("select from jobs where id = '{id}' for update"))).await.unwrap();
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.says(503, &["too long"]);
    holder.rollback().await.unwrap();
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
}

/// Opens a connection and sends a text.
async fn connection(api: &Api, text: &str) -> TcpStream {
    let mut connection = TcpStream::connect(api.url.strip_prefix("http://").unwrap()).await.unwrap();
    connection.write_all(text.as_bytes()).await.unwrap();
    connection
}

/// Everything that the server sends before it closes the connection.
async fn last_words(mut connection: TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut answer));
    read.await.expect("it is closed").unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_head_that_takes_too_long_or_is_too_long_ends_its_connection() {
    let api = Api::start_with(|settings| settings.header_timeout = Duration::from_millis(200)).await;
    let slow = connection(&api, "GET /healthz HTTP/1.1\r\nhost: ").await;
    assert_eq!(last_words(slow).await, "");
    let idle = connection(&api, "").await;
    assert_eq!(last_words(idle).await, "");
    let head = "GET /healthz HTTP/1.1\r\nlong: ";
    // No byte more than the server reads: unread bytes would reset the connection and lose the answer.
    let long = connection(&api, &format!("{head}{}", "x".repeat((16 << 10) - head.len()))).await;
    assert!(last_words(long).await.starts_with("HTTP/1.1 431 "));
    api.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn connections_above_the_limit_get_503_with_retry_after() {
    let api = Api::start_with(|settings| settings.connections = 2).await;
    let get = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut one = connection(&api, get).await;
        let mut start = [0; 12];
        one.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        open.push(one);
    }
    let refused = last_words(connection(&api, get).await).await;
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nretry-after: 1\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/problem+json\r\n"), "{head}");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["status"], 503);
    assert!(problem["detail"].as_str().unwrap().contains("try again"));
    // Once one of them is closed there is room again; the server notices the end soon after.
    drop(open.pop());
    while last_words(connection(&api, &get.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).await)
        .await
        .contains(" 503 ")
    {}
}

#[tokio::test]
async fn a_read_only_database_is_a_503_for_writes_and_still_answers_reads() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(&postgres_options(data.path().to_owned())).await.unwrap();
    let db = TestDb::of(&server).await;
    let pool = db.pool.clone();
    let secret = "0123456789abcdef0123456789abcdef";
    tokens::create(&pool, "before", tokens::Scope::Admin, &tokens::hash(secret)).await.unwrap();
    let api = Api::start_on(db, pool, |_| ()).await;
    let send = async |method: Method, path: &str| {
        api.send(api.request(method, path).bearer_auth(secret).json(&plain_job())).await
    };
    api.db.set_read_only(true).await;
    // Its token was never used, which is noted as soon as it can be.
    send(Method::GET, "/v1/jobs").await.expect(200);
    send(Method::GET, "/v1/summaries").await.expect(200);
    let refused = send(Method::POST, "/v1/jobs").await;
    assert!(!refused.header("retry-after").is_empty());
    refused.says(503, &["read-only", "try again"]);
    api.db.set_read_only(false).await;
    send(Method::POST, "/v1/jobs").await.expect(201);
    server.stop().await;
}

#[tokio::test]
async fn no_parameter_makes_the_server_fail() {
    let api = Api::start().await;
    let id = api.job().await;
    let checkpoint = api.upload("", checkpoint("resnet8", 10)).await.expect(201)["id"].as_str().unwrap().to_owned();
    for path in [
        format!("/v1/jobs/{id}/metrics?name=%00"),
        format!("/v1/jobs/{id}/metrics?name=a&name=b%00c"),
        format!("/v1/jobs/{id}/events?after=%00"),
        format!("/v1/jobs/{id}/stream?after=%00"),
        format!("/v1/jobs/{id}/student?which=%00"),
        "/v1/jobs?after=job_%00".to_owned(),
        "/v1/jobs?label=a:b%00".to_owned(),
        "/v1/summaries?q=%00".to_owned(),
        "/v1/summaries?id=%00".to_owned(),
        "/v1/labels?q=%00".to_owned(),
        "/v1/checkpoints?after=0.%00".to_owned(),
    ] {
        api.get(&path).await.says(400, &["query parameters", "NUL"]);
    }
    // Times that neither the database nor a calculation can represent.
    let times =
        [i64::MIN, -8_334_601_228_800_000_000, -1, 253_402_300_800_000_000, 8_210_266_876_799_999_999, i64::MAX];
    for time in times {
        api.get(&format!("/v1/stream?after={time}")).await.says(400, &["not an id of this stream"]);
        api.get(&format!("/v1/checkpoints?after={time}.{checkpoint}")).await.says(400, &["after"]);
    }
    api.get("/v1/checkpoints?after=0.other").await.says(400, &["after"]);
    for time in [0, 253_402_300_799_999_999_i64] {
        let mut stream = api.stream(&format!("/v1/stream?after={time}"), None).await;
        assert_eq!(stream.next().await.unwrap().data["id"], json!(id));
        api.get(&format!("/v1/checkpoints?after={time}.{checkpoint}")).await.expect(200);
    }
    api.get(&format!("/v1/jobs/{id}/stream?after={0}-{0}", i128::MAX)).await.problem(400);
    let mut stream = api.stream(&format!("/v1/jobs/{id}/stream?after={0}-{0}", i64::MAX), None).await;
    assert_eq!(stream.next().await.unwrap().data["id"], json!(id));
}

#[tokio::test]
async fn an_answer_is_not_many_times_as_large_as_the_request_that_it_refuses() {
    let api = Api::start().await;
    let size = 1_000_000;
    let many = |element: &str| element.repeat(size / element.len());
    let numbers = format!("[{}1]", many("9e9,"));
    let keys = |form: fn(usize) -> String| (0..size / 12).map(form).collect::<Vec<_>>().join(",");
    let bodies = [
        format!(r#"{{"dataset": {{"name": "ten", "mean": {numbers}}}}}"#),
        format!(r#"{{"dataset": {{"name": "ten"}}, "training": {{"milestones": {numbers}}}}}"#),
        format!("{{{}}}", keys(|key| format!(r#""k{key:05}":1"#))),
        format!(r#"{{"labels": {{{}}}}}"#, keys(|key| format!(r#""k{key:05}":1"#))),
        format!(r#"{{"labels": {{"{}": 1}}}}"#, many("\u{7f}")),
        format!(r#"{{"student": {{"architecture": "{}"}}}}"#, many("x")),
    ];
    for body in bodies {
        let start = body.chars().take(60).collect::<String>();
        let answer = post_text(&api, "application/json", body).await;
        assert!(answer.body.len() < 100_000, "{} bytes for {start}", answer.body.len());
        let problem = answer.problem(422);
        let errors = problem["errors"].as_array().unwrap();
        assert!(!errors.is_empty() && errors.len() <= 110, "{} errors for {start}", errors.len());
    }
    let few = json!({"one": 1, "two": 2, "dataset": {"name": "ten", "mean": [1, 2]}});
    let problem = api.post("/v1/jobs", &few).await.problem(422);
    assert!(!problem.to_string().contains("more than these"), "{problem}");
    let many = json!({"dataset": {"name": "ten"}, "labels": (0..300).map(|key| (format!("k{key}"), 1)).collect::<std::collections::BTreeMap<_, _>>()});
    let problem = api.post("/v1/jobs", &many).await.problem(422);
    assert!(problem.to_string().contains("more than these 100 faults"), "{problem}");
}
