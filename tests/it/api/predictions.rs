//! Promise: what a job's student gets wrong can be asked for, image by image and counted.

use distillery::db::tokens::{self, Scope};
use distillery::predictions::{NetworkPredictions, Pictures, PredictionFile, Predictions, RegionVotes, write};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::api::Api;

/// Five images of three classes: one each of the outcomes, and a second one that both get wrong.
fn file() -> PredictionFile {
    let predictions = Predictions {
        classes: 3,
        positions: vec![0, 1, 2, 3, 5],
        labels: vec![0, 0, 1, 2, 2],
        student: NetworkPredictions {
            predicted: vec![0, 1, 1, 0, 1],
            confidence: vec![0.75, 0.5, 0.75, 0.5, 0.5],
            of_label: vec![0.75, 0.25, 0.75, 0.25, 0.25],
        },
        teacher: Some(NetworkPredictions {
            predicted: vec![0, 0, 2, 0, 0],
            confidence: vec![0.75, 0.875, 0.5, 0.5, 0.5],
            of_label: vec![0.75, 0.875, 0.25, 0.375, 0.25],
        }),
    };
    let regions = RegionVotes {
        scales: vec![2],
        student: vec![1, 0, 1, 2, 0, 0, 1, 0],
        teacher: vec![0, 0, 1, 0, 2, 0, 0, 0],
        complementary: vec![false, false, true, false, true, false, false, false],
    };
    let pictures = Pictures { images: vec![1, 3], side: 8, pixels: vec![128; 2 * 192], regions: Some(regions) };
    let names = ["cat", "dog", "owl"].map(str::to_owned).to_vec();
    PredictionFile { split: "test".into(), names: Some(names), predictions, pictures: Some(pictures) }
}

/// A job that has published these predictions, and its path.
async fn published(api: &Api, file: &PredictionFile) -> String {
    let path = api.dir.path().join("written.safetensors");
    write(&path, file).unwrap();
    let report = file.predictions.report(&file.split, file.names.as_deref());
    let report = serde_json::to_vec(&report).unwrap();
    let written = std::fs::read(path).unwrap();
    publish(api, &[("predictions.safetensors", &written), ("predictions.json", &report)]).await
}

async fn publish(api: &Api, more: &[(&str, &[u8])]) -> String {
    let id = api.job().await;
    let mut files: Vec<(&str, &[u8])> = vec![("student.safetensors", &b"best"[..]), ("manifest.json", &b"{}"[..])];
    files.extend(more);
    api.publish(&api.claim().await, &files).await;
    format!("/v1/jobs/{id}/predictions")
}

fn positions(page: &Value) -> Vec<u64> {
    page["data"].as_array().unwrap().iter().map(|image| image["position"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn images_come_in_the_order_of_how_wrong_the_student_is() {
    let api = Api::start().await;
    let path = published(&api, &file()).await;
    let page = api.get(&path).await.expect(200);
    assert_eq!(positions(&page), [1, 3, 0, 5, 2]);
    assert_eq!(
        (&page["split"], &page["images"], &page["scales"], &page["has_more"], &page["next"]),
        (&json!("test"), &json!(5), &json!([2]), &json!(false), &Value::Null)
    );
    let first = &page["data"][0];
    assert_eq!(
        (&first["label"], &first["class"], &first["outcome"]),
        (&json!(0), &json!("cat"), &json!("student_wrong"))
    );
    assert_eq!(first["difference"], 0.625);
    assert_eq!(first["student"], json!({"predicted": 1, "class": "dog", "confidence": 0.5, "label_probability": 0.25}));
    assert_eq!(
        first["teacher"],
        json!({"predicted": 0, "class": "cat", "confidence": 0.875, "label_probability": 0.875})
    );
    assert_eq!(
        first["regions"],
        json!({"student": [1, 0, 1, 2], "teacher": [0, 0, 1, 0], "complementary": [false, false, true, false]})
    );
    let picture = first["picture"].as_str().unwrap();
    assert!(picture.starts_with("data:image/jpeg;base64,/9j/"), "{picture}");
    let second = &page["data"][1];
    assert_eq!(second["regions"]["teacher"], json!([2, 0, 0, 0]));
    assert_eq!((&page["data"][2]["picture"], &page["data"][2]["regions"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn images_are_chosen_by_outcome_class_prediction_and_picture_page_by_page() {
    let api = Api::start().await;
    let path = published(&api, &file()).await;
    for (query, expected) in [
        ("outcome=right", vec![0]),
        ("outcome=student_wrong", vec![1]),
        ("outcome=teacher_wrong", vec![2]),
        ("outcome=both_wrong", vec![3, 5]),
        ("label=owl", vec![3, 5]),
        ("label=2&predicted=dog", vec![5]),
        ("label=dog&teacher_predicted=owl", vec![2]),
    ] {
        let page = api.get(&format!("{path}?{query}")).await.expect(200);
        assert_eq!(positions(&page), expected, "{query}");
        assert_eq!(page["images"], expected.len(), "{query}");
    }
    for (query, expected, images) in [("pictured=true", vec![1, 3], 5), ("label=owl&pictured=true", vec![3], 2)] {
        let page = api.get(&format!("{path}?{query}")).await.expect(200);
        assert_eq!((positions(&page), &page["images"]), (expected.clone(), &json!(images)), "{query}");
        assert_eq!(page["pictured"], expected.len(), "{query}");
    }
    let first = api.get(&format!("{path}?limit=2")).await.expect(200);
    assert_eq!((positions(&first), &first["images"], &first["next"]), (vec![1, 3], &json!(5), &json!(2)));
    let second = api.get(&format!("{path}?limit=2&after=2")).await.expect(200);
    let third = api.get(&format!("{path}?limit=2&after=4")).await.expect(200);
    assert_eq!((positions(&second), positions(&third)), (vec![0, 5], vec![2]));
    assert_eq!((&third["has_more"], &third["next"]), (&json!(false), &Value::Null));
    let beyond = api.get(&format!("{path}?after=9007199254740991")).await.expect(200);
    assert_eq!((positions(&beyond), &beyond["has_more"]), (vec![], &json!(false)));
    for query in ["outcome=wrong", "label=lion", "predicted=3", "limit=0", "limit=101", "after=-1", "labels=1"] {
        api.get(&format!("{path}?{query}")).await.problem(400);
    }
    // The server keeps names as macOS writes them, and browsers send what is typed.
    let mut file = file();
    file.names.as_mut().unwrap()[2] = "hibou\u{301}".to_owned();
    let path = published(&api, &file).await;
    for name in ["hibou%CC%81", "hibo%C3%BA"] {
        assert_eq!(positions(&api.get(&format!("{path}?label={name}")).await.expect(200)), [3, 5], "{name}");
    }
    api.get(&format!("{path}?label=lion")).await.says(400, &["label: there is no class \"lion\"", "below 3"]);
}

#[tokio::test]
async fn the_summary_has_the_counts() {
    let api = Api::start().await;
    let path = published(&api, &file()).await;
    let summary = api.get(&format!("{path}/summary")).await.expect(200);
    assert_eq!(summary["images"], 5);
    assert_eq!(summary["outcomes"], json!({"right": 1, "student_wrong": 1, "teacher_wrong": 1, "both_wrong": 2}));
    assert_eq!(summary["cells"][0], json!({"label": 0, "predicted": 0, "student": 1, "teacher": 2}));
    assert_eq!((&summary["student"]["top1"], &summary["teacher"]["top1"]), (&json!(40.0), &json!(40.0)));
    assert_eq!(summary["classes"][2]["name"], "owl");
}

#[tokio::test]
async fn jobs_without_predictions_and_damaged_ones_are_told_apart() {
    let api = Api::start().await;
    let id = api.job().await;
    for path in ["predictions", "predictions/summary"] {
        api.get(&format!("/v1/jobs/{id}/{path}")).await.says(404, &["is queued"]);
        api.get(&format!("/v1/jobs/job_00000000000000000000000000/{path}")).await.problem(404);
    }
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    let path = publish(&api, &[]).await;
    api.get(&path).await.says(404, &["has no artifact \"predictions.safetensors\""]);
    let path = publish(&api, &[("predictions.safetensors", b"{}"), ("predictions.json", b"[]")]).await;
    api.get(&path).await.says(422, &["predictions.safetensors of job", "cannot be read"]);
    api.get(&format!("{path}/summary")).await.says(422, &["predictions.json of job", "cannot be read"]);
    let path = published(&api, &file()).await;
    let job = path.strip_prefix("/v1/jobs/").and_then(|rest| rest.split('/').next()).unwrap();
    let key = format!("jobs/{job}/attempts/1/predictions.safetensors");
    api.store.delete(&key).await.unwrap();
    api.get(&path).await.says(410, &["gone from storage"]);
}

#[tokio::test]
async fn who_may_see_a_data_sets_images_may_see_these_and_nobody_else() {
    let api = Api::start().await;
    let path = published(&api, &file()).await;
    let secret = "dst_of_a_reader";
    tokens::create(&api.db.pool, "reader", Scope::Read, &tokens::hash(secret)).await.unwrap();
    for path in ["/v1/datasets/ten/images", path.as_str(), &format!("{path}/summary")] {
        api.get(path).await.problem(401);
        api.send(api.request(Method::GET, path).bearer_auth(secret)).await.expect(200);
    }
}
