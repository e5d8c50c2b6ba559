//! `watch` and `logs` follow a job to its end, whatever happens to the connection or to the command.

use std::path::Path;
use std::process::Stdio;

use distillery::db::jobs::Change;
use distillery::db::queue::{self, FencingToken, ReportBatch};
use distillery::protocol::{ErrorClass, Failure, Level, Point, Progress};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::proxy::Proxy;
use super::{command, run};
use crate::support::api::Api;
use crate::support::process::{Lines, Process};

/// What an attempt reports at a step, as a line of the log and as a point.
async fn report(api: &Api, token: &FencingToken, step: i64, line: &str) {
    let point = json!({"name": "eval/top1", "step": step, "epoch": 1.0, "time": "2026-01-01T00:00:00Z", "value": 12.5});
    let point: Point = serde_json::from_value(point).unwrap();
    let batch = ReportBatch { progress: None, points: vec![point], logs: vec![(Level::Info, line.to_owned())] };
    assert!(queue::record(&api.db.pool, &token.write(), &batch).await.unwrap());
}

async fn fail(api: &Api, token: &FencingToken) {
    let failure = Failure { class: ErrorClass::Numeric, message: "step 7: loss is NaN".to_owned() };
    queue::fail(&api.db.pool, &token.write(), &failure).await.unwrap().unwrap();
}

fn start(url: &str, dir: &Path, arguments: &[&str]) -> (Process, Lines, Lines) {
    let mut process = Process::start(command(url, dir, arguments));
    let (stdout, stderr) = (process.stdout(), process.stderr());
    (process, stdout, stderr)
}

#[tokio::test]
async fn a_watched_job_that_fails_fails_the_command_with_a_code_of_its_own() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let id = api.job().await;
    let token = api.claim().await;
    let (mut process, mut lines, _errors) = start(&api.url, home.path(), &["watch", &id]);
    lines.until("queued").await;
    report(&api, &token, 1, "one epoch is done").await;
    // The stream sends lines of the log and points in turns.
    lines.until_all(&["one epoch is done", "top-1 accuracy is 12.50 %"]).await;
    fail(&api, &token).await;
    let last = lines.until("failed: the loss is not finite").await;
    assert!(last.contains("step 7: loss is NaN"), "{last}");
    assert_eq!(process.ended().await.code(), Some(6));
    // This works for a job that has ended already, too.
    let said = run(&api.url, home.path(), &["watch", &id]).await.expect(6);
    assert!(said.contains("one epoch is done") && said.contains("failed: the loss is not finite"), "{said}");
}

/// The same on a terminal, to which it writes both its output and its errors.
fn start_on_terminal(url: &str, dir: &Path, arguments: &[&str]) -> (Process, Lines) {
    let plain = command(url, dir, arguments);
    let mut command = distillery::process::command("KILL", Path::new("script"));
    let line = format!("{} {}", env!("CARGO_BIN_EXE_distillery"), arguments.join(" "));
    command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("TERM", "xterm").current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = Process::start(command);
    let lines = process.terminal();
    (process, lines)
}

#[tokio::test]
async fn a_watched_job_has_a_progress_bar_on_a_terminal() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let id = api.job().await;
    let token = api.claim().await;
    let (mut process, mut lines) = start_on_terminal(&api.url, home.path(), &["watch", &id]);
    lines.until("queued").await;
    let first = lines.until(" 0 %").await;
    assert!(first.contains("running"), "an empty line is above the bar: {first:?}");
    let progress =
        Progress { epoch: 1, epochs: 2, step: 5, steps: 10, fraction: 0.5, images_per_second: 640.0, eta_seconds: 5.0 };
    let batch = ReportBatch { progress: Some(progress), points: Vec::new(), logs: Vec::new() };
    assert!(queue::record(&api.db.pool, &token.write(), &batch).await.unwrap());
    lines.until("epoch 1 of 2, 640 images/s").await;
    fail(&api, &token).await;
    let bar = lines.until(" 50 %").await;
    assert!(bar.contains('█') && bar.contains('░'), "{bar}");
    assert_eq!(process.ended().await.code(), Some(6));
}

#[tokio::test]
async fn a_watched_job_that_is_cancelled_or_succeeds_ends_the_command_so() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let cancelled = api.job().await;
    api.db.change(&cancelled, Change::Cancel).await;
    run(&api.url, home.path(), &["watch", &cancelled]).await.expect(7);
    let id = api.job().await;
    let files: [(&str, &[u8]); 1] = [("student.safetensors", b"student")];
    api.publish(&api.claim().await, &files).await;
    let said = run(&api.url, home.path(), &["watch", &id]).await.expect(0);
    assert!(said.contains("succeeded: the student's top-1 accuracy is 76.30 %"), "{said}");
    assert!(said.contains(&format!("distillery download {id}")), "{said}");
}

#[tokio::test]
async fn a_signal_ends_the_command_and_not_the_job() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let id = api.job().await;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (mut process, mut lines, mut errors) = start(&api.url, home.path(), &["watch", &id]);
        lines.until("queued").await;
        process.signal(signal);
        let said = errors.until("the job goes on without this command").await;
        assert!(said.contains(&format!("distillery cancel {id}")), "{said}");
        assert_eq!(process.ended().await.code(), Some(code));
        assert_eq!(api.get(&format!("/v1/jobs/{id}")).await.expect(200)["status"], "queued");
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_off_goes_on_without_a_gap_and_without_repetition() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let id = api.job().await;
    let token = api.claim().await;
    // The first connection has the requests before the stream and then the stream.
    let proxy = Proxy::start(&api.url, &[30_000, 0, 15_000]).await;
    let (mut process, mut lines, mut errors) = start(&proxy.url, home.path(), &["watch", &id]);
    lines.until("queued").await;
    let filler = "x".repeat(1000);
    for number in 0..100 {
        report(&api, &token, number, &format!("line {number} {filler}")).await;
    }
    errors.until("trying to connect again").await;
    errors.until("connected again").await;
    for number in 100..110 {
        report(&api, &token, number, &format!("line {number} {filler}")).await;
    }
    fail(&api, &token).await;
    let mut seen = Vec::new();
    while let Some(number) = lines
        .find(|line| {
            let number = line.split_once("  line ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u32>().ok());
            number.or_else(|| line.contains("failed: the loss is not finite").then_some(u32::MAX))
        })
        .await
    {
        seen.push(number);
    }
    assert_eq!(seen, (0..110).chain([u32::MAX]).collect::<Vec<_>>());
    assert_eq!(process.ended().await.code(), Some(6));
}

#[tokio::test]
async fn a_server_that_stays_away_ends_the_command_which_says_that_the_job_goes_on() {
    let (mut api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let id = api.job().await;
    let watch = ["watch", &id, "--json", "--reconnect", "1"];
    let (mut process, mut lines, mut errors) = start(&api.url, home.path(), &watch);
    // All lines come from the stream, which therefore is open.
    lines.until("queued").await;
    api.stop.cancel();
    api.stopped().await;
    errors.until("trying to connect again").await;
    errors.until("the job goes on without this command").await;
    assert_eq!(process.ended().await.code(), Some(4));
}

#[tokio::test]
async fn logs_print_the_history_and_follow_it_to_the_end() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let id = api.job().await;
    let token = api.claim().await;
    report(&api, &token, 1, "first").await;
    report(&api, &token, 2, "second\u{1b}[2Jcleared\nand more").await;
    let all = run(&api.url, home.path(), &["logs", &id]).await.expect(0);
    assert!(all.contains("first") && all.contains("second\u{fffd}[2Jcleared\n  and more\n"), "{all}");
    let last = run(&api.url, home.path(), &["logs", &id, "--tail", "1", "--json"]).await.json();
    assert_eq!(last["message"], "second\u{1b}[2Jcleared\nand more");
    let (mut process, mut lines, _errors) = start(&api.url, home.path(), &["logs", "-f", &id, "--tail", "1"]);
    let first = lines.find(|line| Some(line.to_owned())).await.unwrap();
    assert!(first.contains("second"), "{first}");
    report(&api, &token, 3, "third").await;
    lines.until("third").await;
    fail(&api, &token).await;
    assert_eq!(process.ended().await.code(), Some(0), "it only reads");
}

#[tokio::test]
async fn a_program_gets_every_message_of_the_stream_as_json() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let id = api.job().await;
    let token = api.claim().await;
    report(&api, &token, 1, "once").await;
    fail(&api, &token).await;
    let said = run(&api.url, home.path(), &["watch", &id, "--json"]).await.expect(6);
    let messages: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| messages.iter().filter(|message| message["type"] == kind).count();
    assert_eq!((of("metric"), of("event") >= 3, of("status") >= 1), (1, true, true), "{said}");
    assert_eq!(messages.last().unwrap()["data"]["status"], "failed");
}
