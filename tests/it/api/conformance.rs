//! Promise: whatever is sent to the API, its answers conform to `/openapi.json` in status, headers, content type and
//! body, and none is an internal error.

use std::path::Path;
use std::process::Command;

use crate::support::api::Api;

#[tokio::test(flavor = "multi_thread")]
async fn generated_requests_get_the_answers_that_the_description_promises() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/schemathesis/run");
    assert!(program.exists(), "{} is missing: run `scripts/setup schemathesis`", program.display());
    let api = Api::start().await;
    // A queued job, a running one, and one that has finished with its files.
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
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command.args(["run", &format!("{}/openapi.json", api.url), "--checks", "all", "--seed", "1", "--no-color"]);
    // A well-formed request may be refused because it names a data set, job or checkpoint that does not exist.
    command.args(["--exclude-checks", "positive_data_acceptance", "--max-examples", "20"]);
    // A stream does not end.
    command.args(["--exclude-path-regex", "/(stream|changes)$"]);
    let output = tokio::task::spawn_blocking(move || command.current_dir(directory.path()).output()).await;
    let output = output.unwrap().expect("schemathesis runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let cases = said.lines().find_map(|line| line.trim().split_once(" generated")?.0.parse::<u32>().ok());
    assert!(cases.is_some_and(|cases| cases > 500), "{said}");
}
