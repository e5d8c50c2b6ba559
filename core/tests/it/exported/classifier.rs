//! Promise: a classifier is replaced by one for other classes, and every shape after it follows; what cannot follow is
//! refused by name, and leaves the network as it was.

use distillery_core::exported::{ExportedNetwork, Origin, Size};
use serde_json::json;

use super::fixtures::fixture;
use super::programs::{B, Network, int, ints, tensor};

/// A network up to the pooled map `pooled` [B, 4, 1, 1] and its vector `flat` [B, 4].
fn body() -> Network {
    let mut network = Network::new();
    network.convolve();
    let pooling = [("self", tensor("conv")), ("output_size", ints(&[1, 1]))];
    network.node("adaptive_avg_pool2d.default", "pooled", &pooling, &[B, 4, 1, 1]);
    network.node("flatten.using_ints", "flat", &[("self", tensor("pooled")), ("start_dim", int(1))], &[B, 4]);
    network
}

/// A linear layer with a bias from [B, 4] to [B, 5].
fn linear(network: &mut Network, name: &str, input: &str) {
    let [weight, bias] = ["weight", "bias"].map(|part| format!("{name}.{part}"));
    network.parameter(&weight, &[5, 4]);
    network.parameter(&bias, &[5]);
    let inputs = [("input", tensor(input)), ("weight", tensor(&weight)), ("bias", tensor(&bias))];
    network.node("linear.default", name, &inputs, &[B, 5]);
}

/// A 1×1 convolution with a bias from `pooled` to `name` [B, 5, 1, 1].
pub fn convolution(network: &mut Network, name: &str, groups: i64) {
    let [weight, bias] = ["weight", "bias"].map(|part| format!("{name}.{part}"));
    network.parameter(&weight, &[5, 4 / groups, 1, 1]);
    network.parameter(&bias, &[5]);
    let inputs =
        [("input", tensor("pooled")), ("weight", tensor(&weight)), ("bias", tensor(&bias)), ("groups", int(groups))];
    network.node("conv2d.default", name, &inputs, &[B, 5, 1, 1]);
}

/// A network whose classifier is a 1×1 convolution, before other shapes and a softmax.
pub fn convolutional() -> Network {
    let mut network = body();
    convolution(&mut network, "score", 1);
    network.node("squeeze.dim", "row", &[("self", tensor("score")), ("dim", int(3))], &[B, 5, 1]);
    network.node("flatten.using_ints", "scores", &[("self", tensor("row")), ("start_dim", int(1))], &[B, 5]);
    network.node("softmax.int", "logits", &[("self", tensor("scores")), ("dim", int(1))], &[B, 5]);
    network.result("logits");
    network
}

fn shape(network: &ExportedNetwork, key: &str) -> Vec<u64> {
    let found = network.tensors().iter().find(|stored| stored.tensor.name() == key);
    found.unwrap_or_else(|| panic!("no {key}")).tensor.shape().to_vec()
}

#[test]
fn every_shape_after_a_new_classifier_follows() {
    let mut network = convolutional().read().unwrap();
    let new = network.replace_classifier(9).unwrap();
    let keys: Vec<&str> = new.tensors.iter().map(|&index| network.tensors()[index].tensor.name()).collect();
    assert_eq!((keys.as_slice(), new.before), (["score.weight", "score.bias"].as_slice(), 5));
    assert_eq!((shape(&network, "score.weight"), shape(&network, "score.bias")), (vec![9, 4, 1, 1], vec![9]));
    let graph = network.graph();
    assert_eq!(graph.values[graph.logits].shape, [Size::Batch(1), Size::Fixed(9)]);
    assert_eq!(network.description().classes, 9);
    for &index in &new.tensors {
        assert!(network.floats(&network.tensors()[index]).unwrap().iter().all(|&element| element == 0.0));
    }
    let of_five = |value: &&distillery_core::exported::Value| {
        matches!(value.origin, Origin::Node(_)) && value.shape.contains(&Size::Fixed(5))
    };
    assert_eq!(graph.values.iter().find(of_five).map(|value| value.shape.clone()), None);
    assert!(network.replace_classifier(1 << 40).unwrap_err().contains("classes are too many"));
    // A second one, and the first number again.
    assert_eq!(network.replace_classifier(2).unwrap().before, 9);
    network.replace_classifier(5).unwrap();
    let same = convolutional().read().unwrap();
    assert_eq!(network.description(), same.description());
}

#[test]
fn what_other_classes_cost_is_known_from_the_description_alone() {
    for name in ["test_byobnet", "test_convnext", "test_efficientnet", "test_vit_avg"] {
        let mut network = ExportedNetwork::open(&fixture(&format!("{name}.pt2"))).unwrap();
        let foreseen = network.description().clone().with_classes(37);
        network.replace_classifier(37).unwrap_or_else(|why| panic!("{name}: {why}"));
        let found = network.description();
        let of = |description: &distillery_core::exported::Description| {
            (description.classes, description.parameters, description.macs)
        };
        assert_eq!(of(&foreseen), of(found), "{name}");
    }
}

#[test]
fn a_frozen_classifier_is_replaced_by_one_that_is_trained() {
    let mut program = body();
    linear(&mut program, "logits", "flat");
    program.result("logits");
    for key in ["logits.weight", "logits.bias"] {
        program.weights["config"][key]["tensor_meta"]["requires_grad"] = json!(false);
    }
    let mut network = program.read().unwrap();
    let before = network.description().clone();
    assert_eq!(before.parameters, 4 * 3 * 3 * 3);
    network.replace_classifier(5).unwrap();
    assert_eq!(network.description().parameters, before.parameters + 5 * 5);
    assert_eq!(before.with_classes(5).parameters, network.description().parameters);
}

/// Asserts that the classifier cannot be replaced, whatever the number of classes, and why.
#[track_caller]
fn assert_kept(program: &Network, says: &str) {
    let mut network = program.read().unwrap();
    let before = network.description().clone();
    let reason = before.head.keeps_classifier.clone().expect("a reason");
    assert!(reason.contains(says), "{says:?} is not in {reason:?}");
    assert_eq!(before.head.new_classifier, None);
    for classes in [5, 7, 1 << 40] {
        network.replace_classifier(classes).unwrap_err();
        assert_eq!(network.description(), &before);
    }
}

#[test]
fn sizes_that_cannot_follow_are_named() {
    let mut view = body();
    convolution(&mut view, "score", 1);
    view.node("view.default", "logits", &[("self", tensor("score")), ("size", ints(&[-1, 5]))], &[B, 5]);
    view.result("logits");
    assert_kept(&view, "logits (aten.view.default) has sizes of its own");

    let mut scaled = body();
    linear(&mut scaled, "score", "flat");
    scaled.parameter("scale", &[5]);
    scaled.node("mul.Tensor", "logits", &[("self", tensor("score")), ("other", tensor("scale"))], &[B, 5]);
    scaled.result("logits");
    assert_kept(&scaled, "logits (aten.mul.Tensor) combines");

    let mut sliced = body();
    linear(&mut sliced, "score", "flat");
    let slice = [("self", tensor("score")), ("dim", int(1)), ("start", int(0)), ("end", int(5)), ("step", int(1))];
    sliced.node("slice.Tensor", "part", &slice, &[B, 5]);
    sliced.node("relu.default", "logits", &[("self", tensor("part"))], &[B, 5]);
    sliced.result("logits");
    assert_kept(&sliced, "part (aten.slice.Tensor) has sizes of its own");
}

#[test]
fn a_classifier_that_is_not_the_only_one_is_named() {
    let mut two = body();
    linear(&mut two, "one", "flat");
    linear(&mut two, "two", "flat");
    two.node("add.Tensor", "logits", &[("self", tensor("one")), ("other", tensor("two"))], &[B, 5]);
    two.result("logits");
    let says = "its logits come from two outputs, those of one.weight and of two.weight, and a new classifier is one layer: \
                let forward return one of both only";
    assert_kept(&two, says);

    let mut tied = body();
    linear(&mut tied, "one", "flat");
    let inputs = [("input", tensor("flat")), ("weight", tensor("one.weight"))];
    tied.node("linear.default", "other", &inputs, &[B, 5]);
    tied.node("add.Tensor", "logits", &[("self", tensor("one")), ("other", tensor("other"))], &[B, 5]);
    tied.result("logits");
    assert_kept(&tied, "one.weight of its classifier is used by");

    let mut twin = body();
    linear(&mut twin, "logits", "flat");
    twin.parameter("other", &[5, 4]);
    twin.weights["config"]["other"]["path_name"] = twin.weights["config"]["logits.weight"]["path_name"].clone();
    twin.result("logits");
    assert_kept(&twin, "logits.weight of its classifier shares its elements with other");
}

#[test]
fn a_layer_that_is_no_plain_classifier_is_named() {
    let mut grouped = body();
    grouped.parameter("score.weight", &[6, 2, 1, 1]);
    let inputs = [("input", tensor("pooled")), ("weight", tensor("score.weight")), ("groups", int(2))];
    grouped.node("conv2d.default", "score", &inputs, &[B, 6, 1, 1]);
    grouped.node("flatten.using_ints", "logits", &[("self", tensor("score")), ("start_dim", int(1))], &[B, 6]);
    grouped.result("logits");
    assert_kept(&grouped, "is a convolution of 2 groups");

    let mut buffer = body();
    buffer.buffer("fixed", &[5, 4]);
    let inputs = [("input", tensor("flat")), ("weight", tensor("fixed"))];
    buffer.node("linear.default", "logits", &inputs, &[B, 5]);
    buffer.result("logits");
    assert_kept(&buffer, "fixed of its classifier logits (aten.linear.default) is no parameter");

    let mut pooled = body();
    pooled.node("relu.default", "logits", &[("self", tensor("flat"))], &[B, 4]);
    pooled.result("logits");
    assert_kept(&pooled, "its logits are not those of a linear layer or a 1×1 convolution");
}
