//! Promise: an exported student is compared with the student image by image, and a difference that matters is seen.

use std::collections::BTreeMap;
use std::path::Path;

use distillery_core::checkpoint::{self, Dtype, NewTensor};
use distillery_core::export::{Comparison, Samples, TOLERANCE};

use super::students::{Files, bytes, zoo};

fn write(path: &Path, tensors: &[(&str, Dtype, &[u64], Vec<u8>)]) {
    let views: Vec<_> =
        tensors.iter().map(|(name, dtype, shape, bytes)| NewTensor { name, dtype: *dtype, shape, bytes }).collect();
    checkpoint::write(path, &views, &BTreeMap::new()).unwrap();
}

fn images(count: usize) -> (&'static str, Dtype, [u64; 4], Vec<u8>) {
    ("images", Dtype::F32, [count as u64, 3, 32, 32], bytes((0..count * 3072).map(|at| (at / 1024) as f32)))
}

/// Samples with these logits of two classes.
fn samples(files: &Files, logits: &[f32], labels: Option<&[i64]>) -> Samples {
    let path = files.dir.path().join("samples.safetensors");
    let count = logits.len() / 2;
    let (name, dtype, shape, content) = images(count);
    let mut tensors = vec![(name, dtype, shape.as_slice(), content)];
    let shape = [count as u64, 2];
    tensors.push(("logits", Dtype::F32, &shape, bytes(logits.iter().copied())));
    let of_labels = [count as u64];
    if let Some(labels) = labels {
        tensors.push(("labels", Dtype::I64, &of_labels, labels.iter().flat_map(|label| label.to_le_bytes()).collect()));
    }
    write(&path, &tensors);
    Samples::open(&path, &files.student()).unwrap_or_else(|error| panic!("{error}"))
}

fn compare(samples: &Samples, found: &[f32]) -> Comparison {
    let mut comparison = Comparison::default();
    let mut at = 0;
    for batch in samples.batches(2) {
        comparison.add(batch, &found[at..at + batch.logits.len()]).unwrap();
        at += batch.logits.len();
    }
    assert_eq!(at, found.len());
    comparison
}

#[test]
fn a_difference_is_judged_by_the_largest_logit() {
    let files = zoo("resnet8", 2);
    let samples = samples(&files, &[1.0, 10.0, -3.0, 2.0, 0.5, 0.25], Some(&[1, 1, 1]));
    let parity = compare(&samples, &[1.0, 10.0005, -3.0, 2.0, 0.5, 0.25]).parity(Some(TOLERANCE));
    assert!(parity.holds(), "{parity:?}");
    assert_eq!((parity.images, parity.logits_scale, parity.top1_agreement), (3, 10.0, 100.0));
    assert!((parity.largest_difference - 0.0005).abs() < 1e-5 && (parity.relative_difference - 5e-5).abs() < 1e-6);
    let top1 = parity.top1.unwrap();
    assert!((top1.student - 200.0 / 3.0).abs() < 1e-9 && top1.student == top1.exported);

    let parity = compare(&samples, &[1.0, 10.002, -3.0, 2.0, 0.5, 0.25]).parity(Some(TOLERANCE));
    assert!(!parity.holds(), "{parity:?}");
}

#[test]
fn int8_is_judged_by_its_accuracy() {
    let files = zoo("resnet8", 2);
    let samples = samples(&files, &[1.0, 2.0, 2.0, 1.0], Some(&[1, 0]));
    let parity = compare(&samples, &[1.0, 2.0, 1.0, 2.0]).parity(None);
    assert!(parity.holds());
    assert_eq!((parity.top1_agreement, parity.top1.unwrap().exported), (50.0, 50.0));
}

#[test]
fn logits_that_are_not_numbers_never_agree() {
    let files = zoo("resnet8", 2);
    let samples = samples(&files, &[1.0, 2.0], None);
    let parity = compare(&samples, &[f32::NAN, 2.0]).parity(Some(TOLERANCE));
    assert!(!parity.holds() && parity.top1.is_none(), "{parity:?}");
    let mut comparison = Comparison::default();
    let batch = samples.batches(2).next().unwrap();
    assert!(comparison.add(batch, &[1.0]).unwrap_err().to_string().contains("gives 1 logits, and the student 2"));
}

#[test]
fn a_network_that_normalises_gets_pixels() {
    let files = zoo("resnet8", 2);
    let mut samples = samples(&files, &[1.0, 2.0], None);
    samples.denormalise(&files.student().preprocessing()).unwrap();
    let batch = samples.batches(1).next().unwrap();
    // The planes are 0, 1 and 2; mean and standard deviation are those of the student's file.
    let pixel = |channel: usize| batch.images[channel * 1024];
    assert_eq!([pixel(0), pixel(1), pixel(2)], [0.5, 0.6, 0.9]);
}

#[test]
fn samples_that_do_not_fit_the_student_are_refused() {
    let files = zoo("resnet8", 2);
    let student = files.student();
    let path = files.dir.path().join("wrong.safetensors");
    let refusal = || Samples::open(&path, &student).unwrap_err().to_string();
    let (name, dtype, shape, content) = images(1);
    write(&path, &[(name, dtype, &shape, content.clone())]);
    assert!(refusal().contains("lack images or logits"), "{}", refusal());
    write(&path, &[(name, dtype, &[1, 3, 64, 16], content.clone()), ("logits", Dtype::F32, &[1, 2], vec![0; 8])]);
    assert!(refusal().contains("images are [1, 3, 64, 16] of F32, and must be [N, 3, 32, 32]"), "{}", refusal());
    write(&path, &[(name, dtype, &shape, content.clone()), ("logits", Dtype::F32, &[2, 2], vec![0; 16])]);
    assert!(refusal().contains("another number of images than of logits"), "{}", refusal());
    let labels = ("labels", Dtype::I64, [2].as_slice(), vec![0; 16]);
    write(&path, &[(name, dtype, &shape, content), ("logits", Dtype::F32, &[1, 2], vec![0; 8]), labels]);
    assert!(refusal().contains("not one int64 for each image"), "{}", refusal());
}
