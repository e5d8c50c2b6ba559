//! Promise: whatever is sent to the API, its answers conform to `/openapi.json` in status, headers, content type and
//! body, and none is an internal error; with and without a token.

use std::path::Path;
use std::process::Command;

use crate::support::api::Api;
use distillery::db::tokens::{self, Scope};

/// Streams are read up to this many messages.
const SETTINGS: &str = "max-stream-events = 2\n";

/// A queued job, a running one, and one that has finished with its files.
async fn api_with_jobs() -> Api {
    let api = Api::start().await;
    for _ in 0..3 {
        api.job().await;
    }
    let token = api.claim().await;
    let files: [(&str, &[u8]); 4] = [
        ("student.safetensors", b"student"),
        ("student-last.safetensors", b"last"),
        ("manifest.json", b"{\"steps\": 3}"),
        ("metrics.ndjson", b"{}\n"),
    ];
    api.publish(&token, &files).await;
    api.claim().await;
    api
}

/// Has schemathesis generate requests, and returns how many.
async fn generate(api: &Api, arguments: &[&str]) -> u32 {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/schemathesis/run");
    assert!(program.exists(), "{} is missing: run `scripts/setup schemathesis`", program.display());
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("schemathesis.toml"), SETTINGS).unwrap();
    let mut command = Command::new(program);
    command.args(["run", &format!("{}/openapi.json", api.url), "--checks", "all", "--seed", "1", "--no-color"]);
    // A well-formed request may be refused because it names a data set, job or checkpoint that does not exist.
    command.args(["--exclude-checks", "positive_data_acceptance", "--request-timeout", "10"]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.current_dir(directory.path()).output()).await;
    let output = output.unwrap().expect("schemathesis runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let cases = said.lines().find_map(|line| line.trim().split_once(" generated")?.0.parse().ok());
    cases.unwrap_or_else(|| panic!("{said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_requests_get_the_answers_that_the_description_promises() {
    let api = api_with_jobs().await;
    let cases = generate(&api, &["--max-examples", "20"]).await;
    assert!(cases > 500, "{cases}");
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_requests_with_a_token_get_the_answers_that_the_description_promises() {
    let api = api_with_jobs().await;
    let secret = "dst_of_a_test_with_every_permission";
    tokens::create(&api.db.pool, "schemathesis", Scope::Admin, &tokens::hash(secret)).await.unwrap();
    let header = format!("Authorization: Bearer {secret}");
    let cases = generate(&api, &["--max-examples", "10", "--header", &header]).await;
    assert!(cases > 300, "{cases}");
}
