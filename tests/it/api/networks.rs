//! Promise: a network that torch.export wrote can be uploaded, and can teach and learn like those of the list, or is
//! refused with every reason.

use std::collections::HashSet;

use crate::client::run;
use crate::support::api::{Api, checkpoint, plain_job, student_job};
use crate::support::programs::{B, Network, flag, float, int, tensor};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A network of timm with 10 classes, for images of 64×64 pixels, with a 2×2 map of 256 channels.
pub(super) fn efficientnet() -> Vec<u8> {
    std::fs::read("tests/fixtures/exported/test_efficientnet.pt2").unwrap()
}

fn classifier(mut network: Network, input: &str, features: i64) -> Network {
    network.parameter("fc.weight", &[10, features]);
    network.node("linear.default", "logits", &[("input", tensor(input)), ("weight", tensor("fc.weight"))], &[B, 10]);
    network.result("logits");
    network
}

fn flatten(network: &mut Network, input: &str, features: i64) {
    let inputs = [("self", tensor(input)), ("start_dim", int(1))];
    network.node("flatten.using_ints", "flat", &inputs, &[B, features]);
}

/// A network with 10 classes, for images of 8×8 pixels, which ends in flatten and so has no feature map.
fn without_map() -> Vec<u8> {
    let mut network = Network::new();
    network.convolve();
    flatten(&mut network, "conv", 256);
    classifier(network, "flat", 256).bytes()
}

/// A network with an 8×8 map and a dropout of this mode.
pub(super) fn with_map(training: bool) -> Network {
    let mut network = Network::new();
    network.convolve();
    let dropout = [("input", tensor("conv")), ("p", float(0.5)), ("train", flag(training))];
    network.node("dropout.default", "drop", &dropout, &[B, 4, 8, 8]);
    let pooling = [("self", tensor("drop")), ("output_size", json!({"as_ints": [1, 1]}))];
    network.node("adaptive_avg_pool2d.default", "pooled", &pooling, &[B, 4, 1, 1]);
    flatten(&mut network, "pooled", 4);
    classifier(network, "flat", 4)
}

pub(super) async fn uploaded(api: &Api, name: &str, bytes: Vec<u8>) -> String {
    let answer = api.upload(&format!("?name={name}"), bytes).await.expect(201);
    answer["id"].as_str().unwrap().to_owned()
}

/// A job of two checkpoints, whose networks are left to them.
pub(super) fn pair(teacher: &str, student: &str) -> Value {
    json!({"teacher": {"checkpoint": teacher}, "student": {"checkpoint": student}, "dataset": {"name": "ten"}})
}

pub(super) async fn posted(api: &Api, job: &Value) -> String {
    api.post("/v1/jobs", job).await.expect(201)["id"].as_str().unwrap().to_owned()
}

/// Pointer and detail of the only fault of a job.
async fn fault(api: &Api, job: &Value) -> (String, String) {
    let problem = api.post("/v1/jobs?dry_run=true", job).await.problem(422);
    let faults = problem["errors"].as_array().unwrap();
    assert_eq!(faults.len(), 1, "{problem:#}");
    let text = |field: &str| faults[0][field].as_str().unwrap().to_owned();
    (text("pointer"), text("detail"))
}

pub(super) async fn assert_fault(api: &Api, job: &Value, pointer: &str, words: &[&str]) {
    let (found, detail) = fault(api, job).await;
    assert_eq!(found, pointer, "{detail}");
    for word in words {
        assert!(detail.contains(word), "{word:?} in {detail:?}");
    }
}

pub(super) async fn summary(api: &Api, id: &str) -> Value {
    api.get(&format!("/v1/summaries?id={id}")).await.expect(200)["data"][0].clone()
}

/// The checkpoints that a job keeps from being deleted.
pub(super) async fn needed(api: &Api, job: &str) -> HashSet<String> {
    let query = sqlx::query_scalar("select checkpoint_id from job_checkpoints where job_id = $1").bind(job);
    query.fetch_all(&api.db.pool).await.unwrap().into_iter().collect()
}

#[tokio::test]
async fn an_exported_network_is_described_and_the_same_bytes_are_the_same_checkpoint() {
    let api = Api::start().await;
    let first = api.upload("?name=mine.pt2&num_classes=10", efficientnet()).await.expect(201);
    let sha256 = hex::encode(Sha256::digest(efficientnet()));
    assert_eq!((&first["id"], &first["sha256"]), (&json!(format!("ckpt_{}", &sha256[..32])), &json!(sha256)));
    assert_eq!((&first["format"], &first["name"]), (&json!("torch_export"), &json!("mine.pt2")));
    assert_eq!((&first["num_classes"], &first["parameters"]), (&json!(10), &json!(101_766)));
    assert_eq!((&first["architecture"], &first["fits"], &first["notes"]), (&Value::Null, &json!([]), &json!([])));
    let network = &first["network"];
    assert_eq!((&network["input"], &network["classes"]), (&json!([3, 64, 64]), &json!(10)));
    assert_eq!(network["feature_map"], json!({"shape": [256, 2, 2], "layout": "channels_first"}));
    assert_eq!((&network["mode"], &network["head"]["is_linear"]), (&json!("training"), &json!(true)));
    assert_eq!(network["operators"]["aten.conv2d.default"], 17);
    assert!(network["macs"].as_u64() > Some(1_000_000), "{network}");
    let memory = &network["memory"];
    assert!(memory["kept_elements"].as_u64() > memory["peak_elements"].as_u64(), "{memory}");
    // An image and the first map, 16×32×32, at least.
    assert!(memory["peak_elements"].as_u64() > Some(3 * 64 * 64 + 16 * 32 * 32), "{memory}");
    assert_eq!(api.upload("", efficientnet()).await.expect(200), first);
    let id = first["id"].as_str().unwrap();
    assert_eq!(api.get(&format!("/v1/checkpoints/{id}")).await.expect(200), first);
    assert_eq!(api.get("/v1/checkpoints").await.expect(200)["data"], json!([first]));
}

#[tokio::test]
async fn paths_of_the_users_machine_are_neither_stored_nor_shown() {
    let api = Api::start().await;
    let bytes = with_map(true).bytes();
    assert!(String::from_utf8_lossy(&bytes).contains("secret.py"));
    let first = api.upload("", bytes.clone()).await.expect(201);
    assert!(!first.to_string().contains("secret"), "{first}");
    let notes = first["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note.as_str().unwrap().contains("stack traces")), "{notes:?}");
    let found: Vec<_> = std::fs::read_dir(api.dir.path().join("storage/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [stored] = found.as_slice() else { panic!("{found:?}") };
    let stored = std::fs::read(stored).unwrap();
    assert!(!String::from_utf8_lossy(&stored).contains("secret"));
    assert_eq!(first["sha256"], hex::encode(Sha256::digest(&stored)), "the hash is that of what is stored");
    assert_eq!(api.upload("", bytes).await.expect(200), first);
    // The stored file is the same network, without anything left to remove.
    let again = api.upload("", stored).await.expect(200);
    assert_eq!((&again["id"], &again["network"]), (&first["id"], &first["network"]));
}

#[tokio::test]
async fn all_faults_of_a_network_are_told_at_once() {
    let api = Api::start().await;
    let mut network = with_map(true);
    network.graph()["nodes"][0]["target"] = json!("torch.ops.mine.conv.default");
    network.graph()["nodes"][4]["target"] = json!("torch.ops.aten.tan.default");
    let problem = api.upload("", network.bytes()).await.problem(422);
    assert!(problem["detail"].as_str().unwrap().contains("it has 2 faults, listed in errors"), "{problem}");
    let details: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| error["detail"].as_str()).collect();
    assert!(
        details[0].unwrap().starts_with("operator aten.tan.default: is not supported; it computes logits")
            && details[1].unwrap().starts_with("operator mine.conv.default: is not supported; it computes conv"),
        "{details:?}"
    );
    assert!(!problem.to_string().contains("secret"), "{problem}");
    assert_eq!(api.get("/v1/checkpoints").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn a_network_with_broken_weights_is_refused_by_the_tensors_name() {
    let api = Api::start().await;
    let mut network = with_map(true);
    let (_, bytes) = network.files.last_mut().unwrap();
    bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    api.upload("", network.bytes()).await.says(422, &["the network cannot be used", "fc.weight", "not finite"]);
    let mut network = with_map(true);
    network.program["schema_version"]["major"] = json!(9);
    api.upload("", network.bytes()).await.says(422, &["schema 9", "export it again with PyTorch 2.9 to 2.11"]);
    let mut truncated = efficientnet();
    truncated.truncate(truncated.len() / 2);
    api.upload("", truncated).await.says(422, &["truncated"]);
}

#[tokio::test]
async fn a_network_with_a_byte_that_changed_is_refused_by_the_entrys_name() {
    let api = Api::start().await;
    let mut network = with_map(true);
    let (name, bytes) = network.files.last_mut().unwrap();
    bytes.fill(0x3e);
    let name = name.clone();
    let mut bytes = network.bytes();
    let at = bytes.windows(16).position(|window| window == [0x3e; 16]).unwrap();
    bytes[at] ^= 1;
    let says = ["the file is damaged", name.as_str(), "do not have their checksum", "upload or download it again"];
    api.upload("", bytes).await.says(422, &says);
    assert_eq!(api.get("/v1/checkpoints").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn what_the_uploader_says_about_a_network_has_to_be_true() {
    let api = Api::start().await;
    let says = ["is its own architecture", "leave out architecture"];
    api.upload("?architecture=resnet20", efficientnet()).await.says(422, &says);
    api.upload("?num_classes=100", efficientnet()).await.says(422, &["has 10 classes, not 100"]);
    api.upload("?state_dict=model", efficientnet()).await.says(422, &["leave out state_dict"]);
}

#[tokio::test]
async fn exported_networks_teach_and_learn_without_an_architecture() {
    let api = Api::start().await;
    let (teacher, student) =
        (uploaded(&api, "vit.pt2", efficientnet()).await, uploaded(&api, "mine.pt2", with_map(true).bytes()).await);
    assert_fault(&api, &pair(&teacher, &student), "/student/checkpoint", &["8×8", "vit.pt2", "64×64"]).await;
    let dry = api.post("/v1/jobs?dry_run=true", &pair(&teacher, &teacher)).await.expect(200);
    let facts = json!({
        "name": "vit.pt2", "architecture": null, "parameters": 101_766, "macs": dry["student"]["macs"],
        "feature_map": [256, 2, 2],
    });
    assert_eq!((&dry["student"], &dry["teacher"]), (&facts, &facts));
    assert_eq!(dry["spec"]["dataset"]["image_size"], 64);
    assert_eq!(dry["spec"]["distillation"]["scales"], json!([1, 2]));
    assert!(dry["memory"]["activations_bytes"].as_u64() > Some(64 * 4 * 3 * 64 * 64), "{dry}");
    let warnings = dry["warnings"].to_string();
    assert!(warnings.contains("learning_rate is 0.01"), "{warnings}");
    assert!(warnings.contains("scales is [1, 2]") && warnings.contains("both are one exported network"), "{warnings}");
    assert!(warnings.contains("set teacher.mean and teacher.std"), "{warnings}");

    let mixed = student_job(json!({"checkpoint": teacher}));
    let dry = api.post("/v1/jobs?dry_run=true", &mixed).await.expect(200);
    assert_eq!((&dry["student"]["name"], &dry["student"]["architecture"]), (&json!("resnet8"), &json!("resnet8")));
    assert_eq!(dry["spec"]["name"], "vit.pt2 to resnet8 by sdd_kd");
    let mut plain = plain_job();
    plain["student"] = json!({"checkpoint": student});
    let dry = api.post("/v1/jobs?dry_run=true", &plain).await.expect(200);
    assert_eq!((&dry["teacher"], &dry["student"]["feature_map"]), (&Value::Null, &json!([4, 8, 8])));
}

#[tokio::test]
async fn what_a_network_cannot_do_is_a_fault_with_the_way_out() {
    let api = Api::start().await;
    let tokens = uploaded(&api, "vit.pt2", without_map()).await;
    let frozen = uploaded(&api, "frozen.pt2", with_map(false).bytes()).await;
    let mine = uploaded(&api, "mine.pt2", with_map(true).bytes()).await;
    let says = ["vit.pt2 has no feature map", "Use method \"kd\"", "global_pool=\"avg\""];
    assert_fault(&api, &pair(&tokens, &mine), "/teacher", &says).await;
    assert_fault(&api, &pair(&mine, &tokens), "/student", &says).await;
    let mut plain = pair(&tokens, &tokens);
    plain["distillation"] = json!({"method": "kd"});
    let dry = api.post("/v1/jobs?dry_run=true", &plain).await.expect(200);
    assert_eq!(dry["student"]["feature_map"], Value::Null);

    assert_fault(&api, &pair(&mine, &frozen), "/student/checkpoint", &["evaluation mode", "model.train()"]).await;
    api.post("/v1/jobs?dry_run=true", &pair(&frozen, &mine)).await.expect(200);

    let mut named = pair(&mine, &mine);
    named["teacher"]["architecture"] = json!("resnet20");
    assert_fault(&api, &named, "/teacher/architecture", &["is its own architecture: leave this out"]).await;
    let mut named = pair(&mine, &mine);
    named["student"]["architecture"] = json!("resnet20");
    assert_fault(&api, &named, "/student/architecture", &["is its own architecture: leave this out"]).await;

    let mut other = pair(&mine, &mine);
    other["dataset"]["image_size"] = json!(32);
    assert_fault(&api, &other, "/dataset/image_size", &["mine.pt2", "8×8", "leave this out"]).await;
    let mut hundred = student_job(json!({"checkpoint": mine}));
    hundred["dataset"]["name"] = json!("hundred");
    assert_fault(&api, &hundred, "/teacher/checkpoint", &["mine.pt2 has 10 classes", "has 100"]).await;
    // One without a name is named once.
    let nameless = api.upload("", with_map(false).bytes()).await.expect(200)["id"].as_str().unwrap().to_owned();
    sqlx::query("update checkpoints set name = null where id = $1")
        .bind(&nameless)
        .execute(&api.db.pool)
        .await
        .unwrap();
    hundred["teacher"]["checkpoint"] = json!(nameless);
    let (_, detail) = fault(&api, &hundred).await;
    assert!(detail.starts_with(&format!("checkpoint {nameless} has 10 classes")), "{detail}");
    let gone = format!("ckpt_{}", "0".repeat(32));
    assert_fault(&api, &pair(&mine, &gone), "/student/checkpoint", &["there is no checkpoint"]).await;
}

#[tokio::test]
async fn an_architecture_may_be_left_out_where_the_checkpoint_is_certain() {
    let api = Api::start().await;
    let zoo = uploaded(&api, "zoo", checkpoint("resnet20", 10)).await;
    let dry = api.post("/v1/jobs?dry_run=true", &pair(&zoo, &zoo)).await.expect(200);
    assert_eq!(dry["spec"]["teacher"]["architecture"], "resnet20");
    assert_eq!(dry["spec"]["student"], json!({"architecture": "resnet20", "checkpoint": zoo}));
    assert_eq!(dry["spec"]["name"], "resnet20 to resnet20 by sdd_kd");
    let mut hundred = pair(&zoo, &zoo);
    hundred["dataset"]["name"] = json!("hundred");
    let problem = api.post("/v1/jobs", &hundred).await.problem(422);
    assert_eq!(problem["errors"][0]["pointer"], "/teacher/checkpoint", "{problem}");
    // As of a checkpoint that has the keys and shapes of two networks.
    let two = json!([{"architecture": "resnet20", "num_classes": 10}, {"architecture": "resnet32", "num_classes": 10}]);
    sqlx::query("update checkpoints set architecture = null, fits = $1").bind(two).execute(&api.db.pool).await.unwrap();
    let job = student_job(json!({"checkpoint": zoo}));
    assert_fault(&api, &job, "/teacher/architecture", &["is required", "fits resnet20 and resnet32"]).await;
}

#[tokio::test]
async fn a_student_with_a_new_classifier_may_start_from_other_classes() {
    let api = Api::start().await;
    let zoo = uploaded(&api, "zoo", checkpoint("resnet20", 100)).await;
    let mut job = plain_job();
    for student in [json!({"checkpoint": zoo}), json!({"architecture": "resnet20", "checkpoint": zoo})] {
        job["student"] = student;
        let says = ["[100, 64]", "or replace its classifier with \"head\": \"new\""];
        assert_fault(&api, &job, "/student/checkpoint", &says).await;
        job["student"]["head"] = json!("keep");
        assert_fault(&api, &job, "/student/checkpoint", &["[100, 64]"]).await;
        job["student"]["head"] = json!("new");
        let dry = api.post("/v1/jobs?dry_run=true", &job).await.expect(200);
        let expected = json!({"architecture": "resnet20", "checkpoint": zoo, "head": "new"});
        assert_eq!((&dry["spec"]["student"], &dry["classes"]), (&expected, &json!(10)));
        assert_replaces(&dry, "with 100 classes is replaced by one with 10 classes");
    }
    let mine = uploaded(&api, "mine.pt2", with_map(true).bytes()).await;
    job["dataset"]["name"] = json!("hundred");
    job["student"] = json!({"checkpoint": mine});
    let says = ["mine.pt2 has 10 classes", "or replace its classifier"];
    assert_fault(&api, &job, "/student/checkpoint", &says).await;
    job["student"]["head"] = json!("new");
    let dry = api.post("/v1/jobs?dry_run=true", &job).await.expect(200);
    assert_replaces(&dry, "with 10 classes is replaced by one with 100 classes");
    // A 3×3 convolution of 3 channels to 4, and a linear layer without a bias.
    let [parameters, macs] = [108 + 400, 108 * 64 + 400];
    assert_eq!((&dry["student"]["parameters"], &dry["student"]["macs"]), (&json!(parameters), &json!(macs)));
    let id = posted(&api, &job).await;
    assert_eq!(api.db.job(&id).await["spec_version"], 2, "workers that do not know it leave it");
    let mut pupil = student_job(json!({"job": id}));
    assert_fault(&api, &pupil, "/teacher/job", &["has 100 classes", "has 10"]).await;
    pupil["dataset"]["name"] = json!("hundred");
    let dry = api.post("/v1/jobs?dry_run=true", &pupil).await.expect(200);
    assert_eq!(dry["teacher"]["parameters"], json!(parameters));
    job["student"] = json!({"architecture": "resnet20", "checkpoint": zoo, "head": "other"});
    assert_fault(&api, &job, "/student/head", &["unknown head \"other\"; known: "]).await;
}

fn assert_replaces(dry: &Value, says: &str) {
    let warnings = dry["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|warning| warning.as_str().unwrap().contains(says)), "{dry:#}");
}

#[tokio::test]
async fn a_classifier_that_cannot_be_replaced_is_a_fault_with_the_operator_that_is_in_the_way() {
    let api = Api::start().await;
    let mut program = with_map(true);
    let size = json!({"as_ints": [-1, 10]});
    program.node("view.default", "rows", &[("self", tensor("logits")), ("size", size)], &[B, 10]);
    program.result("rows");
    let viewed = uploaded(&api, "viewed.pt2", program.bytes()).await;
    let mut job = plain_job();
    job["student"] = json!({"checkpoint": viewed, "head": "new"});
    let says = ["viewed.pt2 cannot be replaced", "rows (aten.view.default) has sizes of its own", "flatten(1)"];
    assert_fault(&api, &job, "/student/head", &says).await;
    job["student"] = json!({"architecture": "resnet20", "head": "new"});
    assert_fault(&api, &job, "/student/head", &["is used with checkpoint only"]).await;
}

#[tokio::test]
async fn a_checkpoint_without_a_graph_that_fits_nothing_says_how_to_export_the_network() {
    let api = Api::start().await;
    let lines = std::fs::read_to_string("static/snippets/export.py").unwrap();
    let foreign = std::fs::read("tests/fixtures/checkpoints/zip.pth").unwrap();
    let stored = api.upload("", foreign).await.expect(201);
    assert_eq!(stored["fits"], json!([]), "the fixture is no network of the list");
    assert!(stored["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains(lines.trim_end())));
    let id = stored["id"].as_str().unwrap();
    let says = ["cannot be used: it fits no known architecture", "Export a network of your own", lines.trim_end()];
    assert_fault(&api, &student_job(json!({"checkpoint": id})), "/teacher/checkpoint", &says).await;
    let (_, detail) = fault(&api, &student_job(json!({"checkpoint": id}))).await;
    assert_eq!(detail.matches("torch.export.save").count(), 1, "{detail}");
}

#[tokio::test]
async fn a_student_whose_parameters_are_all_frozen_is_refused_before_it_trains() {
    let api = Api::start().await;
    let mut network = with_map(true);
    for payload in network.weights["config"].as_object_mut().unwrap().values_mut() {
        payload["tensor_meta"]["requires_grad"] = json!(false);
    }
    let frozen = uploaded(&api, "frozen.pt2", network.bytes()).await;
    let says = ["frozen.pt2 has no parameters that training changes", "requires_grad_(True)"];
    assert_fault(&api, &pair(&frozen, &frozen), "/student/checkpoint", &says).await;
}

#[tokio::test]
async fn the_command_takes_a_network_without_its_stack_traces_for_the_same_file() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let bytes = with_map(true).bytes();
    std::fs::write(home.path().join("net.pt2"), &bytes).unwrap();
    let ran = run(&api.url, home.path(), &["upload", "net.pt2"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("stack traces"), "{}", ran.stderr);
    let stored = api.get("/v1/checkpoints").await.expect(200);
    assert_eq!(stored["data"][0]["size_bytes"], bytes.len());
    assert_ne!(stored["data"][0]["sha256"], hex::encode(Sha256::digest(&bytes)));
}
