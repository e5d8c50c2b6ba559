//! Promise: a dry run says what a recipe sets, and refuses what does not go with the data set or the checkpoint.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::api::{Api, checkpoint, plain_job};

/// A PNG of 1×1 pixel.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\x02\0\x01H\xaf\xa4q\0\0\0\0IEND\xaeB`\x82";

/// A data set of two classes with six images each to train on, and three images without a class.
fn write(directory: &Path) {
    let labelled = ["cat", "dog"].into_iter().flat_map(|class| {
        let train = (0..6).map(move |number| format!("train/{class}/{number}.png"));
        train.chain([format!("test/{class}/0.png")])
    });
    for path in labelled.chain((0..3).map(|number| format!("more/{number}.png"))) {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, PNG).unwrap();
    }
}

async fn start() -> Api {
    let api = Api::start().await;
    write(&api.dir.path().join("datasets/pets"));
    api
}

/// A job on the data set, with other fields.
fn on_pets(dataset: Value, training: Value) -> Value {
    let mut job = plain_job();
    job["dataset"] = dataset;
    job["dataset"]["name"] = json!("pets");
    job["training"] = training;
    job
}

async fn dry_run(api: &Api, job: &Value) -> Value {
    api.post("/v1/jobs?dry_run=true", job).await.expect(200)
}

async fn fault(api: &Api, job: &Value) -> (String, String) {
    let problem = api.post("/v1/jobs?dry_run=true", job).await.problem(422);
    let [fault] = problem["errors"].as_array().unwrap().as_slice() else { panic!("{problem}") };
    let text = |member: &str| fault[member].as_str().unwrap().to_owned();
    (text("pointer"), text("detail"))
}

#[tokio::test]
async fn the_teachers_classes_have_to_be_those_of_the_data_set() {
    let api = start().await;
    let teacher = api.upload("?architecture=resnet8&num_classes=2", checkpoint("resnet8", 2)).await.expect(201);
    let with = |classes: Value| {
        let mut job = on_pets(json!({}), json!({}));
        job["distillation"] = json!({"method": "kd"});
        job["teacher"] = json!({"architecture": "resnet8", "checkpoint": teacher["id"], "classes": classes});
        job
    };
    let dry = dry_run(&api, &with(json!(["Dog", "cat"]))).await;
    assert_eq!(dry["spec"]["teacher"]["classes"], json!(["Dog", "cat"]));
    let (pointer, detail) = fault(&api, &with(json!(["dog", "lion"]))).await;
    assert_eq!(pointer, "/teacher/classes");
    assert!(detail.contains("names \"lion\", which the data set does not have, and not \"cat\""), "{detail}");
}

#[tokio::test]
async fn a_recipe_is_told_with_its_source_and_what_it_lacks() {
    let api = start().await;
    let dry =
        dry_run(&api, &on_pets(json!({}), json!({"recipe": "timm-a3", "epochs": 3, "schedule": {"type": "constant"}})))
            .await;
    assert_eq!(dry["spec"]["training"]["optimizer"]["type"], "lamb");
    assert_eq!((&dry["spec"]["training"]["epochs"], dry["spec"]["training"].get("recipe")), (&json!(3), None));
    let warnings = dry["warnings"].to_string();
    for part in ["training.recipe timm-a3 sets", "where the job does not", "arxiv.org/abs/2110.00476", "160 pixels"] {
        assert!(warnings.contains(part), "{warnings}");
    }
}

#[tokio::test]
async fn class_weights_are_counted_against_the_classes_of_the_data_set() {
    let api = start().await;
    dry_run(&api, &on_pets(json!({}), json!({"class_weights": [1, 2]}))).await;
    let (pointer, detail) = fault(&api, &on_pets(json!({}), json!({"class_weights": [1, 2, 3]}))).await;
    assert_eq!(pointer, "/training/class_weights");
    assert!(detail.contains("has 3 entries for 2 classes"), "{detail}");
}

#[tokio::test]
async fn folds_and_images_without_labels_are_counted() {
    let api = start().await;
    let dry = dry_run(&api, &on_pets(json!({"folds": 3, "fold": 2}), json!({}))).await;
    assert_eq!((&dry["train_images"], &dry["eval_images"]), (&json!(8), &json!(4)));
    let dry = dry_run(&api, &on_pets(json!({"limit_per_class": 2}), json!({}))).await;
    assert_eq!((&dry["train_images"], &dry["eval_images"]), (&json!(4), &json!(2)));
    let (pointer, _) = fault(&api, &on_pets(json!({"folds": 30, "fold": 20}), json!({}))).await;
    assert_eq!(pointer, "/dataset/folds");
    let plain = on_pets(json!({"unlabelled_split": "more"}), json!({}));
    let (pointer, detail) = fault(&api, &plain).await;
    assert!(pointer == "/dataset/unlabelled_split" && detail.contains("distillation methods only"), "{detail}");
    let teacher = api.upload("?architecture=resnet8&num_classes=2", checkpoint("resnet8", 2)).await.expect(201);
    let mut distilled = plain;
    distilled["distillation"] = json!({"method": "kd"});
    distilled["teacher"] = json!({"checkpoint": teacher["id"], "architecture": "resnet8"});
    let dry = dry_run(&api, &distilled).await;
    assert_eq!((&dry["train_images"], &dry["eval_images"]), (&json!(15), &json!(2)));
    assert!(dry["warnings"].to_string().contains("distilled from the teacher alone"), "{}", dry["warnings"]);
    distilled["dataset"]["unlabelled_split"] = json!("nothing");
    assert_eq!(fault(&api, &distilled).await.0, "/dataset/unlabelled_split");
}

#[tokio::test]
async fn a_new_classifier_takes_a_checkpoint_of_other_classes() {
    let api = start().await;
    let first = api.upload("?architecture=resnet8&num_classes=5", checkpoint("resnet8", 5)).await.expect(201);
    let mut job = on_pets(json!({}), json!({"body_learning_rate_scale": 0.1}));
    job["student"] = json!({"architecture": "resnet8", "checkpoint": first["id"]});
    assert_eq!(fault(&api, &job).await.0, "/student/checkpoint");
    job["student"]["head"] = json!("new");
    let dry = dry_run(&api, &job).await;
    assert_eq!((&dry["classes"], &dry["spec"]["student"]["head"]), (&json!(2), &json!("new")));
}
