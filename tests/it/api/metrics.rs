//! Promise: a job's series are returned as recorded, or thinned without losing a peak.

use std::time::Duration;

use crate::support::api::Api;
use chrono::{TimeDelta, Utc};
use distillery::db::queue::{self, FencingToken, ReportBatch};
use distillery::protocol::Point;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn record(api: &Api, token: &FencingToken, name: &str, values: impl Iterator<Item = f64>) {
    let start = Utc::now();
    let point = |(step, value): (usize, f64)| Point {
        name: name.to_owned(),
        step: step as u64,
        epoch: step as f64 / 100.0,
        time: start + TimeDelta::milliseconds(step as i64),
        value,
    };
    let points: Vec<_> = values.enumerate().map(point).collect();
    assert!(
        queue::record(&api.db.pool, &token.write(), &ReportBatch { points, ..ReportBatch::default() }).await.unwrap()
    );
}

fn values(series: &Value) -> Vec<f64> {
    series["points"].as_array().unwrap().iter().map(|point| point["value"].as_f64().unwrap()).collect()
}

#[tokio::test]
async fn series_are_grouped_by_name_and_ordered_by_step() {
    let api = Api::start().await;
    let id = api.job().await;
    let path = format!("/v1/jobs/{id}/metrics");
    assert_eq!(api.get(&path).await.expect(200), json!({"series": [], "last_id": 0}));
    let token = api.claim().await;
    record(&api, &token, "train/loss", [3.0, 2.0, 1.5].into_iter()).await;
    record(&api, &token, "eval/top1", [10.0, 20.0].into_iter()).await;
    let all = api.get(&path).await.expect(200);
    let names: Vec<_> =
        all["series"].as_array().unwrap().iter().map(|series| series["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["eval/top1", "train/loss"]);
    assert_eq!(values(&all["series"][1]), [3.0, 2.0, 1.5]);
    let point = &all["series"][1]["points"][1];
    assert_eq!((&point["step"], &point["epoch"]), (&json!(1), &json!(0.01)));
    assert!(point["time"].as_str().unwrap().ends_with('Z'));
    assert!(all["last_id"].as_i64() > Some(0));
    let one = api.get(&format!("{path}?name=eval/top1&name=lr")).await.expect(200);
    assert_eq!(one["series"].as_array().unwrap().len(), 1);
    assert_eq!(one["series"][0], all["series"][0]);
    for query in ["max_points=3", "max_points=x", "names=lr"] {
        api.get(&format!("{path}?{query}")).await.problem(400);
    }
}

#[tokio::test]
async fn a_name_that_no_series_can_have_is_refused_unless_the_job_has_it() {
    let api = Api::start().await;
    let id = api.job().await;
    let with = |names: &str| format!("/v1/jobs/{id}/metrics?{names}");
    // No job needs to have the series of all jobs yet.
    let none = api.get(&with("name=eval/top1&name=sdd/scale_4/loss")).await.expect(200);
    assert_eq!(none["series"], json!([]));
    let refused = api.get(&with("name=lr&name=eval/topp1")).await;
    refused.says(400, &["name: unknown series \"eval/topp1\"", "did you mean eval/top1?", "train/loss"]);
    api.get(&with("name=sdd/scale_x/loss")).await.says(400, &["unknown series", "known: "]);
    let accept = api.request(Method::GET, &with("name=loss")).header("accept", "text/csv");
    api.send(accept).await.says(400, &["unknown series \"loss\""]);
    // A worker of another version may have other series.
    let token = api.claim().await;
    record(&api, &token, "warp", [3.0].into_iter()).await;
    let own = api.get(&with("name=warp&name=eval/top1")).await.expect(200);
    assert_eq!((&own["series"][0]["name"], values(&own["series"][0])), (&json!("warp"), vec![3.0]));
    api.get(&with("name=warpp")).await.says(400, &["did you mean warp?"]);
}

#[tokio::test]
async fn thinning_keeps_peaks_ends_and_order() {
    let api = Api::start().await;
    let id = api.job().await;
    let token = api.claim().await;
    let total = 10_000;
    let value = |step: usize| match step {
        4321 => 1e6,
        7777 => -1e6,
        _ => (step as f64 / 50.0).sin(),
    };
    record(&api, &token, "train/loss", (0..total).map(value)).await;
    record(&api, &token, "lr", (0..50).map(|_| 0.05)).await;
    let path = format!("/v1/jobs/{id}/metrics");
    let thinned = api.get(&format!("{path}?max_points=100")).await.expect(200);
    assert_eq!(values(&thinned["series"][0]).len(), 50, "a short series stays whole");
    let loss = &thinned["series"][1];
    let steps: Vec<_> =
        loss["points"].as_array().unwrap().iter().map(|point| point["step"].as_u64().unwrap()).collect();
    assert!((50..=100).contains(&steps.len()), "{}", steps.len());
    assert!(steps.is_sorted());
    for step in [0, 4321, 7777, total as u64 - 1] {
        assert!(steps.contains(&step), "{step}");
    }
    assert!(values(&api.get(&path).await.expect(200)["series"][1]).len() <= 2000);
    let whole = api.get(&format!("{path}?max_points=100000&name=train/loss")).await.expect(200);
    let found = values(&whole["series"][0]);
    assert_eq!(found.len(), total);
    assert!(found.into_iter().zip((0..total).map(value)).all(|(found, value)| (found - value).abs() < 1e-9));
    let smallest = api.get(&format!("{path}?max_points=4&name=train/loss")).await.expect(200);
    assert_eq!(values(&smallest["series"][0]).len(), 4);
}

#[tokio::test]
async fn a_spreadsheet_gets_csv() {
    let api = Api::start().await;
    let id = api.job().await;
    let token = api.claim().await;
    record(&api, &token, "odd, \"name\"", [1.0, 0.25].into_iter()).await;
    let path = format!("/v1/jobs/{id}/metrics");
    let accept = async |accept: &str| api.send(api.request(Method::GET, &path).header("accept", accept)).await;
    let csv = accept("text/csv").await;
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
    let text = csv.text();
    let lines: Vec<_> = text.split("\r\n").collect();
    assert_eq!(lines[0], "name,step,epoch,time,value");
    assert!(lines[1].starts_with("\"odd, \"\"name\"\"\",0,0,20") && lines[1].ends_with("Z,1"), "{}", lines[1]);
    assert!(lines[2].ends_with("Z,0.25"));
    assert_eq!(lines.len(), 4);
    for (header, kind) in [
        ("*/*", "application/json"),
        ("application/json, text/csv;q=0.5", "application/json"),
        ("text/csv;q=0", "application/json"),
        ("text/csv, */*;q=0.1", "text/csv; charset=utf-8"),
    ] {
        assert_eq!(accept(header).await.header("content-type"), kind, "{header}");
    }
}

/// Adds two series of so many points each.
async fn fill(api: &Api, id: &str, points: i64) {
    let insert = "insert into metrics (job_id, attempt, name, step, epoch, time, value)
        select $1, 1, name, step, step / 100.0, now(), step % 1009 * 7919 % 1013
        from generate_series(1, $2) as step, unnest(array['lr', 'train/loss']) as name";
    sqlx::query(insert).bind(id).bind(points).execute(&api.db.pool).await.unwrap();
}

#[tokio::test]
async fn clients_that_stop_reading_their_charts_keep_nobody_from_theirs() {
    // However long a busy machine takes for the others, the first client may read its answer afterwards.
    let api = Api::start_with(|settings| settings.reader_patience = Duration::from_secs(3600)).await;
    let id = api.job().await;
    fill(&api, &id, 100_000).await;
    let path = format!("/v1/jobs/{id}/metrics?max_points=100000");
    let address = api.url.strip_prefix("http://").unwrap();
    let mut slow = Vec::new();
    for accept in ["text/csv", "application/json"].into_iter().cycle().take(40) {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
        connection.write_all(head.as_bytes()).await.unwrap();
        // The answer has begun, and nothing more of it is read.
        let mut status = [0; 12];
        connection.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        slow.push(connection);
    }
    let chart = api.get(&format!("/v1/jobs/{id}/metrics")).await.expect(200);
    assert!(chart["series"].as_array().unwrap().iter().all(|series| values(series).len() > 1000));
    // And an answer that waited for its reader is whole.
    let mut late = String::new();
    slow[0].read_to_string(&mut late).await.unwrap();
    let lines = late.lines().filter(|line| line.starts_with("lr,") || line.starts_with("train/loss,"));
    assert_eq!(lines.count(), 200_000);
}

#[tokio::test]
async fn a_long_answer_is_one_document_with_the_points_of_a_short_one() {
    let api = Api::start().await;
    let id = api.job().await;
    fill(&api, &id, 30_000).await;
    let path = format!("/v1/jobs/{id}/metrics");
    for (most, at_least) in [(100_000, 30_000), (9000, 4500)] {
        let answer = api.get(&format!("{path}?max_points={most}")).await.expect(200);
        assert_eq!(answer["series"].as_array().unwrap().len(), 2);
        for series in answer["series"].as_array().unwrap() {
            let points = series["points"].as_array().unwrap();
            assert!((at_least..=most.min(30_000)).contains(&points.len()), "{}", points.len());
            let steps: Vec<_> = points.iter().map(|point| point["step"].as_u64().unwrap()).collect();
            assert!(steps.is_sorted_by(|one, next| one < next));
            assert_eq!((steps[0], steps[steps.len() - 1]), (1, 30_000));
            for extreme in [0.0, 1012.0] {
                let all = (1..=30_000).filter(|step| f64::from(step % 1009 * 7919 % 1013) == extreme).count();
                assert!(all == 0 || values(series).contains(&extreme), "{extreme}");
            }
        }
    }
    let spread = async |query: &str| {
        let request = api.request(Method::GET, &format!("{path}?max_points=100000{query}"));
        api.send(request.header("accept", "text/csv")).await.text()
    };
    assert_eq!(spread("&name=lr&name=lr").await.lines().count(), 30_001);
    assert_eq!(spread("").await.lines().count(), 60_001);
}
