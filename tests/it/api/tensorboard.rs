//! Promise: a job's metrics download for TensorBoard, whole and at any time. What TensorBoard reads in such a file is
//! tested in `python/tests`.

use chrono::{DateTime, TimeDelta, Utc};
use distillery::db::queue::{self, FencingToken, ReportBatch};
use distillery::protocol::Point;

use crate::support::api::Api;

/// Records two series of so many steps each.
async fn record(api: &Api, token: &FencingToken, steps: std::ops::Range<u32>) {
    let start = Utc::now();
    let point = |step: u32, name: &str| Point {
        name: name.to_owned(),
        step: step.into(),
        epoch: f64::from(step) / 100.0,
        time: start + TimeDelta::milliseconds(step.into()),
        value: f64::from(step),
    };
    let points = steps.flat_map(|step| [point(step, "train/loss"), point(step, "lr")]).collect();
    let batch = ReportBatch { points, ..ReportBatch::default() };
    assert!(queue::record(&api.db.pool, &token.write(), &batch).await.unwrap());
}

/// The messages of a file, whose records fill it.
fn messages(file: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut found) = (file, Vec::new());
    while !rest.is_empty() {
        let length = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
        found.push(&rest[12..12 + length]);
        rest = &rest[16 + length..];
    }
    found
}

#[tokio::test]
async fn a_running_job_has_a_file_with_all_its_points() {
    let api = Api::start().await;
    let id = api.job().await;
    let path = format!("/v1/jobs/{id}/tensorboard");
    let empty = api.get(&path).await;
    assert_eq!((empty.status.as_u16(), messages(&empty.body).len()), (200, 1), "{}", empty.text());

    let token = api.claim().await;
    // More than are read at a time.
    record(&api, &token, 0..1500).await;
    let file = api.get(&path).await;
    let found = messages(&file.body);
    assert_eq!(found.len(), 1501, "a record for each step, and the version");
    for name in ["train/loss", "lr"] {
        let named = |message: &&&[u8]| message.windows(name.len()).any(|bytes| bytes == name.as_bytes());
        assert_eq!(found.iter().filter(named).count(), 1500, "{name}");
    }

    record(&api, &token, 1500..1510).await;
    let longer = api.get(&path).await;
    assert!(longer.body.starts_with(&file.body), "what was written stays");
    assert_eq!(messages(&longer.body).len(), 1511);
}

#[tokio::test]
async fn the_file_has_a_name_by_which_tensorboard_finds_it() {
    let api = Api::start().await;
    let id = api.job().await;
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    let created: DateTime<Utc> = job["created_at"].as_str().unwrap().parse().unwrap();
    let file = api.get(&format!("/v1/jobs/{id}/tensorboard")).await;
    let name = format!("events.out.tfevents.{:010}.{id}", created.timestamp());
    assert_eq!(file.header("content-disposition"), format!("attachment; filename=\"{name}\""));
    // It is an artifact, too, before any other is published.
    let artifact = api.get(&format!("/v1/jobs/{id}/artifacts/tensorboard")).await;
    assert_eq!(artifact.header("content-disposition"), file.header("content-disposition"));
    assert_eq!((artifact.status.as_u16(), &artifact.body), (200, &file.body));
    api.get("/v1/jobs/job_00000000000000000000000000/tensorboard").await.problem(404);
}
