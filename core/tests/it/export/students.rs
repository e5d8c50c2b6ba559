//! Students to export, and promise: a student is exported as what it was trained as.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use distillery_core::architecture;
use distillery_core::checkpoint::{self, Checkpoint, Dtype, NewTensor};
use distillery_core::export::{Student, StudentSource};
use distillery_core::exported::{ExportedNetwork, Origin, TensorRole};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::reference::{self, Tensor};
use crate::exported::fixtures::fixture;
use crate::exported::programs::Network;

/// A generator with a fixed seed: numbers in [-1, 1).
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32) / (1_u64 << 23) as f32 - 1.0
    }

    pub fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let data = (0..shape.iter().product()).map(|_| f64::from(self.next())).collect();
        Tensor::new(shape, data)
    }
}

/// A student's files.
pub struct Files {
    pub dir: TempDir,
    pub weights: PathBuf,
    pub network: Option<PathBuf>,
}

impl Files {
    pub fn student(&self) -> Student {
        Student::open(&self.weights, self.network.as_deref()).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn refusal(&self) -> String {
        Student::open(&self.weights, self.network.as_deref()).expect_err("it is refused").to_string()
    }

    /// The logits of images as the test's own implementation computes them.
    pub fn logits(&self, images: &Tensor) -> Tensor {
        let student = self.student();
        let weights = Checkpoint::open_as_written(&self.weights).unwrap();
        let named = |name: &str| -> Vec<f64> {
            let tensor = weights.get(name).unwrap_or_else(|| panic!("no {name}"));
            weights.floats(tensor).unwrap().into_iter().map(f64::from).collect()
        };
        let graph = student.graph();
        match student.source() {
            StudentSource::Zoo(network) => {
                let classes = u32::try_from(student.classes()).unwrap();
                let keys: Vec<String> = network.layout(classes).entries.into_iter().map(|entry| entry.key).collect();
                reference::logits(graph, images, |index| named(&keys[index]))
            }
            StudentSource::Exported(network) => reference::logits(graph, images, |index| {
                let stored = &network.tensors()[index];
                match stored.role {
                    TensorRole::Constant => network.floats(stored).unwrap().into_iter().map(f64::from).collect(),
                    TensorRole::Parameter | TensorRole::Buffer => named(stored.tensor.name()),
                }
            }),
        }
    }
}

/// Metadata as the trainer writes it.
pub fn metadata(classes: usize, side: u32) -> BTreeMap<String, String> {
    let names: Vec<String> = (0..classes).map(|class| format!("class {class}")).collect();
    let entries = [
        ("format", "pt".to_owned()),
        ("image_size", side.to_string()),
        ("eval_crop", "whole".to_owned()),
        ("eval_filter", "bilinear, antialiased".to_owned()),
        ("accuracy", "76.5".to_owned()),
        ("num_classes", classes.to_string()),
        ("mean", "[0.5,0.4,0.3]".to_owned()),
        ("std", "[0.25,0.2,0.3]".to_owned()),
        ("classes", serde_json::to_string(&names).unwrap()),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn write(path: &Path, tensors: &[(String, Dtype, Vec<u64>, Vec<u8>)], metadata: &BTreeMap<String, String>) {
    let views: Vec<_> =
        tensors.iter().map(|(name, dtype, shape, bytes)| NewTensor { name, dtype: *dtype, shape, bytes }).collect();
    checkpoint::write(path, &views, metadata).unwrap();
}

pub fn bytes(floats: impl IntoIterator<Item = f32>) -> Vec<u8> {
    floats.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// A student of the zoo with random weights.
pub fn zoo(name: &str, classes: u32) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let network = architecture::find(name).unwrap();
    let mut noise = Noise::new(7);
    let layout = network.layout(classes);
    let tensors: Vec<_> = layout
        .entries
        .iter()
        .map(|entry| {
            let count = entry.shape.iter().product::<u64>();
            let fan_in = entry.shape[1..].iter().product::<u64>() as f32;
            let is_variance = entry.key.ends_with("running_var");
            let is_scale = entry.shape.len() == 1 && entry.key.ends_with("weight");
            let value = |noise: f32| match (is_variance || is_scale, entry.shape.len()) {
                (true, _) => 1.0 + 0.5 * noise,
                (false, 1) => 0.3 * noise,
                _ => noise * (3.0 / fan_in).sqrt(),
            };
            let floats: Vec<f32> = (0..count).map(|_| value(noise.next())).collect();
            (entry.key.clone(), Dtype::F32, entry.shape.clone(), bytes(floats))
        })
        .collect();
    let mut metadata = metadata(classes as usize, network.input_side);
    metadata.insert("architecture".to_owned(), name.to_owned());
    let weights = dir.path().join("student.safetensors");
    write(&weights, &tensors, &metadata);
    Files { dir, weights, network: None }
}

/// A student of an exported network, with the weights that its file has.
pub fn exported(network: &[u8]) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("network.pt2");
    std::fs::write(&path, network).unwrap();
    let read = ExportedNetwork::open(&path).unwrap_or_else(|error| panic!("{error}"));
    let state = read.tensors().iter().filter(|stored| stored.role != TensorRole::Constant);
    let tensors: Vec<_> = state
        .map(|stored| {
            let tensor = &stored.tensor;
            (tensor.name().to_owned(), tensor.dtype(), tensor.shape().to_vec(), read.bytes(stored).unwrap())
        })
        .collect();
    let side = u32::try_from(read.description().input[1]).unwrap();
    let metadata = metadata(usize::try_from(read.description().classes).unwrap(), side);
    let weights = dir.path().join("student.safetensors");
    write(&weights, &tensors, &metadata);
    Files { dir, weights, network: Some(path) }
}

/// A student of a network that PyTorch exported.
pub fn of_fixture(name: &str) -> Files {
    exported(&std::fs::read(fixture(&format!("{name}.pt2"))).unwrap())
}

/// Gives the weights and buffers of a network of a test random values; variances are positive.
pub fn randomise(network: &mut Network) {
    let mut noise = Noise::new(3);
    let config = network.weights["config"].as_object().unwrap().clone();
    for (key, payload) in config {
        if payload["tensor_meta"]["dtype"] != 7 {
            continue;
        }
        let file = format!("data/weights/{}", payload["path_name"].as_str().unwrap());
        let (_, content) = network.files.iter_mut().find(|(name, _)| *name == file).unwrap();
        let is_variance = key.ends_with("running_var");
        let value = |noise: f32| if is_variance { 1.5 + noise } else { noise };
        *content = bytes((0..content.len() / 4).map(|_| value(noise.next())));
    }
}

/// Writes a checkpoint again with other tensors or metadata.
pub fn rewrite(
    path: &Path,
    change: impl FnOnce(&mut Vec<(String, Dtype, Vec<u64>, Vec<u8>)>, &mut BTreeMap<String, String>),
) {
    let checkpoint = Checkpoint::open_as_written(path).unwrap();
    let mut tensors: Vec<_> = checkpoint
        .tensors()
        .iter()
        .map(|tensor| {
            let bytes = checkpoint.bytes(tensor).unwrap();
            (tensor.name().to_owned(), tensor.dtype(), tensor.shape().to_vec(), bytes)
        })
        .collect();
    let mut metadata = checkpoint.metadata().clone();
    change(&mut tensors, &mut metadata);
    drop(checkpoint);
    write(path, &tensors, &metadata);
}

/// Gives a student the classifier that it has after a training with a new one for 9 classes.
pub fn with_nine_classes(files: &Files, classifier: &str) {
    let mut noise = Noise::new(9);
    rewrite(&files.weights, |tensors, metadata| {
        for (_, _, shape, content) in tensors.iter_mut().filter(|(name, ..)| name.starts_with(classifier)) {
            shape[0] = 9;
            *content = bytes((0..shape.iter().product()).map(|_| noise.next()));
        }
        metadata.insert("num_classes".to_owned(), "9".to_owned());
        let names: Vec<String> = (0..9).map(|class| format!("class {class}")).collect();
        metadata.insert("classes".to_owned(), serde_json::to_string(&names).unwrap());
    });
}

#[test]
fn the_zoos_graphs_have_the_shapes_of_their_layouts() {
    for network in architecture::all() {
        let files = zoo_without_weights(network.name, 7);
        let student = files.student();
        let graph = student.graph();
        assert_eq!(student.classes(), 7, "{}", network.name);
        let side = u64::from(network.input_side);
        assert_eq!(student.input(), [3, side, side]);
        let layout = network.layout(7);
        let map = graph.nodes[graph.nodes.len() - 3].inputs[0];
        let found: Vec<u64> = graph.values[map].shape[1..].iter().map(|size| size.per_image()).collect();
        assert_eq!(found, layout.feature_map.map(u64::from), "{}", network.name);
        for (index, node) in graph.nodes.iter().enumerate() {
            let is_earlier = |&input: &usize| match graph.values[input].origin {
                Origin::Node(from) => from < index,
                Origin::Images | Origin::Stored(_) => true,
            };
            assert!(node.inputs.iter().all(is_earlier), "{}: {}", network.name, node.name);
        }
        let used = graph.nodes.iter().flat_map(|node| &node.inputs);
        let stored: std::collections::BTreeSet<usize> = used
            .filter_map(
                |&input| if let Origin::Stored(index) = graph.values[input].origin { Some(index) } else { None },
            )
            .collect();
        assert_eq!(stored.len(), layout.entries.len(), "{} uses every tensor", network.name);
    }
}

/// A file whose tensors are there in its header, and whose bytes are a hole.
pub fn zoo_without_weights(name: &str, classes: u32) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let mut members = vec![format!("\"__metadata__\":{{\"architecture\":\"{name}\"}}")];
    let mut end = 0;
    for entry in architecture::find(name).unwrap().layout(classes).entries {
        let start = end;
        end += 4 * entry.shape.iter().product::<u64>();
        let described: Value = serde_json::json!({"dtype": "F32", "shape": entry.shape, "data_offsets": [start, end]});
        members.push(format!("\"{}\":{described}", entry.key));
    }
    let header = format!("{{{}}}", members.join(","));
    let weights = dir.path().join("student.safetensors");
    let mut content = (header.len() as u64).to_le_bytes().to_vec();
    content.extend(header.as_bytes());
    std::fs::write(&weights, &content).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&weights).unwrap();
    file.set_len(content.len() as u64 + end).unwrap();
    Files { dir, weights, network: None }
}

#[test]
fn a_student_that_does_not_fit_the_network_is_refused_by_name() {
    let mut network = Network::small();
    randomise(&mut network);
    let lacking = exported(&network.bytes());
    rewrite(&lacking.weights, |tensors, _| tensors.retain(|(name, ..)| name != "fc.weight"));
    assert!(lacking.refusal().contains("lacks fc.weight of the network"), "{}", lacking.refusal());

    let other = exported(&network.bytes());
    rewrite(&other.weights, |tensors, _| {
        let (_, _, shape, bytes) = tensors.iter_mut().find(|(name, ..)| name == "fc.weight").unwrap();
        (*shape, *bytes) = (vec![4, 4], vec![0; 64]);
    });
    assert!(other.refusal().contains("fc.weight is [4, 4] of F32, and the network's [5, 4]"), "{}", other.refusal());
}

#[test]
fn a_student_of_another_network_with_the_same_keys_is_refused() {
    let files = exported(&Network::small().bytes());
    rewrite(&files.weights, |_, metadata| drop(metadata.insert("network".to_owned(), "ab".repeat(32))));
    let refusal = files.refusal();
    assert!(refusal.contains(&"ab".repeat(32)) && refusal.contains("give the file that the job used"), "{refusal}");

    // Of its network, the file that a server stored, without stack traces, names the same as the user's own.
    let own = exported(&Network::small().bytes());
    let network = own.network.clone().unwrap();
    let stored = distillery_core::exported::sha256(&network).unwrap();
    assert_ne!(stored, hex::encode(Sha256::digest(std::fs::read(&network).unwrap())), "it has stack traces");
    rewrite(&own.weights, |_, metadata| drop(metadata.insert("network".to_owned(), stored.clone())));
    assert_eq!(own.student().classes(), 5);

    let alone = Files { network: None, ..files };
    assert!(alone.refusal().contains("--network"), "{}", alone.refusal());
}

#[test]
fn a_student_that_names_an_architecture_that_it_does_not_fit_is_refused() {
    let files = zoo("resnet8", 10);
    rewrite(&files.weights, |_, metadata| drop(metadata.insert("architecture".to_owned(), "vgg8".to_owned())));
    assert!(files.refusal().contains("names vgg8, which its tensors do not fit"), "{}", files.refusal());
}

#[test]
fn weights_in_half_precision_are_converted() {
    let files = zoo("resnet8", 10);
    let images = Noise::new(1).tensor(&[1, 3, 32, 32]);
    let before = files.logits(&images);
    rewrite(&files.weights, |tensors, _| {
        for (_, dtype, _, bytes) in tensors {
            let halves = bytes.as_chunks::<4>().0.iter().flat_map(|&float| {
                // bfloat16 is the upper half of a float32.
                [float[2], float[3]]
            });
            (*dtype, *bytes) = (Dtype::Bf16, halves.collect());
        }
    });
    let after = files.logits(&images);
    let largest = before.data.iter().fold(0.0_f64, |largest, logit| largest.max(logit.abs()));
    let differs = before.data.iter().zip(&after.data).any(|(one, two)| (one - two).abs() > 1e-6 * largest);
    let is_near = before.data.iter().zip(&after.data).all(|(one, two)| (one - two).abs() < 0.2 * largest);
    assert!(differs && is_near, "{before:?} {after:?}");
    let mut written = Vec::new();
    distillery_core::export::onnx::write(&files.student(), &Default::default(), &mut written).unwrap();
    assert!(written.len() > 4 * 70_000, "ONNX has float32 weights: {}", written.len());
}
