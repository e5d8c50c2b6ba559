//! Sweeps from a shell.

use std::path::Path;
use std::time::Duration;

use distillery::db::queue;
use distillery::protocol::{ErrorClass, Failure};
use serde_json::{Value, json};

use super::run;
use crate::support::api::{Api, plain_job};
use crate::support::server::{Options, Server, quick_job};

fn write(dir: &Path, base: Value) {
    let axes = json!({"/training/optimizer/learning_rate": [0.05, 0.01]});
    let document = json!({"name": "rates", "base": base, "axes": axes, "seeds": 2});
    std::fs::write(dir.join("sweep.json"), document.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_is_posted_watched_and_its_table_taken() {
    let (server, home) = (Server::start(Options::default()).await, tempfile::tempdir().unwrap());
    write(home.path(), quick_job());
    let watched = run(&server.url, home.path(), &["sweep", "submit", "sweep.json", "--watch"]).await;
    assert_eq!(watched.code, 0, "{watched:?}");
    let id = watched.stdout.lines().next().unwrap();
    assert!(watched.stderr.contains(&format!("/#/sweeps/{id}")), "{watched:?}");
    assert!(watched.stdout.contains("finished: 2 combinations (jobs: 4 succeeded)"), "{watched:?}");
    assert!(watched.stdout.contains("/training/optimizer/learning_rate 0.01"), "{watched:?}");
    let csv = run(&server.url, home.path(), &["sweep", "show", id, "--csv"]).await.expect(0);
    assert_eq!(csv.lines().count(), 3, "{csv}");
    let shown = run(&server.url, home.path(), &["sweep", "show", id, "--json"]).await.json();
    assert_eq!(shown["results"][0]["n"], 2);
}

#[tokio::test]
async fn a_sweep_is_estimated_listed_controlled_and_deleted() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    write(home.path(), plain_job());
    let go = async |arguments: &[&str]| run(&api.url, home.path(), &[&["sweep"][..], arguments].concat()).await;
    let estimate = go(&["submit", "sweep.json", "--dry-run"]).await.expect(0);
    assert!(estimate.contains("4: 2 combinations with 2 seeds") && estimate.contains("memory"), "{estimate}");
    let estimate = go(&["submit", "sweep.json", "--dry-run", "--size-mb", "0.1"]).await.expect(0);
    assert!(estimate.contains("warning: the student cannot qualify: its untrained network has size_mb"), "{estimate}");
    let said = go(&["submit", "sweep.json"]).await;
    let id = said.stdout.trim();
    assert!(said.stderr.contains("jobs: 4 queued"), "{said:?}");
    let list = go(&["list"]).await.expect(0);
    assert!(list.lines().nth(1).unwrap().starts_with(id), "{list}");
    assert!(go(&["show", id]).await.expect(0).contains("running: 2 combinations"));
    let rates = json!({"/training/optimizer/learning_rate": [0.1]});
    let one =
        json!({"base": plain_job(), "axes": rates, "strategy": {"type": "halving", "rungs": [1, 2], "keep": 0.5}});
    std::fs::write(home.path().join("one.json"), one.to_string()).unwrap();
    let estimate = go(&["submit", "one.json", "--dry-run"]).await.expect(0);
    assert!(estimate.contains("1: 1 combination with 1 seed\n"), "{estimate}");
    let alone = go(&["submit", "one.json"]).await.expect(0);
    let shown = go(&["show", alone.trim()]).await.expect(0);
    assert!(shown.contains("running: 1 combination (jobs: 1 queued), compares them next after 1 epoch\n"), "{shown}");
    assert!(go(&["delete", id]).await.fails(3).contains("4 of its jobs are not finished"));
    assert!(go(&["delete", id]).await.fails(3).contains("cancel the sweep first"));
    for (action, status) in [("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")] {
        assert_eq!(go(&[action, id]).await.expect(0).trim(), format!("{id} is {status}"));
    }
    go(&["watch", id]).await.expect(7);
    go(&["delete", id]).await.expect(0);
    go(&["show", id]).await.fails(3);
    // What is no id is found before anything is sent.
    for wrong in ["job_1", "swp_nope", "swp_", &id[..id.len() - 1], &id.to_lowercase()] {
        for action in ["show", "watch", "pause", "resume", "cancel", "delete"] {
            go(&[action, wrong]).await.fails(2);
        }
    }
    // Faults have their places.
    let faulty = json!({"base": plain_job(), "axes": {"/training/epochs": [1, 0]}});
    std::fs::write(home.path().join("sweep.json"), faulty.to_string()).unwrap();
    let said = go(&["submit", "sweep.json"]).await.fails(3);
    assert!(said.contains("sweep.json: ") && said.contains("/axes/~1training~1epochs/1"), "{said}");
}

#[tokio::test]
async fn a_cancelled_sweep_is_followed_until_its_last_job_has_stopped() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    write(home.path(), plain_job());
    let go = async |arguments: &[&str]| run(&api.url, home.path(), &[&["sweep"][..], arguments].concat()).await;
    let id = go(&["submit", "sweep.json"]).await.expect(0);
    let (id, running) = (id.trim(), api.claim().await);
    let cancelled = go(&["cancel", id]).await;
    assert!(cancelled.stderr.contains("1 of its jobs is still stopping"), "{cancelled:?}");
    let refused = go(&["delete", id]).await.fails(3);
    assert!(
        refused.contains(&format!("1 of its jobs is not finished: {} is cancelling; wait", running.job)),
        "{refused}"
    );
    let arguments = ["watch", id];
    let watch = go(&arguments);
    tokio::pin!(watch);
    let early = tokio::time::timeout(Duration::from_secs(3), &mut watch).await;
    assert!(early.is_err(), "{early:?}");
    queue::stopped(&api.db.pool, &running.write()).await.unwrap().expect("the attempt holds the job");
    let ended = watch.await.expect(7);
    assert!(ended.contains("cancelled: 2 combinations (jobs: 4 cancelled)"), "{ended}");
    go(&["delete", id]).await.expect(0);
}

#[tokio::test]
async fn webhooks_of_the_command_line_are_those_of_the_sweep_and_of_its_jobs() {
    let api = Api::start_with(|settings| settings.webhooks = vec!["ops".to_owned(), "team".to_owned()]).await;
    let home = tempfile::tempdir().unwrap();
    let at = home.path().join("sweep.json");
    let go = async |arguments: &[&str]| run(&api.url, home.path(), &[&["sweep"][..], arguments].concat()).await;
    let axes = r#""axes": {"/training/optimizer/learning_rate": [1.50e-1, 0.05]}"#;
    let document = format!("\u{feff}\n{{\"base\": {}, {axes}}}", plain_job());
    std::fs::write(&at, &document).unwrap();
    let id = go(&["submit", "sweep.json", "--webhook", "ops,team", "--job-webhook", "team"]).await.expect(0);
    let path = format!("/v1/sweeps/{}", id.trim());
    let sweep = api.get(&path).await.expect(200);
    assert_eq!(sweep["webhooks"], json!(["ops", "team"]));
    let job = sweep["results"][0]["jobs"][0]["id"].as_str().unwrap();
    assert_eq!(api.get(&format!("/v1/jobs/{job}")).await.expect(200)["webhooks"], json!(["team"]));
    // Everything else is as it was written.
    let posted = api.get(&format!("{path}/submitted")).await.text();
    let expected = format!("\n{{\"webhooks\": [\"ops\",\"team\"], \"base\": {}, {axes}}}", plain_job());
    assert_eq!(posted, expected);
    let said = go(&["submit", "sweep.json", "--webhook", "other"]).await.fails(3);
    assert!(said.contains("/webhooks/0") && said.contains("there are ops, team"), "{said}");
    std::fs::write(&at, posted).unwrap();
    let said = go(&["submit", "sweep.json", "--webhook", "ops"]).await.fails(2);
    assert!(said.contains("names webhooks itself"), "{said}");
    // What is no document of a sweep is for the server to refuse.
    for faulty in ["{", "[]", "{}"] {
        std::fs::write(&at, faulty).unwrap();
        go(&["submit", "sweep.json", "--webhook", "ops"]).await.fails(3);
    }
}

#[tokio::test]
async fn a_sweep_that_leaves_no_student_has_failed_and_one_with_some_says_what_does_not_count() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    write(home.path(), plain_job());
    let go = async |arguments: &[&str]| run(&api.url, home.path(), &[&["sweep"][..], arguments].concat()).await;
    for (fails, code) in [(4, 6), (1, 0)] {
        let id = go(&["submit", "sweep.json"]).await.expect(0);
        let first = api.claim().await;
        for job in 0..4 {
            let token = if job == 0 { first.clone() } else { api.claim().await };
            if job < fails {
                let failure = Failure { class: ErrorClass::User, message: "the data is gone".into() };
                queue::fail(&api.db.pool, &token.write(), &failure).await.unwrap();
            } else {
                api.publish(&token, &[]).await;
            }
        }
        let watched = go(&["watch", id.trim()]).await;
        assert_eq!(watched.code, code, "{watched:?}");
        assert_eq!(watched.stderr.contains("1 of its jobs failed"), fails == 1, "{watched:?}");
        let shown = go(&["show", id.trim()]).await.expect(0);
        let why =
            format!("failed, first {}: the job, a checkpoint or the data is at fault: the data is gone", first.job);
        assert!(shown.contains(&why) && shown.contains(&format!("{fails} job")), "{shown}");
        let failed = ["jobs", "--status", "failed", "--sweep", id.trim(), "--json"];
        let failed = run(&api.url, home.path(), &failed).await.json();
        assert_eq!(failed["data"].as_array().unwrap().len(), fails, "{failed:#}");
    }
}

#[tokio::test]
async fn as_many_sweeps_are_listed_as_asked_for_although_pages_are_shorter() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let insert = "insert into sweeps (id, name, submitted, axes, seeds, strategy)
        select 'swp_' || lpad(number::text, 26, '0'), 'wide', '{}',
            json_build_array(json_build_object('pointer', '/notes', 'values', json_build_array(repeat('x', 300000)))),
            1, '{\"type\": \"grid\"}'
        from generate_series(1, 12) as number";
    sqlx::query(insert).execute(&api.db.pool).await.unwrap();
    let list = async |limit: &str| run(&api.url, home.path(), &["sweep", "list", "--limit", limit]).await;
    let listed = list("10").await;
    assert_eq!((listed.code, listed.stdout.lines().count()), (0, 11), "{listed:?}");
    assert!(listed.stderr.contains("there are more sweeps"), "{listed:?}");
    let listed = list("12").await;
    assert_eq!((listed.code, listed.stdout.lines().count()), (0, 13), "{listed:?}");
    assert!(!listed.stderr.contains("there are more sweeps"), "{listed:?}");
}
