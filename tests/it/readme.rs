//! Promise: whoever types the README's session with networks of their own, line by line, gets a student.

use std::path::Path;
use std::process::Stdio;

use distillery::process;
use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::api::Api;
use crate::support::server::{Options, Server};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The section on networks of one's own.
fn section() -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = readme.split_once("## With networks of your own\n").unwrap();
    section.split_once("\n## ").unwrap().0.to_owned()
}

/// The commands of its code blocks, with the documents that they read, and the lines that they print.
fn session(section: &str) -> (Vec<String>, Vec<String>) {
    let (mut commands, mut printed) = (Vec::<String>::new(), Vec::new());
    let mut in_document = false;
    for line in section.split("```").skip(1).step_by(2).flat_map(str::lines).filter(|line| !line.is_empty()) {
        if let (Some(command), false) = (line.strip_prefix("$ "), in_document) {
            in_document = command.contains("<<");
            commands.push(command.to_owned());
        } else if in_document {
            let command = commands.last_mut().unwrap();
            command.push('\n');
            command.push_str(line);
            in_document = line != "END";
        } else {
            printed.push(line.to_owned());
        }
    }
    (commands, printed)
}

#[test]
fn no_line_of_the_session_leaves_something_to_guess() {
    let (commands, _) = session(&section());
    assert!(commands.len() > 10, "{commands:?}");
    for command in &commands {
        assert!(!command.contains('…') && (command.contains("<<") || !command.contains('<')), "{command}");
    }
}

#[tokio::test]
async fn the_jobs_for_networks_of_ones_own_are_accepted() {
    let api = Api::start_with(|settings| settings.datasets_dir = root().join("examples/data")).await;
    let (commands, _) = session(&section());
    let document = |name: &str, values: &[(&str, &str)]| -> Value {
        let begin = format!("cat > {name} <<END\n");
        let text = commands.iter().find_map(|command| command.strip_prefix(&begin)).unwrap();
        let text = text.strip_suffix("\nEND").unwrap().to_owned();
        let text = values.iter().fold(text, |text, (variable, value)| text.replace(variable, value));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    // It stands for both networks: it has images of 64 pixels, too, 10 classes, and a map of 2×2.
    let network = std::fs::read(root().join("tests/fixtures/exported/test_efficientnet.pt2")).unwrap();
    let network = api.upload("", network).await.expect(201)["id"].as_str().unwrap().to_owned();
    let first = api.post("/v1/jobs", &document("teacher.json", &[("$TEACHER", &network)])).await.expect(201);
    assert_eq!(first["spec"]["distillation"]["method"], "none", "{first}");
    let first = first["id"].as_str().unwrap();
    let second = document("student.json", &[("$FIRST", first), ("$STUDENT", &network)]);
    let second = api.post("/v1/jobs", &second).await.expect(201);
    assert_eq!(second["spec"]["teacher"], json!({"job": first}), "{second}");
}

/// The whole session with PyTorch, on a server of its own: only epochs and images are fewer, and no packages are
/// installed.
#[tokio::test(flavor = "multi_thread")]
async fn the_session_with_networks_of_ones_own_runs_as_written() {
    let python = root().join(".deps/networks/run");
    if !python.exists() {
        let missing = "not run: .deps/networks/run is not there (scripts/setup networks)";
        assert!(std::env::var_os("DISTILLERY_TEST_NETWORKS").is_none(), "{missing}");
        eprintln!("{missing}");
        return;
    }
    let server = Server::start(Options::default()).await;
    let digits = server.dir.path().join("datasets/digits");
    std::fs::create_dir(&digits).unwrap();
    for entry in std::fs::read_dir(root().join("examples/data/digits")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), digits.join(entry.file_name())).unwrap();
    }
    let (mut commands, printed) = session(&section());
    let all = commands.len();
    commands.retain(|command| !command.contains("pip install"));
    assert_eq!(commands.len(), all - 1, "one line installs PyTorch");
    let mut script = commands.join("\n");
    for (written, here) in [
        ("target/release/distillery", env!("CARGO_BIN_EXE_distillery")),
        (".venv/bin/python", python.to_str().unwrap()),
        ("\"image_size\": 64", "\"image_size\": 64, \"limit\": 64"),
        ("\"epochs\": 10,", "\"epochs\": 1,"),
        ("\"epochs\": 30,", "\"epochs\": 1,"),
    ] {
        assert!(script.contains(written), "{written}");
        script = script.replace(written, here);
    }
    let home = tempfile::tempdir().unwrap();
    let mut shell = process::command("KILL", Path::new("bash"));
    shell.args(["-euo", "pipefail", "-c", &script]).current_dir(home.path()).stdin(Stdio::null());
    shell.env("DISTILLERY_URL", &server.url).env("HOME", home.path());
    let ran = tokio::task::spawn_blocking(move || shell.output().expect("there is a shell"));
    let ran = tokio::time::timeout(3 * PATIENCE, ran).await.expect("it ends").unwrap();
    let said = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(ran.status.success(), "{said}");
    for line in printed.iter().filter(|line| *line != "…") {
        assert!(said.contains(line), "{line:?} in {said}");
    }
    assert!(std::fs::metadata(home.path().join("distilled.onnx")).unwrap().len() > 1_000_000);
}
