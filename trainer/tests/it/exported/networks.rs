//! Small exported networks with weights, made here.

use std::path::{Path, PathBuf};

use distillery_core::exported::ExportedNetwork;
use distillery_trainer::models::{self, Network};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::programs::{self, B, expression, flag, float, int, ints, tensor};
use crate::support::rounding::Rounding;
use crate::support::torch::{hashed, one_thread};

/// The network of a file, in memory.
pub fn built(network: &programs::Network) -> Network {
    one_thread();
    let file: ExportedNetwork = network.read().unwrap_or_else(|error| panic!("{error}"));
    models::exported::build(Path::new("small.pt2"), &file).unwrap()
}

/// Values for a tensor of a network, by its key: norms near the identity, and layers that keep the size of what they
/// take.
pub fn value(key: &str, shape: &[i64], salt: usize) -> Tensor {
    let noise = hashed(shape, salt);
    match (key.rsplit('.').next().unwrap(), shape.len()) {
        ("running_var", _) => noise.abs() + 0.5,
        ("weight", 1) => noise * 0.2 + 1.0,
        (_, 0 | 1) => noise * 0.2,
        _ => noise * (3.0 / shape[1..].iter().product::<i64>() as f64).sqrt(),
    }
}

/// Sets every floating-point tensor of a network.
pub fn set_values(network: &Network) {
    for (index, weight) in network.weights().iter().enumerate().filter(|(_, weight)| weight.is_float) {
        network.set(index, &value(&weight.name, &weight.tensor.size(), index));
    }
}

/// Writes values into the storages of a network, and the network to a file.
pub fn write(mut network: programs::Network, path: &Path, salt: usize) -> PathBuf {
    let config = network.weights["config"].as_object().unwrap().clone();
    for (at, (key, payload)) in config.iter().enumerate() {
        if payload["tensor_meta"]["dtype"] != json!(7) {
            continue;
        }
        let sizes = payload["tensor_meta"]["sizes"].as_array().unwrap();
        let shape: Vec<i64> = sizes.iter().map(|size| size["as_int"].as_i64().unwrap()).collect();
        let values = value(key, &shape, at + salt).to_kind(Kind::Float).flatten(0, -1);
        let values = Vec::<f32>::try_from(values).unwrap();
        let file = format!("data/weights/{}", payload["path_name"].as_str().unwrap());
        let (_, bytes) = network.files.iter_mut().find(|(name, _)| *name == file).unwrap();
        *bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    }
    std::fs::write(path, network.bytes()).unwrap();
    path.to_owned()
}

/// A network that a test builds layer by layer.
pub trait Layers {
    /// A convolution with a square kernel, padded by half its size.
    fn conv(&mut self, name: &str, input: &str, channels_and_side: [i64; 3], map: i64);
    /// A batch norm with its counter.
    fn norm(&mut self, name: &str, input: &str, shape: &[i64], trains: bool);
    /// A linear layer with a bias.
    fn linear(&mut self, name: &str, input: &str, sizes: [i64; 2]);
}

impl Layers for programs::Network {
    fn conv(&mut self, name: &str, input: &str, [inputs, outputs, side]: [i64; 3], map: i64) {
        let weight = format!("{name}.weight");
        self.parameter(&weight, &[outputs, inputs, side, side]);
        let arguments = [
            ("input", tensor(input)),
            ("weight", tensor(&weight)),
            ("bias", json!({"as_none": true})),
            ("stride", ints(&[1, 1])),
            ("padding", ints(&[side / 2, side / 2])),
        ];
        self.node("conv2d.default", name, &arguments, &[B, outputs, map, map]);
    }

    fn norm(&mut self, name: &str, input: &str, shape: &[i64], trains: bool) {
        let key = |part: &str| format!("{name}.{part}");
        let channels = [shape[1]];
        self.parameter(&key("weight"), &channels);
        self.parameter(&key("bias"), &channels);
        self.buffer(&key("running_mean"), &channels);
        self.buffer(&key("running_var"), &channels);
        if trains {
            let counter = key("num_batches_tracked");
            self.counter(&counter);
            let counted = format!("{name}_count");
            self.node("add_.Tensor", &counted, &[("self", tensor(&counter)), ("other", int(1))], &[]);
            self.recorded(&counted)["dtype"] = json!(5);
        }
        let [weight, bias, mean, variance] = ["weight", "bias", "running_mean", "running_var"].map(key);
        let arguments = [
            ("input", tensor(input)),
            ("weight", tensor(&weight)),
            ("bias", tensor(&bias)),
            ("running_mean", tensor(&mean)),
            ("running_var", tensor(&variance)),
            ("training", flag(trains)),
            ("momentum", float(0.3)),
            ("eps", float(1e-3)),
            ("cudnn_enabled", flag(false)),
        ];
        self.node("batch_norm.default", name, &arguments, shape);
    }

    fn linear(&mut self, name: &str, input: &str, [inputs, outputs]: [i64; 2]) {
        let [weight, bias] = ["weight", "bias"].map(|part| format!("{name}.{part}"));
        self.parameter(&weight, &[outputs, inputs]);
        self.parameter(&bias, &[outputs]);
        let arguments = [("input", tensor(input)), ("weight", tensor(&weight)), ("bias", tensor(&bias))];
        self.node("linear.default", name, &arguments, &[B, outputs]);
    }
}

/// The size of the batch as a value of the program, `b`.
pub fn batch_size(network: &mut programs::Network) {
    let outputs = json!([{"as_sym_int": {"as_name": "b"}}]);
    network.bare_node("torch.ops.aten.sym_size.int", &[("self", tensor("x")), ("dim", int(0))], outputs);
    network.graph()["sym_int_values"]["b"] = expression("Symbol('s77', positive=True, integer=True)");
}

/// Stochastic depth: a mask for the images of `input`, as timm and torchvision write it.
pub fn drop_path(network: &mut programs::Network, name: &str, input: &str, keep: f64, shape: &[i64]) {
    let [empty, mask, scaled] = ["empty", "mask", "scaled"].map(|part| format!("{name}_{part}"));
    let of_images = [B, 1, 1, 1];
    let size = json!({"as_sym_ints": [{"as_name": "b"}, {"as_int": 1}, {"as_int": 1}, {"as_int": 1}]});
    network.node("new_empty.default", &empty, &[("self", tensor(input)), ("size", size)], &of_images);
    network.node("bernoulli_.float", &mask, &[("self", tensor(&empty)), ("p", float(keep))], &of_images);
    network.node("div_.Tensor", &scaled, &[("self", tensor(&mask)), ("other", float(keep))], &of_images);
    network.node("mul.Tensor", name, &[("self", tensor(input)), ("other", tensor(&scaled))], shape);
}

/// Average pooling of a map to vectors.
pub fn pool(network: &mut programs::Network, name: &str, input: &str, channels: i64) {
    let pooled = format!("{name}_map");
    let pooling = [("self", tensor(input)), ("output_size", ints(&[1, 1]))];
    network.node("adaptive_avg_pool2d.default", &pooled, &pooling, &[B, channels, 1, 1]);
    network.node("flatten.using_ints", name, &[("self", tensor(&pooled)), ("start_dim", int(1))], &[B, channels]);
}

/// For images of 8×8 pixels and 4 classes: convolutions with batch norms, a residual branch with stochastic depth, and
/// a head with dropout and two linear layers. `trains`: exported in training mode.
pub fn residual(trains: bool) -> programs::Network {
    residual_of(trains, 4)
}

/// The same with other classes.
pub fn residual_of(trains: bool, classes: i64) -> programs::Network {
    let mut network = programs::Network::new();
    let map = [B, 16, 8, 8];
    network.conv("stem", "x", [3, 16, 3], 8);
    network.norm("stem_norm", "stem", &map, trains);
    network.node("relu_.default", "stem_act", &[("self", tensor("stem_norm"))], &map);
    network.conv("branch", "stem_act", [16, 16, 3], 8);
    network.norm("branch_norm", "branch", &map, trains);
    let branch = if trains {
        batch_size(&mut network);
        drop_path(&mut network, "dropped", "branch_norm", 0.75, &map);
        "dropped"
    } else {
        "branch_norm"
    };
    network.node("add.Tensor", "sum", &[("self", tensor(branch)), ("other", tensor("stem_act"))], &map);
    network.node("relu.default", "act", &[("self", tensor("sum"))], &map);
    pool(&mut network, "vector", "act", 16);
    network.linear("hidden", "vector", [16, 24]);
    network.node("hardswish.default", "hidden_act", &[("self", tensor("hidden"))], &[B, 24]);
    let dropout = [("input", tensor("hidden_act")), ("p", float(0.25)), ("train", flag(trains))];
    network.node("dropout.default", "dropout", &dropout, &[B, 24]);
    network.linear("classifier", "dropout", [24, classes]);
    network.result("classifier");
    network
}

/// A network that classifies one position of its map, as one with a class token.
pub fn without_map() -> programs::Network {
    let mut network = programs::Network::new();
    network.conv("stem", "x", [3, 16, 3], 8);
    network.node("gelu.default", "act", &[("self", tensor("stem"))], &[B, 16, 8, 8]);
    network.node("flatten.using_ints", "rows", &[("self", tensor("act")), ("start_dim", int(2))], &[B, 16, 64]);
    network.node("select.int", "token", &[("self", tensor("rows")), ("dim", int(2)), ("index", int(27))], &[B, 16]);
    network.linear("classifier", "token", [16, 4]);
    network.result("classifier");
    network
}

/// The relative distance of two tensors.
pub fn distance(found: &Tensor, wanted: &Tensor) -> f64 {
    assert_eq!(found.size(), wanted.size());
    let wanted = wanted.to_kind(Kind::Double);
    let off = (found.to_kind(Kind::Double) - &wanted).norm().double_value(&[]);
    off / wanted.norm().double_value(&[]).max(1e-300)
}

/// How far apart two computations of one result may be that add up in different orders, relative to its norm: no sum of
/// these networks has more than 1024 terms, and their sizes are together at most four times the result.
pub fn reordered(kind: Kind) -> f64 {
    4.0 * Rounding::of(kind, 1024).relative
}

/// A batch of images [4, 3, 8, 8] in float64.
pub fn images() -> Tensor {
    hashed(&[4, 3, 8, 8], 1000).to_device(Device::Cpu)
}
