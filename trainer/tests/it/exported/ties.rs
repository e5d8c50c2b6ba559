//! Promise: a parameter with several keys is trained as one, and every file shows it under all of them.

use std::collections::BTreeMap;
use std::fs::File;

use distillery_core::checkpoint::{self, Checkpoint, NewTensor};
use distillery_core::export::{Student, write_pt2};
use distillery_core::exported::ExportedNetwork;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::networks::{Layers, built, distance, images, pool, reordered, residual, set_values, write};
use super::programs::{self, B, ints, tensor};
use crate::classifiers::{assert_resumes_and_verifies, floats, log};
use crate::support::{Workspace, text, trainer, warnings};

/// Three convolutions, of which the last two have the same weight, pooled and classified.
fn tied() -> programs::Network {
    network(|network| network.conv("two", "act", [16, 16, 3], 8))
}

/// The same, where the weight of the last one is a buffer.
fn followed() -> programs::Network {
    network(|network| {
        network.buffer("two.weight", &[16, 16, 3, 3]);
        let arguments = [
            ("input", tensor("act")),
            ("weight", tensor("two.weight")),
            ("bias", json!({"as_none": true})),
            ("stride", ints(&[1, 1])),
            ("padding", ints(&[1, 1])),
        ];
        network.node("conv2d.default", "two", &arguments, &[B, 16, 8, 8]);
    })
}

fn network(two: impl FnOnce(&mut programs::Network)) -> programs::Network {
    let mut network = programs::Network::new();
    network.conv("stem", "x", [3, 16, 3], 8);
    network.conv("one", "stem", [16, 16, 3], 8);
    network.node("relu.default", "act", &[("self", tensor("one"))], &[B, 16, 8, 8]);
    two(&mut network);
    pool(&mut network, "vector", "two", 16);
    network.linear("classifier", "vector", [16, 4]);
    network.result("classifier");
    network.weights["config"]["two.weight"]["path_name"] = network.weights["config"]["one.weight"]["path_name"].clone();
    network
}

#[test]
fn the_gradient_of_a_tied_weight_is_the_sum_of_its_uses() {
    let mut network = built(&tied());
    network.place(Device::Cpu, Kind::Double);
    set_values(&network);
    let weight = |key: &str| &network.weights().iter().find(|weight| weight.name == key).unwrap().tensor;
    assert_eq!(weight("one.weight"), weight("two.weight"));
    assert_eq!(network.parameters(), 16 * 27 + 16 * 16 * 9 + 16 * 4 + 4);
    let shared = weight("two.weight").detach().copy().set_requires_grad(true);
    let convolve = |x: &Tensor, weight: &Tensor| x.conv2d(weight, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1);
    let stem = convolve(&images(), &weight("stem.weight").detach());
    let map = convolve(&convolve(&stem, &shared).relu(), &shared);
    let vector = map.mean_dim([2_i64, 3].as_slice(), false, None::<Kind>);
    let wanted = vector.linear(&weight("classifier.weight").detach(), Some(&weight("classifier.bias").detach()));
    let found = network.logits(&images(), true);
    assert!(distance(&found, &wanted) < reordered(Kind::Double));
    found.square().sum(Kind::Double).backward();
    wanted.square().sum(Kind::Double).backward();
    for key in ["one.weight", "two.weight"] {
        assert!(distance(&weight(key).grad(), &shared.grad()) < 10.0 * reordered(Kind::Double), "{key}");
    }
}

#[test]
fn a_buffer_shows_its_parameter_and_gives_it_no_gradient() {
    let mut network = built(&followed());
    network.place(Device::Cpu, Kind::Double);
    set_values(&network);
    let weight = |key: &str| &network.weights().iter().find(|weight| weight.name == key).unwrap().tensor;
    let ([one, two], parameters) = ([weight("one.weight"), weight("two.weight")], network.parameters());
    assert!(one.detach() == *two && one.data_ptr() == two.data_ptr() && !two.requires_grad());
    assert_eq!(parameters, 16 * 27 + 16 * 16 * 9 + 16 * 4 + 4);
    let own = one.detach().copy().set_requires_grad(true);
    let convolve = |x: &Tensor, weight: &Tensor| x.conv2d(weight, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1);
    let stem = convolve(&images(), &weight("stem.weight").detach());
    let map = convolve(&convolve(&stem, &own).relu(), &own.detach());
    let vector = map.mean_dim([2_i64, 3].as_slice(), false, None::<Kind>);
    let wanted = vector.linear(&weight("classifier.weight").detach(), Some(&weight("classifier.bias").detach()));
    let found = network.logits(&images(), true);
    assert!(distance(&found, &wanted) < reordered(Kind::Double));
    found.square().sum(Kind::Double).backward();
    wanted.square().sum(Kind::Double).backward();
    assert!(distance(&one.grad(), &own.grad()) < 10.0 * reordered(Kind::Double));
}

#[test]
fn a_run_keeps_a_buffer_equal_to_its_parameter_in_every_file() {
    let workspace = workspace_of(followed());
    let mut specification = specification(&workspace, 6);
    specification["training"]["ema_decay"] = json!(0.9);
    assert_resumes_and_verifies(&workspace, &specification);
    for file in ["whole/student-last.safetensors", "whole/student.safetensors"] {
        let of = |key: &str| floats(&workspace.path(file), key);
        assert!(of("one.weight") == of("two.weight"), "{file}");
    }
    let [weights, network, written] =
        ["whole/student.safetensors", "student.pt2", "written.pt2"].map(|name| workspace.path(name));
    write_pt2(&Student::open(&weights, Some(&network)).unwrap(), File::create(&written).unwrap()).unwrap();
    let after = ExportedNetwork::open(&written).unwrap();
    let two = after.tensors().iter().find(|stored| stored.tensor.name() == "two.weight").unwrap();
    assert!(two.follows_a_parameter(after.tensors()));
    assert!(after.floats(two).unwrap() == floats(&weights, "one.weight"));
    let before = ExportedNetwork::open(&network).unwrap();
    let two = before.tensors().iter().find(|stored| stored.tensor.name() == "two.weight").unwrap();
    assert!(before.floats(two).unwrap() != floats(&weights, "two.weight"), "it was not trained");
}

fn workspace() -> Workspace {
    workspace_of(tied())
}

fn workspace_of(student: programs::Network) -> Workspace {
    let workspace = Workspace::new();
    write(residual(false), &workspace.path("teacher.pt2"), 0);
    write(student, &workspace.path("student.pt2"), 50);
    workspace
}

fn specification(workspace: &Workspace, epochs: u32) -> Value {
    json!({
        "teacher": {"checkpoint": workspace.path("teacher.pt2")},
        "student": {"checkpoint": workspace.path("student.pt2")},
        "dataset": {"path": workspace.path("data")},
        "distillation": {"method": "sdd_kd", "scales": [1, 2]},
        "training": {"epochs": epochs, "batch_size": 4, "precision": "float32", "seed": 3},
    })
}

#[test]
fn a_run_with_tied_weights_resumes_and_verifies_to_the_same_bytes() {
    let workspace = workspace();
    assert_resumes_and_verifies(&workspace, &specification(&workspace, 6));
    let of = |key: &str| floats(&workspace.path("whole/student-last.safetensors"), key);
    assert!(of("one.weight") == of("two.weight"), "the keys of one parameter have different values");
    let network = ExportedNetwork::open(&workspace.path("student.pt2")).unwrap();
    let before = network.tensors().iter().find(|stored| stored.tensor.name() == "one.weight").unwrap();
    assert!(of("one.weight") != network.floats(before).unwrap(), "it was not trained");
}

#[test]
fn the_pt2_of_a_student_has_its_ties() {
    let workspace = workspace();
    let events = workspace.finish(&specification(&workspace, 1), "out", &[]);
    let is_told = |line: &&str| line.contains("both stay equal in training: two.weight");
    assert!(log(&events).iter().any(is_told) && !warnings(&events).iter().any(is_told), "{events:?}");
    let [weights, network, written] =
        ["out/student.safetensors", "student.pt2", "written.pt2"].map(|name| workspace.path(name));
    write_pt2(&Student::open(&weights, Some(&network)).unwrap(), File::create(&written).unwrap()).unwrap();
    let [before, after] = [network, written].map(|path| ExportedNetwork::open(&path).unwrap());
    let ties = |network: &ExportedNetwork| network.tensors().iter().map(|stored| stored.tied_to).collect::<Vec<_>>();
    assert_eq!(ties(&after), ties(&before));
    assert_eq!(after.description().parameters, before.description().parameters);
    let two = after.tensors().iter().find(|stored| stored.tensor.name() == "two.weight").unwrap();
    assert!(after.floats(two).unwrap() == floats(&weights, "two.weight"));
}

#[test]
fn weights_that_have_come_apart_are_refused() {
    let workspace = workspace();
    workspace.finish(&specification(&workspace, 1), "out", &[]);
    let read = Checkpoint::open_as_written(&workspace.path("out/student.safetensors")).unwrap();
    let bytes: Vec<Vec<u8>> = read.tensors().iter().map(|tensor| read.bytes(tensor).unwrap()).collect();
    let doubled = floats(&workspace.path("out/student.safetensors"), "two.weight");
    let doubled: Vec<u8> = doubled.iter().flat_map(|float| (2.0 * float).to_le_bytes()).collect();
    let tensors = read.tensors().iter().zip(&bytes).map(|(tensor, bytes)| NewTensor {
        name: tensor.name(),
        dtype: tensor.dtype(),
        shape: tensor.shape(),
        bytes: if tensor.name() == "two.weight" { &doubled } else { bytes },
    });
    let [altered, network] = ["altered.safetensors", "student.pt2"].map(|name| workspace.path(name));
    let metadata: BTreeMap<String, String> = read.metadata().clone();
    checkpoint::write(&altered, &tensors.collect::<Vec<_>>(), &metadata).unwrap();
    let mut command = trainer("evaluate");
    command.arg("--dataset").arg(workspace.path("data"));
    let run = command.arg("--checkpoint").arg(&altered).arg("--network").arg(&network).output().unwrap();
    let said = text(&run.stderr);
    assert!(said.contains("one.weight and two.weight are one parameter"), "{said}");
    let said = Student::open(&altered, Some(&network)).unwrap_err().to_string();
    assert!(said.contains("one.weight and two.weight are one parameter"), "{said}");
}
