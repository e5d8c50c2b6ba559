//! Writing, posting, listing and controlling jobs from a shell.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use clap::CommandFactory;
use distillery::cli::Cli;
use distillery::client::Exit;
use serde_json::{Value, json};

use super::{command, finish, run};
use crate::support::api::{Api, checkpoint, plain_job};
use crate::support::server::{Options, Server, quick_job};

fn write(dir: &Path, job: &Value) {
    std::fs::write(dir.join("job.json"), job.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_posted_watched_and_its_student_taken() {
    let (server, home) = (Server::start(Options::default()).await, tempfile::tempdir().unwrap());
    write(home.path(), &quick_job());
    let watched = run(&server.url, home.path(), &["submit", "job.json", "--watch"]).await;
    assert_eq!(watched.code, 0, "{watched:?}");
    let id = watched.stdout.lines().next().unwrap();
    assert!(watched.stdout.contains("top-1 accuracy is"), "{watched:?}");
    assert!(watched.stdout.contains(&format!("{id} succeeded")), "{watched:?}");
    let job = run(&server.url, home.path(), &["jobs", id, "--json"]).await.json();
    let taken = run(&server.url, home.path(), &["download", id, "-o", "student.safetensors", "--json"]).await.json();
    assert_eq!(taken["sha256"], job["result"]["student"]["sha256"]);
    let list = run(&server.url, home.path(), &["jobs", "--status", "succeeded"]).await.expect(0);
    assert!(list.lines().nth(1).unwrap().starts_with(id), "{list}");
    // Training diverges at this learning rate.
    let mut job = quick_job();
    job["training"]["optimizer"] = json!({"learning_rate": 1000, "momentum": 0.99, "weight_decay": 1000});
    job["training"]["clip_grad_norm"] = Value::Null;
    job["training"]["epochs"] = json!(50);
    write(home.path(), &job);
    let said = run(&server.url, home.path(), &["submit", "job.json", "--watch"]).await.expect(6);
    assert!(said.contains("failed: the loss is not finite"), "{said}");
}

#[tokio::test]
async fn faults_of_a_refused_job_are_printed_with_their_places() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let mut job = plain_job();
    job["distillation"] = json!({"scales": [2, 1]});
    job["trainin"] = json!({});
    write(home.path(), &job);
    for arguments in
        [&["submit", "job.json"][..], &["submit", "job.json", "--dry-run"], &["submit", "job.json", "--watch"]]
    {
        let said = run(&api.url, home.path(), arguments).await.fails(3);
        assert!(said.starts_with("distillery: job.json: "), "{said}");
        for place in ["\n  /distillation/scales/1: scales must ascend", "\n  /teacher: ", "\n  /trainin: "] {
            assert!(said.contains(place), "{place:?} in {said}");
        }
    }
    let said = run(&api.url, home.path(), &["submit", "job.json", "--json"]).await.fails(3);
    let error: Value = serde_json::from_str(&said).unwrap();
    let faults = error["error"]["errors"].as_array().unwrap();
    assert!(faults.iter().any(|fault| fault["pointer"] == "/distillation/scales/1"), "{said}");
    // The detail of a single fault is the fault itself.
    let mut job = plain_job();
    job["trainin"] = json!({});
    write(home.path(), &job);
    let said = run(&api.url, home.path(), &["submit", "job.json"]).await.fails(3);
    assert_eq!((said.matches("/trainin").count(), said.lines().count()), (1, 1), "{said}");
    std::fs::write(home.path().join("job.json"), "{").unwrap();
    run(&api.url, home.path(), &["submit", "job.json"]).await.fails(3);
    run(&api.url, home.path(), &["submit", "missing.json"]).await.fails(1);
    assert_eq!(api.get("/v1/jobs").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn a_dry_run_estimates_and_stores_nothing() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    write(home.path(), &plain_job());
    let said = run(&api.url, home.path(), &["submit", "job.json", "--dry-run"]).await.expect(0);
    assert!(said.contains("can be posted") && said.contains("memory") && said.contains("warning: "), "{said}");
    assert_eq!(api.get("/v1/jobs").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn a_document_comes_from_standard_input_and_its_warnings_are_said() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let mut submit = command(&api.url, home.path(), &["submit", "-"]);
    submit.stdin(Stdio::piped());
    let submit = move || {
        let mut child = submit.spawn().unwrap();
        child.stdin.take().unwrap().write_all(plain_job().to_string().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(submit).await.unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && stdout.starts_with("job_") && stdout.lines().count() == 1, "{stdout} {stderr}");
    assert!(stderr.contains("warning: the job waits: no worker is running"), "{stderr}");
    assert!(stderr.contains(&format!("{}/#/jobs/{}", api.url, stdout.trim())), "{stderr}");
}

#[tokio::test]
async fn an_empty_document_is_called_empty() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    std::fs::write(home.path().join("empty.json"), "\n").unwrap();
    for arguments in [&["submit", "-"][..], &["sweep", "submit", "-"]] {
        let mut submit = command(&api.url, home.path(), arguments);
        submit.stdin(Stdio::null());
        let said = finish(submit).await.fails(1);
        assert!(said.contains("standard input is empty"), "{said}");
    }
    let said = run(&api.url, home.path(), &["submit", "empty.json", "--dry-run"]).await.fails(1);
    assert!(said.contains("empty.json is empty"), "{said}");
}

#[tokio::test]
async fn jobs_are_listed_page_by_page_and_by_label() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let mut ids = Vec::new();
    for number in 0..105 {
        let labels = json!({"labels": {"half": (number % 2).to_string()}, "name": format!("job {number}")});
        ids.push(api.db.add_job(labels).await);
    }
    let all = run(&api.url, home.path(), &["jobs", "--limit", "1000", "--json"]).await.json();
    let listed: Vec<&str> = all["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert!(listed.iter().eq(ids.iter().rev()), "{listed:?}");
    let some = run(&api.url, home.path(), &["jobs", "--limit", "101", "--label", "half:0", "--json"]).await.json();
    assert_eq!((some["data"].as_array().unwrap().len(), &some["has_more"]), (53, &json!(false)));
    let few = run(&api.url, home.path(), &["jobs", "--limit", "2"]).await;
    assert!(few.stdout.contains(ids[104]) && few.stdout.lines().count() == 3, "{few:?}");
    assert!(few.stderr.contains("there are more jobs"), "{few:?}");
    let said = run(&api.url, home.path(), &["jobs", "--status", "done"]).await.fails(3);
    assert!(said.contains("done"), "{said}");
}

#[tokio::test]
async fn several_jobs_are_controlled_at_once_and_a_refusal_keeps_none_of_the_others() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let (first, second) = (api.job().await, api.job().await);
    let missing = "job_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let ran = run(&api.url, home.path(), &["pause", &first, missing, &second]).await;
    assert_eq!((ran.code, ran.stdout), (3, format!("{first} is paused\n{second} is paused\n")));
    assert!(ran.stderr.contains(missing), "{}", ran.stderr);
    // What is no id is found before anything is sent.
    for wrong in ["nope", "job_nope", "job_", &first.to_lowercase()] {
        run(&api.url, home.path(), &["cancel", &first, wrong, &second]).await.fails(2);
    }
    assert_eq!(api.db.job(&first).await["status"], "paused");
    let answer = run(&api.url, home.path(), &["resume", &first, "--json"]).await.json();
    assert_eq!(answer["status"], "queued");
    run(&api.url, home.path(), &["cancel", &first]).await.expect(0);
    run(&api.url, home.path(), &["retry", &first]).await.expect(0);
    let said = run(&api.url, home.path(), &["retry", &second]).await.fails(3);
    assert!(said.contains("it cannot be retried"), "{said}");
}

#[tokio::test]
async fn a_job_is_edited_member_by_member() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let id = api.job().await;
    let arguments = ["edit", &id, "--name", "better", "--label", "team:vision", "--label", "a:b:c", "--priority", "-2"];
    let shown = run(&api.url, home.path(), &arguments).await.expect(0);
    assert!(shown.contains("better") && shown.contains("team:vision") && shown.contains("-2"), "{shown}");
    let arguments = ["edit", &id, "--remove-label", "team", "--notes", "first\nsecond", "--json"];
    let job = run(&api.url, home.path(), &arguments).await.json();
    assert_eq!((&job["labels"], &job["notes"]), (&json!({"a": "b:c"}), &json!("first\nsecond")));
    assert_eq!((&job["name"], &job["priority"]), (&json!("better"), &json!(-2)));
    let said = run(&api.url, home.path(), &["edit", &id, "--priority", "5000"]).await.fails(3);
    assert!(said.contains("/priority: "), "{said}");
    run(&api.url, home.path(), &["edit", &id]).await.fails(2);
}

#[tokio::test]
async fn a_first_job_is_written_from_a_data_set_and_a_teacher_and_can_be_posted() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    std::fs::write(home.path().join("teacher.safetensors"), checkpoint("resnet20", 10)).unwrap();
    let arguments = ["init", "--dataset", "ten", "--teacher", "teacher.safetensors"];
    let ran = run(&api.url, home.path(), &arguments).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "job.json\n"), "{ran:?}");
    assert!(ran.stderr.contains("the student is resnet8") && ran.stderr.contains("distillery submit job.json --watch"));
    let job: Value = serde_json::from_slice(&std::fs::read(home.path().join("job.json")).unwrap()).unwrap();
    assert_eq!(job["teacher"]["architecture"], "resnet20");
    assert_eq!((&job["student"], &job["dataset"]), (&json!({"architecture": "resnet8"}), &json!({"name": "ten"})));
    let id = run(&api.url, home.path(), &["submit", "job.json"]).await.expect(0);
    // An existing file stays, and another job's student can be the teacher.
    run(&api.url, home.path(), &arguments).await.fails(1);
    let full =
        ["init", "--dataset", "ten", "--teacher", id.trim(), "--student", "resnet14", "-o", "all.json", "--full"];
    run(&api.url, home.path(), &full).await.expect(0);
    let job: Value = serde_json::from_slice(&std::fs::read(home.path().join("all.json")).unwrap()).unwrap();
    assert_eq!((&job["teacher"]["job"], &job["training"]["optimizer"]["type"]), (&json!(id.trim()), &json!("sgd")));
}

#[tokio::test]
async fn a_first_job_with_an_exported_teacher_gets_a_smaller_student() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    std::fs::copy("tests/fixtures/exported/test_efficientnet.pt2", home.path().join("own.pt2")).unwrap();
    let ran = run(&api.url, home.path(), &["init", "--dataset", "ten", "--teacher", "own.pt2"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("the student is resnet8 with"), "{ran:?}");
    let job: Value = serde_json::from_slice(&std::fs::read(home.path().join("job.json")).unwrap()).unwrap();
    assert_eq!(job["student"], json!({"architecture": "resnet8"}));
    let other = ["init", "--dataset", "hundred", "--teacher", "own.pt2", "-o", "other.json"];
    let said = run(&api.url, home.path(), &other).await.fails(3);
    assert!(said.contains("the teacher has 10 classes, and the data set hundred has 100 classes"), "{said}");
}

#[tokio::test]
async fn a_first_job_that_cannot_work_is_not_written() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    std::fs::write(home.path().join("teacher.safetensors"), checkpoint("resnet20", 10)).unwrap();
    std::fs::write(home.path().join("smallest.safetensors"), checkpoint("resnet8", 10)).unwrap();
    for (dataset, teacher, says) in [
        ("digits", "teacher.safetensors", "it has hundred, ten"),
        ("hundred", "teacher.safetensors", "the teacher has 10 classes, and the data set hundred has 100 classes"),
        ("ten", "smallest.safetensors", "no network of the server is smaller than the teacher, which has"),
        ("ten", "ckpt_00000000000000000000000000000000", "there is no checkpoint"),
    ] {
        let said = run(&api.url, home.path(), &["init", "--dataset", dataset, "--teacher", teacher]).await.fails(3);
        assert!(said.contains(says), "{says:?} in {said}");
    }
    run(&api.url, home.path(), &["init", "--dataset", "ten", "--teacher", "missing.pth"]).await.fails(1);
    for [teacher, student] in [["ckpt_1", "resnet8"], ["job_nope", "resnet8"], ["teacher.safetensors", "ckpt_1"]] {
        let arguments = ["init", "--dataset", "ten", "--teacher", teacher, "--student", student];
        run(&api.url, home.path(), &arguments).await.fails(2);
    }
    assert!(!home.path().join("job.json").exists());
}

#[tokio::test]
async fn a_page_opens_in_the_browser_of_the_environment() {
    let home = tempfile::tempdir().unwrap();
    let address = "https://distillery.example/base/#/jobs/job_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let open = |arguments: &[&str], browser: &str| {
        let mut open = command("https://distillery.example/base", home.path(), arguments);
        open.env("BROWSER", browser);
        finish(open)
    };
    let said = open(&["open", "job_01ARZ3NDEKTSV4RRFFQ69G5FAV", "--print"], "false").await.expect(0);
    assert_eq!(said.trim(), address);
    let touch = home.path().join("browser");
    crate::support::process::write_script(
        &touch,
        "#!/bin/sh\nprintf %s \"$1\" > opened.part && mv opened.part opened\n",
    );
    open(&["open", "job_01ARZ3NDEKTSV4RRFFQ69G5FAV"], touch.to_str().unwrap()).await.expect(0);
    let opened = home.path().join("opened");
    crate::support::eventually("the browser starts", async || opened.exists().then_some(())).await;
    assert_eq!(std::fs::read_to_string(opened).unwrap(), address);
}

#[tokio::test]
async fn every_shell_can_complete_every_command() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = run("http://127.0.0.1:1", home.path(), &["completions", shell]).await.expect(0);
        for command in Cli::command().get_subcommands() {
            assert!(script.contains(command.get_name()), "{} in {shell}", command.get_name());
        }
    }
}

/// The first cells of the rows of a table below a heading.
fn first_cells<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")).skip(2);
    rows.map(|row| row.split(" | ").next().unwrap()).collect()
}

#[test]
fn the_documented_commands_and_exit_codes_are_those_of_the_program() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/shell.md")).unwrap();
    let codes: Vec<String> = Exit::ALL.iter().map(|exit| exit.code().to_string()).collect();
    assert_eq!(first_cells(&text, "Exit codes"), codes);
    let is_client = |command: &&clap::Command| {
        let of_commands = command.get_subcommands().flat_map(clap::Command::get_arguments);
        let mut arguments = command.get_arguments().chain(of_commands);
        command.get_name() == "completions" || arguments.any(|argument| argument.get_id() == "reconnect")
    };
    let commands = Cli::command();
    let mut names: Vec<&str> = commands.get_subcommands().filter(is_client).map(clap::Command::get_name).collect();
    let cells = first_cells(&text, "Commands");
    let documented = cells.iter().flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let mut documented: Vec<&str> = documented.map(|span| span.split(' ').next().unwrap()).collect();
    names.sort_unstable();
    documented.sort_unstable();
    assert_eq!(documented, names);
}
