//! Promise: `benches/evidence.py run` makes each run once, however often it is interrupted and whatever the server, and
//! records it. What it makes of the records is tested by `tests/evidence`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use distillery::process;
use serde_json::{Value, json};

use crate::support::process::{Lines, Process};
use crate::support::server::{Options, Server};

/// A small experiment on the server's data set.
const TRIAL: &str = "run published --name trial --dataset patterns --pair resnet14 resnet8 --image-size 16 \
    --batch-size 32 --epochs 2 --teacher-epochs 1 --schedule cosine --views 1 --poll 0.2";
const METHODS: [&str; 3] = ["kd", "sdd_kd+ls:1,2", "none"];

/// Starts the program with its files in `dir`.
fn start(server: &Server, dir: &Path, seeds: &str) -> (Process, Lines) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/evidence.py");
    let mut command = process::command("KILL", Path::new("python3"));
    command
        .arg(program)
        .args(TRIAL.split_whitespace())
        .arg("--methods")
        .args(METHODS)
        .args(["--seeds", seeds, "--server", &server.url])
        .args(["--records".as_ref(), dir.join("records").as_os_str()])
        .args(["--teachers".as_ref(), dir.join("teachers").as_os_str()])
        .env_remove("DISTILLERY_TOKEN")
        .env("no_proxy", "127.0.0.1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut process = Process::start(command);
    let lines = process.stdout();
    (process, lines)
}

/// Runs it to its end, which must be a success, and returns the records.
async fn run(server: &Server, dir: &Path, seeds: &str) -> Vec<Value> {
    let (mut process, _lines) = start(server, dir, seeds);
    let status = process.ended().await;
    assert!(status.success(), "{}", process::describe(status));
    records(dir)
}

fn records(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("records/trial.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    file["records"].as_array().unwrap().clone()
}

/// The methods of the server's jobs.
async fn methods_of_jobs(server: &Server) -> BTreeMap<String, u32> {
    let jobs = server.get("/v1/jobs?limit=100").await;
    let methods = jobs["data"].as_array().unwrap().iter().map(|job| job["labels"]["method"].as_str().unwrap());
    methods.fold(BTreeMap::new(), |mut counts, method| {
        *counts.entry(method.to_owned()).or_default() += 1;
        counts
    })
}

/// One job of each.
fn one_each(methods: &[&str]) -> BTreeMap<String, u32> {
    methods.iter().map(|&method| (method.to_owned(), 1)).collect()
}

#[tokio::test]
async fn runs_are_made_once_and_further_seeds_have_the_same_teacher_on_another_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Options::default()).await;
    let (process, mut lines) = start(&server, dir.path(), "1");
    lines.until("kd, seed 0: last top-1").await;
    process.kill().await;
    let made = run(&server, dir.path(), "1").await;

    assert_eq!(methods_of_jobs(&server).await, one_each(&["teacher", "kd", "sdd_kd+ls:1,2", "none"]));
    let methods: Vec<&str> = made.iter().map(|record| record["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["teacher", "kd", "sdd_kd+ls:1,2", "none"]);
    for record in &made[1..] {
        assert_eq!(record["images"], 240, "{record}");
        assert_eq!(record["eval_images"], 100, "{record}");
        assert_eq!(record["curve"].as_array().unwrap().len(), 2, "{record}");
        let last = |value: &Value| value.as_f64().unwrap();
        assert!((last(&record["curve"][1][1]) - last(&record["last_top1"])).abs() < 1e-3, "{record}");
        assert_eq!(record["machine"]["device"], "cpu", "{record}");
        assert!(record["seconds"].as_f64().unwrap() > 0.0, "{record}");
    }
    let regions = &made[2];
    assert_eq!(regions["scales"], json!([1, 2]));
    assert_eq!(regions["distillation"]["logit_standardisation"], true);
    assert_eq!(regions["teacher_sha256"], made[0]["student_sha256"]);
    assert!(regions["complementary"]["train"]["2"].is_number(), "{regions}");
    assert!(regions["complementary"]["eval"]["2"].is_number(), "{regions}");
    drop(server);

    let another = Server::start(Options::default()).await;
    assert_eq!(run(&another, dir.path(), "1").await, made);
    assert_eq!(methods_of_jobs(&another).await, one_each(&[]));
    let more = run(&another, dir.path(), "2").await;
    assert_eq!(methods_of_jobs(&another).await, one_each(&METHODS));
    assert_eq!(more[..4], made);
    assert_eq!(more.len(), 7);
    assert!(more[4..].iter().all(|record| record["seed"] == 1), "{more:?}");
    assert_eq!(more[4]["teacher_sha256"], made[1]["teacher_sha256"]);
}
