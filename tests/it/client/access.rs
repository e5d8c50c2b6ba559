//! Tokens, addresses and servers that cannot be used.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use distillery::db::tokens::{self, Scope};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{command, finish, run};
use crate::support::api::{Api, plain_job};

async fn token(api: &Api, scope: Scope) -> String {
    let secret = format!("dst_{}_of_a_test_that_is_long_enough", scope.name());
    tokens::create(&api.db.pool, "a test", scope, &tokens::hash(&secret)).await.unwrap();
    secret
}

/// Writes a file with a mode.
fn write(path: &Path, text: &str, mode: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_token_comes_from_a_private_file_or_the_environment() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let secret = token(&api, Scope::Read).await;
    let said = run(&api.url, home.path(), &["jobs"]).await.fails(5);
    assert!(said.contains("DISTILLERY_TOKEN") && said.contains("0600"), "{said}");

    let mut with_environment = command(&api.url, home.path(), &["jobs"]);
    with_environment.env("DISTILLERY_TOKEN", &secret);
    finish(with_environment).await.expect(0);

    let default = home.path().join(".config/distillery/token");
    write(&default, &format!("{secret}\n"), 0o600);
    run(&api.url, home.path(), &["jobs"]).await.expect(0);
    // A file that the command line names comes before the environment and the file of the configuration.
    let named = home.path().join("another token");
    write(&named, "dst_wrong", 0o400);
    let mut with_both = command(&api.url, home.path(), &["jobs", "--token-file", named.to_str().unwrap()]);
    with_both.env("DISTILLERY_TOKEN", &secret);
    finish(with_both).await.fails(5);
    let said = run(&api.url, home.path(), &["jobs", "--token-file", "missing"]).await.fails(5);
    assert!(said.contains("there is no file missing"), "{said}");
}

#[tokio::test]
async fn a_token_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let secret = token(&api, Scope::Read).await;
    let path = home.path().join("it's a token");
    for mode in [0o644, 0o640, 0o604, 0o620, 0o660, 0o666] {
        write(&path, &secret, mode);
        let said = run(&api.url, home.path(), &["jobs", "--token-file", path.to_str().unwrap()]).await.fails(5);
        let quoted = path.to_str().unwrap().replace('\'', r"'\''");
        assert!(said.contains(&format!("chmod 600 '{quoted}'")), "{mode:o}: {said}");
        assert!(said.contains(&format!("{mode:04o}")) && !said.contains(&secret), "{mode:o}: {said}");
    }
    write(&path, &secret, 0o600);
    run(&api.url, home.path(), &["jobs", "--token-file", path.to_str().unwrap()]).await.expect(0);
}

#[tokio::test]
async fn a_token_file_without_a_token_is_no_token() {
    let home = tempfile::tempdir().unwrap();
    for text in ["", "\n", "two words", "dst_\u{e4}"] {
        let path = home.path().join("token");
        write(&path, text, 0o600);
        let said = run("http://127.0.0.1:1", home.path(), &["jobs", "--token-file", "token"]).await.fails(5);
        assert!(said.contains("has no token"), "{text:?}: {said}");
    }
    let said = run("http://127.0.0.1:1", home.path(), &["jobs", "--token-file", "/"]).await.fails(5);
    assert!(said.contains("not a regular file"), "{said}");
}

#[tokio::test]
async fn a_token_that_does_not_permit_something_is_an_access_failure() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let secret = token(&api, Scope::Read).await;
    std::fs::write(home.path().join("job.json"), plain_job().to_string()).unwrap();
    let mut submit = command(&api.url, home.path(), &["submit", "job.json"]);
    submit.env("DISTILLERY_TOKEN", &secret);
    let said = finish(submit).await.fails(5);
    assert!(said.contains("needs a token with scope submit"), "{said}");
}

#[tokio::test]
async fn an_address_that_is_none_is_a_usage_failure_and_repeats_no_password() {
    let home = tempfile::tempdir().unwrap();
    for url in ["localhost:8080", "ftp://localhost", "nonsense"] {
        let said = run(url, home.path(), &["jobs"]).await.fails(2);
        assert!(said.contains("expected http://"), "{url}: {said}");
    }
    let said = run("http://ada:secret@localhost", home.path(), &["jobs"]).await.fails(2);
    assert!(said.contains("DISTILLERY_TOKEN") && !said.contains("secret"), "{said}");
    run("http://localhost", home.path(), &["watch", "../checkpoints"]).await.fails(2);
}

/// A server that answers every request without a body with these bytes, and leaves the connection open.
async fn answering(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            let (mut head, mut piece) = (Vec::new(), [0; 1024]);
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(read @ 1..) = connection.read(&mut piece).await else { break };
                head.extend_from_slice(&piece[..read]);
            }
            let _ = connection.write_all(bytes).await;
            open.push(connection);
        }
    });
    url
}

#[tokio::test]
async fn a_server_that_is_not_there_or_does_not_answer_is_unreachable() {
    let home = tempfile::tempdir().unwrap();
    let said = run("http://127.0.0.1:1", home.path(), &["jobs"]).await.fails(4);
    assert!(said.contains("cannot reach") && said.contains("DISTILLERY_URL"), "{said}");
    // It never answers, or stops in the middle of an answer.
    for answer in
        [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"data\""]
    {
        let url = answering(answer).await;
        let said =
            run(&url, home.path(), &["watch", "job_01ARZ3NDEKTSV4RRFFQ69G5FAV", "--timeout", "1", "--reconnect", "0"])
                .await
                .fails(4);
        assert!(said.contains("sent nothing for 1 s (--timeout)"), "{said}");
    }
}

#[tokio::test]
async fn a_server_that_is_none_of_ours_is_told_from_one_that_refuses() {
    let home = tempfile::tempdir().unwrap();
    let page = answering(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>",
    )
    .await;
    let said = run(&page, home.path(), &["jobs"]).await.fails(4);
    assert!(said.contains("text/html") && said.contains("is that the address of a distillery server?"), "{said}");
    let moved = answering(b"HTTP/1.1 301 Moved\r\nlocation: https://elsewhere/\r\ncontent-length: 0\r\n\r\n").await;
    let said = run(&moved, home.path(), &["jobs"]).await.fails(2);
    assert!(said.contains("redirects to https://elsewhere/: set DISTILLERY_URL"), "{said}");
}

#[tokio::test]
async fn errors_are_json_for_programs() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let said = run(&api.url, home.path(), &["jobs", "job_01ARZ3NDEKTSV4RRFFQ69G5FAV", "--json"]).await.fails(3);
    let error: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&error["error"]["exit_code"], &error["error"]["status"]), (&3.into(), &404.into()), "{said}");
    let said = run("http://127.0.0.1:1", home.path(), &["jobs", "--json"]).await.fails(4);
    let error: Value = serde_json::from_str(&said).unwrap();
    assert!(error["error"]["detail"].as_str().unwrap().contains("cannot reach"), "{said}");
}
