//! Promise: what PyTorch and timm export is read as what it is.
//!
//! The files are networks of timm 1.0.22 with 10 classes and random weights, which PyTorch 2.11 exported in training
//! mode for images of 64×64 pixels, as docs/networks.md shows.

use std::path::{Path, PathBuf};

use distillery_core::exported::{ExportedNetwork, TensorRole};
use serde_json::{Value, json};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/exported").join(name)
}

fn described(name: &str) -> Value {
    let network = ExportedNetwork::open(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::to_value(network.description()).unwrap()
}

#[test]
fn a_network_with_squeeze_and_excitation_is_described() {
    let description = described("test_efficientnet.pt2");
    assert_eq!(description["schema"], "8.17");
    assert!(description["torch"].as_str().unwrap().starts_with("2.11.0"));
    assert_eq!(description["input"], json!([3, 64, 64]));
    assert_eq!(description["batch"], json!([2, 65536]));
    assert_eq!((&description["classes"], &description["parameters"]), (&json!(10), &json!(101_766)));
    assert_eq!(description["mode"], "training");
    let operators = json!({
        "aten.conv2d.default": 17, "aten.add_.Tensor": 13, "aten.batch_norm.default": 13, "aten.silu_.default": 11,
        "aten.mean.dim": 2, "aten.sigmoid.default": 2, "aten.mul.Tensor": 2, "aten.adaptive_avg_pool2d.default": 1,
        "aten.flatten.using_ints": 1, "aten.linear.default": 1,
    });
    assert_eq!(description["operators"], operators);
    // Squeeze and excitation pools, too, but not all paths lead through it.
    assert_eq!(description["feature_map"], json!({"shape": [256, 2, 2], "layout": "channels_first"}));
    let head = json!({
        "begins_after": "adaptive_avg_pool2d", "operators": ["aten.flatten.using_ints", "aten.linear.default"],
        "is_linear": true, "classifier": "classifier.weight",
        "new_classifier": {"other_parameters": 99_196, "parameters_per_class": 257, "macs_per_class": 256},
    });
    assert_eq!(description["head"], head);
    assert_eq!(description["warnings"], json!([]));
}

#[test]
fn a_network_whose_channels_come_last_is_described() {
    let description = described("test_convnext.pt2");
    assert_eq!((&description["classes"], &description["parameters"]), (&json!(10), &json!(207_778)));
    let operators = json!({
        "aten.conv2d.default": 13, "aten.permute.default": 28, "aten.layer_norm.default": 14, "aten.linear.default": 19,
        "aten.gelu.default": 9, "aten.dropout.default": 19, "aten.reshape.default": 9, "aten.mul.Tensor": 9,
        "aten.add.Tensor": 9, "aten.adaptive_avg_pool2d.default": 1, "aten.flatten.using_ints": 1,
    });
    assert_eq!(description["operators"], operators);
    assert_eq!(description["feature_map"], json!({"shape": [64, 2, 2], "layout": "channels_first"}));
    assert_eq!(description["head"]["begins_after"], "adaptive_avg_pool2d");
    // It normalises what was pooled.
    assert_eq!(description["head"]["is_linear"], false);
    assert_eq!(description["head"]["classifier"], "head.fc.weight");
}

#[test]
fn every_tensor_of_the_state_dict_can_be_read() {
    let network = ExportedNetwork::open(&fixture("test_efficientnet.pt2")).unwrap();
    let of = |role| network.tensors().iter().filter(move |stored| stored.role == role);
    // Running mean, running variance and counter of each batch norm.
    assert_eq!(of(TensorRole::Buffer).count(), 3 * 13);
    let mut parameters = 0;
    for stored in of(TensorRole::Parameter) {
        let values = network.floats(stored).unwrap();
        assert_eq!(values.len() as u64, stored.tensor.elements());
        assert!(values.iter().all(|value| value.is_finite()), "{}", stored.tensor.name());
        parameters += values.len();
    }
    assert_eq!(parameters, 101_766);
    assert!(network.tensors().iter().any(|stored| stored.tensor.name() == "conv_stem.weight"));
}
