//! Promise: a run leaves images and its students' logits with which an exported student can be checked.

use distillery_core::checkpoint::{Checkpoint, Dtype};
use distillery_core::dataset::MeanStd;
use distillery_core::export::samples::tensors;
use distillery_trainer::data::normalisation::Normalisation;
use serde_json::json;
use tch::{Device, Tensor};

use crate::support::{Workspace, merged, warnings};

/// Top-1 accuracy, in percent, of logits of four classes.
fn top1(samples: &Checkpoint, name: &str) -> f64 {
    let logits = samples.floats(samples.get(name).unwrap()).unwrap();
    let labels = samples.floats(samples.get(tensors::LABELS).unwrap()).unwrap();
    assert_eq!(logits.len(), 4 * labels.len());
    let is_right = |(logits, label): &(&[f32], &f32)| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        logits[**label as usize] == largest
    };
    let right = logits.chunks(4).zip(&labels).filter(is_right).count();
    100.0 * right as f64 / labels.len() as f64
}

#[test]
fn samples_have_bytes_of_both_splits_and_the_logits_of_both_students() {
    let workspace = Workspace::new();
    let spec = merged(workspace.plain(), json!({"training": {"epochs": 3, "precision": "float32"}}));
    workspace.finish(&spec, "out", &[]);
    let samples = Checkpoint::open_as_written(&workspace.path("out/samples.safetensors")).unwrap();
    let facts = |name: &str| samples.get(name).map(|tensor| (tensor.dtype(), tensor.shape().to_vec())).unwrap();
    assert_eq!(facts(tensors::IMAGES), (Dtype::U8, vec![50, 3, 8, 8]));
    assert_eq!(facts(tensors::CALIBRATION), (Dtype::U8, vec![150, 3, 8, 8]));
    assert_eq!(facts(tensors::LABELS), (Dtype::I64, vec![50]));
    let manifest = workspace.json("out/manifest.json");
    for (name, student) in [(tensors::LOGITS, "best"), (tensors::LAST_LOGITS, "last")] {
        assert_eq!(facts(name), (Dtype::F32, vec![50, 4]));
        let expected = manifest[student]["evaluation"]["top1"].as_f64().unwrap();
        assert!((top1(&samples, name) - expected).abs() < 1e-9, "{student}: {} and {expected}", top1(&samples, name));
    }
    let [mean, std] =
        ["mean", "std"].map(|name| -> [f64; 3] { serde_json::from_value(manifest["data"][name].clone()).unwrap() });
    let [scale, offset] = MeanStd { mean, std }.scale_and_offset();
    let floats = |name: &str| samples.floats(samples.get(name).unwrap()).unwrap();
    assert_eq!((floats(tensors::SCALE).as_slice(), floats(tensors::OFFSET).as_slice()), (&scale[..], &offset[..]));
}

#[test]
fn an_exporter_normalises_to_the_bit_as_the_trainer_does() {
    let [mean, std] = [[0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]];
    let pixels: Vec<u8> = (0..3).flat_map(|_| 0..=255).collect();
    let images = Tensor::from_slice(&pixels).view([1, 3, 16, 16]);
    let found = Normalisation::new(mean, std, Device::Cpu).apply(&images).flatten(0, -1);
    let found = Vec::<f32>::try_from(found).unwrap();
    let [scale, offset] = MeanStd { mean, std }.scale_and_offset();
    for (at, (found, pixel)) in found.iter().zip(pixels).enumerate() {
        let expected = f32::from(pixel) * scale[at / 256] + offset[at / 256];
        assert_eq!(found.to_bits(), expected.to_bits(), "{pixel} of channel {}", at / 256);
    }
}

#[test]
fn no_images_are_kept_where_the_operator_says_so() {
    let workspace = Workspace::new();
    workspace.finish(&workspace.plain(), "out", &["--no-samples"]);
    assert!(workspace.path("out/student.safetensors").exists() && !workspace.path("out/samples.safetensors").exists());
}

#[test]
fn a_run_that_cannot_write_samples_warns_and_keeps_its_students() {
    let workspace = Workspace::new();
    // A file cannot take the place of a directory.
    std::fs::create_dir_all(workspace.path("out/samples.safetensors")).unwrap();
    let events = workspace.finish(&workspace.plain(), "out", &[]);
    let said = warnings(&events);
    let says =
        |message: &&str| message.contains("no samples could be written") && message.contains("samples.safetensors");
    assert!(said.iter().any(says), "{said:?}");
    assert!(workspace.path("out/student.safetensors").exists());
}
