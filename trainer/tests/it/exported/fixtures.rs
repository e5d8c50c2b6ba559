//! timm's networks compute what PyTorch computes: logits, gradients, running statistics, maps, and logits of regions.
//!
//! `tests/fixtures/exported` has networks of timm 1.0.22 with random weights, and beside each what PyTorch 2.11
//! computed with it in float64: for images with the labels 0, 1, 2, 3 in evaluation and in training mode, and the head
//! applied to the mean of the map and to those of 2×2 regions.

use std::path::{Path, PathBuf};

use distillery_trainer::models::{self, Network};
use tch::{Device, Kind, Reduction, Tensor};

use super::networks::distance;
use crate::support::torch::one_thread;

const NAMES: [&str; 4] = ["test_efficientnet", "test_convnext", "test_byobnet", "test_vit_avg"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/exported").join(name)
}

/// What PyTorch computed, by name.
struct Expected(Vec<(String, Tensor)>);

impl Expected {
    fn of(name: &str) -> Self {
        let tensors = Tensor::read_safetensors(path(&format!("{name}.safetensors"))).unwrap();
        Self(tensors.into_iter().map(|(name, tensor)| (name, tensor.to_kind(Kind::Double))).collect())
    }

    fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor)
    }

    fn images(&self) -> &Tensor {
        self.get("images").unwrap()
    }
}

fn network(name: &str, kind: Kind) -> Network {
    one_thread();
    let file = path(&format!("{name}.pt2"));
    let mut network = models::exported::build(&file, &models::exported::open(&file).unwrap().0).unwrap();
    network.place(Device::Cpu, kind);
    network
}

/// Asserts that a tensor is PyTorch's, if that was recorded.
fn assert_near(name: &str, what: &str, found: &Tensor, expected: &Expected, tolerance: f64) {
    if let Some(wanted) = expected.get(what) {
        let distance = distance(found, wanted);
        assert!(distance < tolerance, "{name}: {what} is {distance:e} off");
    }
}

/// The kinds to compute in, and how far results may be off: those of single precision, and of images that were rounded
/// to it.
const KINDS: [(Kind, f64); 2] = [(Kind::Float, 1e-5), (Kind::Double, 1e-6)];

#[test]
fn evaluation_gives_pytorchs_logits_maps_and_logits_of_regions() {
    let _guard = tch::no_grad_guard();
    for name in NAMES {
        let expected = Expected::of(name);
        for (kind, tolerance) in KINDS {
            let network = network(name, kind);
            let features = network.features(expected.images(), false);
            let regions = network.regions(&features, &[2], false).joined(&[2]);
            assert_near(name, "eval_logits", &network.logits(expected.images(), false), &expected, tolerance);
            assert_near(name, "feature_map", &features, &expected, tolerance);
            assert_near(name, "region_logits", &regions, &expected, tolerance);
        }
    }
}

#[test]
fn a_frozen_network_gives_pytorchs_logits_in_float32_and_nearly_in_bfloat16() {
    let _guard = tch::no_grad_guard();
    for name in NAMES {
        let expected = Expected::of(name);
        let network = network(name, Kind::Float);
        let constant = network.constant(Kind::Float, 4, 64);
        assert_near(name, "eval_logits", &constant.logits(expected.images(), false), &expected, 1e-5);
        // Frozen, it does not train.
        assert_near(name, "eval_logits", &constant.logits(expected.images(), true), &expected, 1e-5);
        let rough = network.constant(Kind::BFloat16, 4, 64).logits(expected.images(), false);
        assert_eq!(rough.kind(), Kind::Float);
        assert_near(name, "eval_logits", &rough, &expected, 0.05);
    }
}

#[test]
fn training_gives_pytorchs_logits_gradients_and_running_statistics() {
    for name in NAMES {
        let expected = Expected::of(name);
        let Some(norms) = expected.get("grad_norms") else { continue };
        for (kind, tolerance) in KINDS {
            let network = network(name, kind);
            let counters = || network.weights().iter().filter(|weight| weight.name.ends_with("num_batches_tracked"));
            let counts = || counters().map(|weight| i64::try_from(&weight.tensor).unwrap()).collect::<Vec<_>>();
            let in_the_file = counts();
            let logits = network.logits(expected.images(), true);
            assert_near(name, "train_logits", &logits, &expected, tolerance);
            let labels = Tensor::arange(4, (Kind::Int64, Device::Cpu));
            logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0).backward();
            let found = network.trained().map(|tensor| tensor.grad().to_kind(Kind::Double).norm());
            let found: Vec<Tensor> = found.collect();
            let distance = distance(&Tensor::stack(&found, 0), norms);
            assert!(distance < 10.0 * tolerance, "{name}: gradients are {distance:e} off in {kind:?}");
            let statistics = network.weights().iter().filter(|weight| weight.name.contains("running_"));
            let statistics: Vec<Tensor> = statistics.map(|weight| weight.tensor.to_kind(Kind::Double)).collect();
            if !statistics.is_empty() {
                assert_near(name, "running_after", &Tensor::cat(&statistics, 0), &expected, tolerance);
            }
            assert_eq!(counts(), in_the_file.iter().map(|count| count + 1).collect::<Vec<_>>(), "{name}");
        }
    }
}

#[test]
fn bfloat16_training_has_float32_weights_and_gradients_near_those_of_float32() {
    for name in ["test_efficientnet", "test_convnext", "test_byobnet"] {
        let expected = Expected::of(name);
        let mut network = network(name, Kind::Float);
        network.compute_in(Kind::BFloat16);
        let logits = network.logits(expected.images(), true);
        assert_eq!(logits.kind(), Kind::Float);
        assert_near(name, "train_logits", &logits, &expected, 0.1);
        logits.square().sum(Kind::Float).backward();
        for weight in network.weights().iter().filter(|weight| weight.trained) {
            assert_eq!(weight.tensor.grad().kind(), Kind::Float, "{name}: {}", weight.name);
            assert!(bool::try_from(weight.tensor.grad().isfinite().all()).unwrap(), "{name}: {}", weight.name);
        }
    }
}

#[test]
fn the_state_dict_has_the_files_keys_types_and_shapes() {
    for name in NAMES {
        let (file, _) = models::exported::open(&path(&format!("{name}.pt2"))).unwrap();
        let network = network(name, Kind::Float);
        let found: Vec<_> = network
            .weights()
            .iter()
            .map(|weight| (weight.name.as_str(), weight.tensor.size(), weight.tensor.kind() == Kind::Int64))
            .collect();
        let wanted: Vec<_> = file
            .tensors()
            .iter()
            .map(|stored| {
                let shape: Vec<i64> = stored.tensor.shape().iter().map(|&size| size as i64).collect();
                (stored.tensor.name(), shape, stored.tensor.name().ends_with("num_batches_tracked"))
            })
            .collect();
        assert_eq!(found, wanted, "{name}");
        assert_eq!(network.parameters(), file.description().parameters, "{name}");
    }
}
