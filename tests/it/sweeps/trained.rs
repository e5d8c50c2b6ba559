//! Sweeps on the real server, worker and trainer.

use serde_json::{Value, json};

use crate::support::server::{Options, Server, quick_job};

async fn post(server: &Server, document: &Value) -> String {
    let (status, body) = server.call(server.http.post(format!("{}/v1/sweeps", server.url)).json(document)).await;
    assert_eq!(status, 201, "{body}");
    body["id"].as_str().unwrap().to_owned()
}

fn jobs(result: &Value) -> impl Iterator<Item = &str> {
    result["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap())
}

/// The sweep, once all of its jobs have ended.
async fn finished(server: &Server, sweep: &str) -> Value {
    let path = format!("/v1/sweeps/{sweep}");
    let made = server.get(&path).await;
    for job in made["results"].as_array().unwrap().iter().flat_map(jobs) {
        server.finished(job).await;
    }
    let ended = server.get(&path).await;
    assert_eq!(ended["status"], "finished", "{ended:#}");
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn halving_finds_the_winner_of_the_grid_and_its_students_have_the_same_bytes() {
    let server = Server::start(Options::default()).await;
    let mut base = quick_job();
    base["training"]["epochs"] = json!(6);
    // Two of the three hardly learn.
    let axes = json!({"/training/optimizer/learning_rate": [1e-7, 0.05, 1e-6]});
    let mut document = json!({"name": "rates", "base": base, "axes": axes, "seeds": 2});
    let grid = post(&server, &document).await;
    let grid = finished(&server, &grid).await;
    document["strategy"] = json!({"type": "halving", "rungs": [3, 6], "keep": 0.33});
    let halving = post(&server, &document).await;
    let halving = finished(&server, &halving).await;
    let [of_grid, of_halving] = [&grid, &halving].map(|sweep| &sweep["results"][0]);
    assert_eq!(of_grid["settings"], json!({"/training/optimizer/learning_rate": 0.05}));
    assert_eq!(of_halving["settings"], of_grid["settings"]);
    for (one, other) in jobs(of_grid).zip(jobs(of_halving)) {
        let student = async |job: &str| {
            let job = server.get(&format!("/v1/jobs/{job}")).await;
            job["result"]["student"]["sha256"].as_str().expect("a hash").to_owned()
        };
        assert_eq!(student(one).await, student(other).await);
    }
    for dropped in &halving["results"].as_array().unwrap()[1..] {
        assert_eq!(dropped["dropped_after"], 3);
        for job in jobs(dropped) {
            let metrics = server.get(&format!("/v1/jobs/{job}/metrics?name=eval/top1")).await;
            let points = metrics["series"][0]["points"].as_array().unwrap().iter();
            let epochs: Vec<_> = points.map(|point| point["epoch"].as_f64().unwrap()).collect();
            assert_eq!(epochs, [1.0, 2.0, 3.0], "it stopped exactly at the rung");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_sweep_share_decoded_images_and_the_logits_and_the_evaluation_of_their_teacher() {
    let server = Server::start(Options::default()).await;
    let teacher = server.post(&quick_job()).await;
    let mut base = quick_job();
    base["teacher"] = json!({"job": teacher});
    base["distillation"] = json!({"method": "sdd_kd"});
    let axes = json!({"/distillation/temperature": [2, 4], "/distillation/scales": [[1], [1, 2]]});
    let sweep = post(&server, &json!({"base": base, "axes": axes, "seeds": 2})).await;
    let sweep = finished(&server, &sweep).await;
    assert_eq!(sweep["jobs"], json!({"succeeded": 8}), "{sweep:#}");
    let files = std::fs::read_dir(server.dir.path().join("data/cache")).unwrap();
    let names: Vec<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    let count = |kind: &str| names.iter().filter(|name| name.starts_with(kind)).count();
    // There are two splits, and the report on the regions of the evaluation images depends on the scales.
    assert_eq!((count("images-"), count("teacher-"), count("evaluation-")), (2, 1, 2), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_whose_workers_are_killed_has_the_winner_and_the_bytes_of_an_undisturbed_one() {
    let server = Server::start(Options { workers: Some(0), ..Options::default() }).await;
    let lease = [("DISTILLERY_LEASE_SECONDS", "2")];
    let mut base = quick_job();
    base["training"]["epochs"] = json!(40);
    let document = json!({
        "name": "rates",
        "base": base,
        "axes": {"/training/optimizer/learning_rate": [1e-7, 0.05]},
        "strategy": {"type": "halving", "rungs": [20, 40], "keep": 0.5},
    });
    let mut worker = server.start_worker(&lease);
    let quiet = post(&server, &document).await;
    let quiet = finished(&server, &quiet).await;
    let sweep = post(&server, &document).await;
    let made = server.get(&format!("/v1/sweeps/{sweep}")).await;
    let mut members: Vec<&str> = made["results"].as_array().unwrap().iter().flat_map(jobs).collect();
    members.sort_unstable();
    // Each of them before the rung, and the one that goes on behind it.
    for (job, epoch) in [(members[0], 3), (members[1], 3), (members[1], 23)] {
        server.wait_until(job, |job| job["progress"]["epoch"].as_u64() >= Some(epoch)).await;
        worker.kill().await;
        worker = server.start_worker(&lease);
    }
    let ended = finished(&server, &sweep).await;
    let winner = async |sweep: &Value| {
        let result = &sweep["results"][0];
        let job = server.get(&format!("/v1/jobs/{}", jobs(result).next().unwrap())).await;
        (result["settings"].clone(), job["result"]["student"]["sha256"].clone(), job["attempt"].as_u64())
    };
    let (expected, found) = (winner(&quiet).await, winner(&ended).await);
    assert_eq!((&found.0, &found.1), (&expected.0, &expected.1));
    assert!(found.1.is_string() && found.2 > expected.2, "{found:?} was killed, and {expected:?} was not");
    let dropped = &ended["results"][1];
    assert_eq!((&dropped["dropped_after"], &dropped["rungs"]), (&json!(20), &quiet["results"][1]["rungs"]));
}
