//! What cannot be trained is refused with what would work.

use distillery_core::protocol::ErrorClass;
use serde_json::{Value, json};

use super::networks::{residual, without_map, write};
use super::programs::{float, tensor};
use crate::support::{Workspace, merged};

fn workspace() -> Workspace {
    let workspace = Workspace::new();
    write(residual(false), &workspace.path("evaluation.pt2"), 0);
    write(residual(true), &workspace.path("training.pt2"), 0);
    write(without_map(), &workspace.path("without_map.pt2"), 0);
    workspace
}

fn specification(workspace: &Workspace, teacher: &str, student: &str, changes: Value) -> Value {
    let file = |name: &str| json!({"checkpoint": workspace.path(name)});
    let document = json!({
        "teacher": file(teacher), "student": file(student), "dataset": {"path": workspace.path("data")},
        "distillation": {"method": "sdd_kd", "scales": [1, 2]}, "training": {"epochs": 1, "precision": "float32"},
    });
    merged(document, changes)
}

/// Asserts that a run is refused as the user's fault, and says all of these.
fn assert_refused(workspace: &Workspace, spec: &Value, says: &[&str]) {
    let failure = workspace.fail(spec, "out", &[]);
    assert_eq!(failure.class, ErrorClass::User, "{}", failure.message);
    for part in says {
        assert!(failure.message.contains(part), "{part:?} is not in {}", failure.message);
    }
}

#[test]
fn a_student_that_was_exported_in_evaluation_mode_is_refused_with_the_line_to_change() {
    let workspace = workspace();
    let spec = specification(&workspace, "evaluation.pt2", "evaluation.pt2", json!({}));
    assert_refused(&workspace, &spec, &["/student/checkpoint", "exported in evaluation mode", "model.train()"]);
}

#[test]
fn regions_of_a_network_without_a_map_are_refused_with_what_would_work() {
    let workspace = workspace();
    for (teacher, student, at) in
        [("without_map.pt2", "training.pt2", "/teacher"), ("evaluation.pt2", "without_map.pt2", "/student")]
    {
        let spec = specification(&workspace, teacher, student, json!({}));
        assert_refused(&workspace, &spec, &[at, "has no feature map", "global_pool=\"avg\"", "\"kd\""]);
    }
}

#[test]
fn images_of_another_size_are_refused_with_the_size_of_the_file() {
    let workspace = workspace();
    let spec = specification(&workspace, "evaluation.pt2", "training.pt2", json!({"dataset": {"image_size": 16}}));
    assert_refused(&workspace, &spec, &["/dataset/image_size", "8×8"]);
}

#[test]
fn an_architecture_beside_an_exported_network_is_refused() {
    let workspace = workspace();
    let changes = json!({"student": {"architecture": "resnet8"}, "dataset": {"image_size": 8}});
    let spec = specification(&workspace, "evaluation.pt2", "training.pt2", changes);
    assert_refused(&workspace, &spec, &["is an exported network", "leave out student.architecture"]);
}

#[test]
fn another_number_of_classes_is_refused() {
    let workspace = workspace();
    let mut program = without_map();
    program.parameter("more.weight", &[7, 4]);
    program.node(
        "linear.default",
        "more",
        &[("input", tensor("classifier")), ("weight", tensor("more.weight"))],
        &[-1, 7],
    );
    program.result("more");
    write(program, &workspace.path("seven.pt2"), 0);
    let changes = json!({"distillation": {"method": "kd", "scales": [1]}});
    let spec = specification(&workspace, "evaluation.pt2", "seven.pt2", changes);
    assert_refused(&workspace, &spec, &["the student's network", "has 7 classes", "has 4"]);
}

#[test]
fn a_checkpoint_that_fits_no_architecture_is_answered_with_how_to_export_a_network() {
    let workspace = workspace();
    let strange = workspace.path("strange.safetensors");
    let tensor = tch::Tensor::zeros([3], (tch::Kind::Float, tch::Device::Cpu));
    tch::Tensor::write_safetensors(&[("strange", tensor)], &strange).unwrap();
    let spec = specification(&workspace, "strange.safetensors", "training.pt2", json!({}));
    assert_refused(&workspace, &spec, &["/teacher/architecture", "fits no known architecture", "torch.export.export("]);
}

#[test]
fn broken_weights_and_broken_files_are_refused() {
    let workspace = workspace();
    let mut program = residual(true);
    let last = program.files.len() - 1;
    write(program.clone(), &workspace.path("whole.pt2"), 0);
    program.files[last].1 = f32::NAN.to_le_bytes().repeat(program.files[last].1.len() / 4);
    std::fs::write(workspace.path("nan.pt2"), program.bytes()).unwrap();
    let spec = specification(&workspace, "evaluation.pt2", "nan.pt2", json!({}));
    assert_refused(&workspace, &spec, &["not finite"]);
    let whole = std::fs::read(workspace.path("whole.pt2")).unwrap();
    std::fs::write(workspace.path("half.pt2"), &whole[..whole.len() / 2]).unwrap();
    let spec = specification(&workspace, "evaluation.pt2", "half.pt2", json!({}));
    assert_refused(&workspace, &spec, &["/student/checkpoint", "half.pt2"]);
    let mut unknown = residual(true);
    unknown.node("fft_fft.default", "odd", &[("self", tensor("x")), ("n", float(1.0))], &[-1, 3, 8, 8]);
    std::fs::write(workspace.path("unknown.pt2"), unknown.bytes()).unwrap();
    let spec = specification(&workspace, "evaluation.pt2", "unknown.pt2", json!({}));
    assert_refused(&workspace, &spec, &["/student/checkpoint", "aten.fft_fft.default"]);
}
