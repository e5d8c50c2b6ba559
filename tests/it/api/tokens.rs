//! Promise: once there is a token, or the server is reachable from other machines, every request needs one.

use std::io::{BufRead, BufReader, Read};
use std::process::{Output, Stdio};
use std::time::Duration;

use crate::support::api::{Answer, Api, plain_job};
use crate::support::db::{TestDb, connection};
use crate::support::process::distillery;
use crate::support::{PATIENCE, http_client};
use distillery::db::queue::{self, ReportBatch};
use distillery::db::tokens::{self, Scope};
use distillery::protocol::Level;
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

/// Stores a token, and returns it with its id.
async fn token(api: &Api, scope: Scope) -> (String, String) {
    let secret = format!("dst_{}_of_a_test_that_is_long_enough", scope.name());
    let id = tokens::create(&api.db.pool, "a test", scope, &tokens::hash(&secret)).await.unwrap();
    (secret, id)
}

async fn with(api: &Api, token: &str, method: Method, path: &str) -> Answer {
    api.send(api.request(method, path).bearer_auth(token)).await
}

#[tokio::test]
async fn without_any_token_this_machine_may_do_everything() {
    let api = Api::start().await;
    assert_eq!(api.get("/v1/session").await.expect(200), json!({"required": false, "scope": "admin"}));
    let id = api.job().await;
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    api.delete(&format!("/v1/jobs/{id}")).await.expect(204);
}

#[tokio::test]
async fn a_token_above_its_rate_limit_gets_429_and_other_tokens_do_not() {
    let api = Api::start_with(|settings| settings.requests_per_second = 20.try_into().unwrap()).await;
    let (hasty, _) = token(&api, Scope::Read).await;
    let (other, _) = token(&api, Scope::Submit).await;
    let answers = futures::future::join_all((0..200).map(|_| with(&api, &hasty, Method::GET, "/v1/jobs"))).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(refused.len() >= 100, "{} of 200 were refused", refused.len());
    assert!(answers.iter().filter(|answer| answer.status == 200).count() >= 20);
    assert_eq!(refused[0].header("retry-after"), "1");
    assert!(refused[0].text().contains("rate limit exceeded"));
    with(&api, &other, Method::GET, "/v1/jobs").await.expect(200);
    // Requests with an unknown token are not limited but refused.
    for _ in 0..50 {
        with(&api, "dst_wrong", Method::GET, "/v1/jobs").await.problem(401);
    }
}

/// Every operation of the API, with its parameters filled in.
async fn operations(api: &Api) -> Vec<(Method, String)> {
    let document = api.get("/openapi.json").await.expect(200);
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{id}", "job_01ARZ3NDEKTSV4RRFFQ69G5FAV").replace("{name}", "manifest.json");
            operations.push((method.to_uppercase().parse().unwrap(), path));
        }
    }
    operations
}

#[tokio::test]
async fn every_operation_needs_a_token_of_its_scope() {
    let api = Api::start().await;
    let operations = operations(&api).await;
    let (reader, _) = token(&api, Scope::Read).await;
    let (submitter, _) = token(&api, Scope::Submit).await;
    let mut guarded = 0;
    for (method, path) in operations {
        let what = format!("{method} {path}");
        if ["/healthz", "/readyz", "/v1/session"].contains(&path.as_str()) {
            continue;
        }
        guarded += 1;
        let answer = api.send(api.request(method.clone(), &path)).await;
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"distillery\"", "{what}");
        answer.says(401, &["Authorization: Bearer", "distillery token create"]);
        for wrong in ["", "dst_wrong", &reader.to_uppercase(), &format!("{reader}x")] {
            assert_eq!(with(&api, wrong, method.clone(), &path).await.status, 401, "{what} with {wrong:?}");
        }
        if !method.is_safe() {
            with(&api, &reader, method.clone(), &path).await.says(403, &["scope", "read"]);
        }
        if method == Method::DELETE {
            with(&api, &submitter, method, &path).await.says(403, &["scope admin", "submit"]);
        }
    }
    assert!(guarded > 20, "{guarded}");
    // Pages that tell nothing about jobs need no token.
    for path in ["/", "/healthz", "/readyz", "/openapi.json", "/docs/"] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    // Another spelling of the path does not avoid the check.
    for path in ["//v1/jobs", "/v1//jobs", "/v1/jobs/", "/%76%31/jobs", "/x/../v1/jobs", "/V1/jobs"] {
        let answer = api.get(path).await;
        assert!([401, 404].contains(&answer.status.as_u16()), "{path}: {} {}", answer.status, answer.text());
    }
}

#[tokio::test]
async fn a_token_may_do_what_its_scope_says() {
    let api = Api::start().await;
    let (reader, _) = token(&api, Scope::Read).await;
    let (submitter, _) = token(&api, Scope::Submit).await;
    let (admin, _) = token(&api, Scope::Admin).await;
    with(&api, &reader, Method::GET, "/v1/jobs").await.expect(200);
    assert!(with(&api, &reader, Method::GET, "/metrics").await.status.is_success());
    let post = api.request(Method::POST, "/v1/jobs").bearer_auth(&submitter).json(&plain_job());
    let id = api.send(post).await.expect(201)["id"].as_str().unwrap().to_owned();
    with(&api, &submitter, Method::POST, &format!("/v1/jobs/{id}/cancel")).await.expect(202);
    with(&api, &admin, Method::DELETE, &format!("/v1/jobs/{id}")).await.expect(204);
    let used = tokens::list(&api.db.pool).await.unwrap();
    assert!(used.iter().all(|token| token.last_used_at.is_some()), "{used:?}");
    let session = with(&api, &submitter, Method::GET, "/v1/session").await.expect(200);
    assert_eq!(session, json!({"required": true, "scope": "submit"}));
    assert_eq!(api.get("/v1/session").await.expect(200), json!({"required": true, "scope": null}));
}

#[tokio::test]
async fn a_revoked_token_is_refused_once_the_server_looks_it_up_again() {
    for (memory, status) in [(Duration::ZERO, 401), (Duration::from_secs(3600), 200)] {
        let api = Api::start_with(|settings| settings.token_memory = memory).await;
        let (secret, id) = token(&api, Scope::Admin).await;
        // Without any valid token this machine would need none.
        token(&api, Scope::Read).await;
        with(&api, &secret, Method::GET, "/v1/jobs").await.expect(200);
        assert!(tokens::revoke(&api.db.pool, &id).await.unwrap());
        assert_eq!(with(&api, &secret, Method::GET, "/v1/jobs").await.status, status, "remembered for {memory:?}");
    }
}

#[tokio::test]
async fn a_token_of_a_scope_that_only_a_newer_server_knows_is_refused_and_listed() {
    let api = Api::start().await;
    let (secret, id) = token(&api, Scope::Admin).await;
    token(&api, Scope::Read).await;
    let change = "alter table tokens drop constraint tokens_scope_check; update tokens set scope = 'owner'
        where scope = 'admin'";
    sqlx::raw_sql(change).execute(&api.db.pool).await.unwrap();
    with(&api, &secret, Method::GET, "/v1/jobs").await.problem(401);
    let listed = tokens::list(&api.db.pool).await.unwrap();
    assert_eq!(listed.iter().find(|token| token.id == id).map(|token| token.scope.as_str()), Some("owner"));
    assert_eq!(listed.len(), 2);
}

#[tokio::test]
async fn the_first_token_counts_at_once_and_revoking_the_last_lets_nobody_in() {
    let api = Api::start_with(|settings| settings.token_memory = Duration::ZERO).await;
    api.get("/v1/jobs").await.expect(200);
    let (secret, id) = token(&api, Scope::Read).await;
    api.get("/v1/jobs").await.problem(401);
    with(&api, &secret, Method::POST, "/v1/jobs").await.problem(403);
    assert!(tokens::revoke(&api.db.pool, &id).await.unwrap());
    with(&api, &secret, Method::GET, "/v1/jobs").await.problem(401);
    api.get("/v1/jobs").await.problem(401);
    assert_eq!(api.get("/v1/session").await.expect(200), json!({"required": true, "scope": null}));
    // However long tokens are remembered.
    let api = Api::start_with(|settings| settings.token_memory = Duration::from_secs(3600)).await;
    api.get("/v1/jobs").await.expect(200);
    token(&api, Scope::Read).await;
    api.get("/v1/jobs").await.problem(401);
}

#[tokio::test]
async fn what_a_revoked_token_began_ends() {
    let api = Api::start_with(|settings| settings.token_memory = Duration::ZERO).await;
    let (secret, id) = token(&api, Scope::Submit).await;
    token(&api, Scope::Read).await;
    let get = |path: String| api.request(Method::GET, &path).bearer_auth(&secret).send();
    let post = api.request(Method::POST, "/v1/jobs").bearer_auth(&secret).json(&plain_job());
    let job = api.send(post).await.expect(201)["id"].as_str().unwrap().to_owned();
    // More than the kernel buffers for a client that does not read.
    let student = vec![7; 64 << 20];
    api.publish(&api.claim().await, &[("student.safetensors", &student)]).await;
    let other = api.request(Method::POST, "/v1/jobs").bearer_auth(&secret).json(&plain_job());
    let other = api.send(other).await.expect(201)["id"].as_str().unwrap().to_owned();
    let mut streams = Vec::new();
    for path in ["/v1/stream".to_owned(), "/v1/changes".to_owned(), format!("/v1/jobs/{other}/stream")] {
        let mut stream = get(path).await.unwrap();
        assert_eq!(stream.status(), 200);
        stream.chunk().await.unwrap().expect("its first message");
        streams.push(stream);
    }
    let download = get(format!("/v1/jobs/{job}/student")).await.unwrap();
    assert_eq!(download.content_length(), Some(student.len() as u64));
    let endless = futures::stream::iter([Ok::<_, std::io::Error>(vec![b'{'; 1000])]).chain(futures::stream::pending());
    let upload = api.request(Method::PUT, "/v1/checkpoints").bearer_auth(&secret);
    let upload = tokio::spawn(upload.body(reqwest::Body::wrap_stream(endless)).send());
    assert!(tokens::revoke(&api.db.pool, &id).await.unwrap());
    for mut stream in streams {
        let rest = async { while stream.chunk().await.is_ok_and(|chunk| chunk.is_some()) {} };
        tokio::time::timeout(PATIENCE, rest).await.expect("the stream ends");
    }
    assert_eq!(upload.await.unwrap().unwrap().status(), 401);
    assert!(download.bytes().await.is_err(), "the download is cut off");
    assert_eq!(with(&api, &secret, Method::GET, "/v1/stream").await.status, 401);
}

/// Makes every check of the reader's token write to its row, and not only one a minute.
const CHECKS_WRITE: &str = "
    create function forget_use() returns trigger language plpgsql
        as $$ begin new.last_used_at = null; return new; end $$;
    create trigger forget_use before update on tokens
        for each row when (new.scope = 'read') execute function forget_use();
";

#[tokio::test]
async fn a_client_that_stops_reading_lets_no_revoked_token_go_on() {
    let api = Api::start_with(|settings| {
        settings.token_memory = Duration::ZERO;
        settings.reader_patience = Duration::from_secs(3600);
    })
    .await;
    let (reader, _) = token(&api, Scope::Read).await;
    let (submitter, id) = token(&api, Scope::Submit).await;
    sqlx::raw_sql(CHECKS_WRITE).execute(&api.db.pool).await.unwrap();
    let post = api.request(Method::POST, "/v1/jobs").bearer_auth(&submitter).json(&plain_job());
    let job = api.send(post).await.expect(201)["id"].as_str().unwrap().to_owned();
    let claim = api.claim().await;
    let path = format!("/v1/jobs/{job}/stream");
    let follow = |secret: &str| api.request(Method::GET, &path).bearer_auth(secret).send();
    let stalled = follow(&reader).await.unwrap();
    let mut followed = follow(&submitter).await.unwrap();
    assert_eq!((stalled.status().as_u16(), followed.status().as_u16()), (200, 200));

    // The next check of the reader's token takes until this lock is released.
    let mut holder = connection(&api.db.url).await;
    let lock = "begin; select from tokens where scope = 'read' for update";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let waits = "select exists (select from pg_stat_activity where datname = current_database()
        and wait_event_type = 'Lock' and query ilike '%update tokens%')";
    let checking = async { while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&api.db.pool).await.unwrap() {} };
    tokio::time::timeout(PATIENCE, checking).await.expect("the token is checked");
    // Meanwhile the reader is sent more than the kernel buffers for a client that does not read: as much as another
    // gets.
    let (lines, length) = (3000, 8000);
    for _ in 0..10 {
        let logs = (0..lines / 10).map(|_| (Level::Info, "x".repeat(length))).collect();
        let batch = ReportBatch { logs, ..ReportBatch::default() };
        assert!(queue::record(&api.db.pool, &claim.write(), &batch).await.unwrap());
    }
    let mut received = 0;
    while received < lines * length {
        let chunk = tokio::time::timeout(PATIENCE, followed.chunk()).await.expect("the stream goes on");
        received += chunk.unwrap().expect("the stream goes on").len();
    }
    sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();

    assert!(tokens::revoke(&api.db.pool, &id).await.unwrap());
    let rest = async { while followed.chunk().await.is_ok_and(|chunk| chunk.is_some()) {} };
    tokio::time::timeout(PATIENCE, rest).await.expect("the stream ends");
    drop(stalled);
}

#[tokio::test]
async fn streams_that_needed_no_token_end_once_there_is_one() {
    let api = Api::start_with(|settings| settings.token_memory = Duration::ZERO).await;
    let mut stream = api.stream("/v1/changes", None).await;
    stream.next().await.unwrap();
    token(&api, Scope::Read).await;
    stream.rest().await;
}

#[tokio::test]
async fn the_browser_keeps_the_token_in_a_cookie_that_no_script_and_no_other_site_can_use() {
    let api = Api::start().await;
    let (submitter, _) = token(&api, Scope::Submit).await;
    assert_eq!(with(&api, "dst_wrong", Method::POST, "/v1/session").await.status, 401);
    assert_eq!(api.ask("/v1/session").await.status, 401);
    let answer = with(&api, &submitter, Method::POST, "/v1/session").await;
    assert_eq!(answer.status, 204);
    let cookie = answer.header("set-cookie").to_owned();
    for part in ["; Path=/", "; HttpOnly", "; SameSite=Strict", "; Max-Age="] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "there is no TLS here: {cookie}");
    let behind_tls =
        api.request(Method::POST, "/v1/session").bearer_auth(&submitter).header("x-forwarded-proto", "https");
    assert!(api.send(behind_tls).await.header("set-cookie").ends_with("; Secure"));

    let pair = format!("theme=dark; {}", cookie.split(';').next().unwrap());
    let request = |method: Method, path: &str| api.request(method, path).header("cookie", &pair);
    api.send(request(Method::GET, "/v1/jobs")).await.expect(200);
    api.send(request(Method::POST, "/v1/jobs").json(&plain_job())).await.expect(201);
    // Even if a browser sent the cookie with a request of another site's page.
    let foreign = request(Method::POST, "/v1/jobs").header("origin", "https://evil.example").json(&plain_job());
    api.send(foreign).await.says(403, &["another site"]);
    // The header takes precedence over the cookie.
    assert_eq!(api.send(request(Method::GET, "/v1/jobs").bearer_auth("dst_wrong")).await.status, 401);

    let gone = api.send(request(Method::DELETE, "/v1/session")).await;
    assert_eq!(gone.status, 204);
    assert!(
        gone.header("set-cookie").starts_with("distillery_token=; ") && gone.header("set-cookie").contains("Max-Age=0")
    );
}

/// Runs the program on a database.
fn run(db: &TestDb, arguments: &[&str]) -> Output {
    distillery().args(arguments).env("DATABASE_URL", &db.url).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_listed_and_revoked_on_the_command_line_and_never_stored() {
    let db = TestDb::new().await;
    let made = run(&db, &["token", "create", "Ada's laptop", "--scope", "submit"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let secret = text(&made.stdout).trim_end().to_owned();
    // 256 bits are 43 digits of base 64.
    assert!(secret.starts_with("dst_") && secret.len() == 47, "{secret}");
    assert_ne!(secret, text(&run(&db, &["token", "create", "another", "--scope", "read"]).stdout).trim_end());
    assert_eq!(tokens::scope_of(&db.pool, &tokens::hash(&secret)).await.unwrap(), Some(Scope::Submit));
    let stored: Vec<String> =
        sqlx::query_scalar("select to_jsonb(tokens)::text from tokens").fetch_all(&db.pool).await.unwrap();
    assert!(stored.len() == 2 && stored.iter().all(|row| !row.contains(&secret[4..])), "{stored:?}");

    let list = text(&run(&db, &["token", "list"]).stdout);
    let line = list.lines().find(|line| line.ends_with("Ada's laptop")).unwrap_or_else(|| panic!("{list}"));
    assert!(line.contains("submit") && !list.contains(&secret[4..]), "{list}");
    let id = line.split_whitespace().next().unwrap();
    assert!(run(&db, &["token", "revoke", id]).status.success());
    assert_eq!(tokens::scope_of(&db.pool, &tokens::hash(&secret)).await.unwrap(), None);
    assert!(text(&run(&db, &["token", "list"]).stdout).contains("revoked"));
    let unknown = run(&db, &["token", "revoke", "tok_unknown"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("there is no token tok_unknown"), "{}", text(&unknown.stderr));
    assert_ne!(run(&db, &["token", "create", "x", "--scope", "root"]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_others_can_reach_does_not_start_without_a_token_and_never_shows_it() {
    let db = TestDb::new().await;
    let dir = tempfile::tempdir().unwrap();
    let serve = || {
        let mut command = distillery();
        command.args(["serve", "--listen", "0.0.0.0:0", "--workers", "0", "--data-dir"]).arg(dir.path());
        command.env("DATABASE_URL", &db.url).env("RUST_LOG", "trace");
        command
    };
    let refused = serve().output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    for words in ["is reachable from other machines", "distillery token create", "DISTILLERY_ADMIN_TOKEN"] {
        assert!(text(&refused.stderr).contains(words), "{}", text(&refused.stderr));
    }
    // One is too short, and one cannot be stored in a cookie.
    for bad in ["secret", "a-token-of-the-operator;0123456789!and-more"] {
        let refused = serve().env("DISTILLERY_ADMIN_TOKEN", bad).output().unwrap();
        assert!(text(&refused.stderr).contains("at least 32"), "{}", text(&refused.stderr));
    }

    let secret = "a-token-of-the-operator-0123456789-and-more";
    let mut server =
        serve().env("DISTILLERY_ADMIN_TOKEN", secret).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.next().expect("the server starts");
    let port = line.rsplit(':').next().unwrap().trim().to_owned();
    let client = http_client().build().unwrap();
    let url = format!("http://127.0.0.1:{port}/v1/jobs");
    assert_eq!(client.get(&url).send().await.unwrap().status(), 401);
    let answer = client.get(&url).bearer_auth(secret).send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["data"], json!([]));
    let session = format!("http://127.0.0.1:{port}/v1/session");
    assert_eq!(client.post(&session).bearer_auth(secret).send().await.unwrap().status(), 204);
    rustix::process::kill_process(rustix::process::Pid::from_child(&server), rustix::process::Signal::TERM).unwrap();
    let mut log = String::new();
    server.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(server.wait().unwrap().success(), "{log}");
    assert!(!log.contains(secret), "{log}");
}
