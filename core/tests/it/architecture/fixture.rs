//! Promise: every network has exactly the keys, shapes, geometry and parameters of the published one.

use distillery_core::architecture::{self, Role};
use serde_json::{Value, json};

fn fixture() -> serde_json::Map<String, Value> {
    serde_json::from_str(include_str!("../../../../tests/fixtures/architectures.json")).unwrap()
}

#[test]
fn all_lists_what_the_fixture_has() {
    let mut names: Vec<_> = architecture::all().iter().map(|architecture| architecture.name.to_owned()).collect();
    names.sort();
    assert_eq!(names, fixture().keys().cloned().collect::<Vec<_>>());
}

#[test]
fn keys_shapes_parameters_and_geometry_are_the_published_ones() {
    // serde_json sorts an object's keys, so the order is read from the text.
    let text = include_str!("../../../../tests/fixtures/architectures.json");
    for (name, expected) in fixture() {
        let network = architecture::find(&name).unwrap();
        let classes = expected["classes"].as_u64().unwrap() as u32;
        let layout = network.layout(classes);
        assert_eq!(expected["input"], json!([3, network.input_side, network.input_side]), "{name}");
        assert_eq!(expected["parameters"], json!(layout.parameters), "{name}");
        assert_eq!(expected["feature_map"], json!(layout.feature_map), "{name}");
        let entries = layout.entries.iter().map(|entry| format!("{:?}:{}", entry.key, json!(entry.shape)));
        let state_dict = format!("\"state_dict\":{{{}}}", entries.collect::<Vec<_>>().join(","));
        let start = text.find(&format!("\"{name}\":")).unwrap();
        let start = start + text[start..].find("\"state_dict\"").unwrap();
        assert!(text[start..].starts_with(&state_dict), "{name}");
        let convolutions: serde_json::Map<_, _> = layout
            .convolutions()
            .map(|(key, c)| {
                let geometry = json!({"kernel": c.kernel, "stride": c.stride, "padding": c.padding,
                    "groups": c.groups, "bias": c.bias});
                (key.to_owned(), geometry)
            })
            .collect();
        assert_eq!(expected["convolutions"], Value::Object(convolutions), "{name}");
    }
}

#[test]
fn multiply_accumulates_are_the_published_ones() {
    // He et al. and the usual counters: 40.55 M for ResNet-20 with parameter-free shortcuts at 10 classes (convolutions
    // and classifier).
    let layout = architecture::find("resnet20_a").unwrap().layout(10);
    assert_eq!(layout.macs, 40_551_040);
    // By hand: 3·16·9·32² + 6·16·16·9·32² + (16·32 + 5·32·32)·9·16² + (32·64 + 5·64·64)·9·8² + 64·10
    let stem = 3 * 16 * 9 * 1024;
    let stages = 6 * 16 * 16 * 9 * 1024 + (16 * 32 + 5 * 32 * 32) * 9 * 256 + (32 * 64 + 5 * 64 * 64) * 9 * 64;
    assert_eq!(layout.macs, stem + stages + 640);
}

#[test]
fn multiply_accumulates_of_the_imagenet_networks_are_those_of_torchvision() {
    // torchvision's table of models, in units of 10⁹, counts what we count.
    for (name, giga) in
        [("resnet18", 1.81), ("resnet34", 3.66), ("resnet50", 4.09), ("resnet101", 7.80), ("mobilenet_v2_224", 0.30)]
    {
        let macs = architecture::find(name).unwrap().layout(1000).macs;
        assert!((macs as f64 / 1e9 - giga).abs() <= 0.011, "{name}: {macs}");
    }
}

#[test]
fn every_network_says_how_small_images_may_be() {
    for network in architecture::all() {
        let smallest = (1..=network.input_side).find(|&side| network.layout_at(10, side).feature_map[1] > 0).unwrap();
        let expected = if network.name.starts_with("vgg") { 8 } else { 1 };
        assert_eq!(smallest, expected, "{}", network.name);
    }
}

#[test]
fn what_training_keeps_follows_from_the_graph() {
    // By hand for ResNet-8: each convolution's output, which its batch norm needs, and each ReLU's. The second batch
    // norm of a block and that of its shortcut are added and forgotten.
    let layout = architecture::find("resnet8").unwrap().layout(10);
    let (large, middle, small) = (16 * 1024, 32 * 256, 64 * 64);
    let stem = 2 * large;
    let blocks = |map: u64, shortcut: u64| 4 * map + shortcut;
    let expected = stem + blocks(large, 0) + blocks(middle, middle) + blocks(small, small);
    assert_eq!(layout.kept_elements(), expected);
    // At its widest: a block's input, its last convolution's output and the batch norm's.
    assert_eq!(layout.peak_elements(), 3 * large);
}

#[test]
fn other_input_sizes_change_the_map_and_nothing_else_of_the_state_dict() {
    let network = architecture::find("resnet8x4").unwrap();
    let (small, large) = (network.layout(10), network.layout_at(10, 64));
    assert_eq!(small.entries, large.entries);
    assert_eq!(large.feature_map, [256, 16, 16]);
    assert_eq!(large.macs - 2560, 4 * (small.macs - 2560));
    assert_eq!(network.layout_at(10, 33).feature_map, [256, 9, 9]);
}

#[test]
fn the_classifier_is_the_last_two_entries() {
    for network in architecture::all() {
        let layout = network.layout(7);
        let [.., weight, bias] = layout.entries.as_slice() else { panic!("{}", network.name) };
        assert_eq!((weight.role, bias.role), (Role::ClassifierWeight, Role::ClassifierBias));
        assert_eq!(weight.key, network.classifier_weight());
        assert_eq!((weight.shape[0], bias.shape.as_slice()), (7, [7].as_slice()));
    }
}
