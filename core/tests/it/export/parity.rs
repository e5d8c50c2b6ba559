//! Promise: an exported student is compared with the student image by image, and a difference that matters is seen.

use std::collections::BTreeMap;
use std::path::Path;

use distillery_core::checkpoint::{self, Dtype, NewTensor};
use distillery_core::dataset::MeanStd;
use distillery_core::export::samples::tensors;
use distillery_core::export::{LogitComparison, Samples, TOLERANCE};

use super::students::{Files, bytes, rewrite, zoo};

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
    Samples::open(&path, &files.student(), tensors::LOGITS).unwrap_or_else(|error| panic!("{error}"))
}

fn compare(samples: &Samples, found: &[f32]) -> LogitComparison {
    let mut comparison = LogitComparison::default();
    let mut at = 0;
    for batch in samples.batches(2) {
        let batch = batch.unwrap();
        comparison.add(&batch, &found[at..at + batch.logits.len()]).unwrap();
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
    let mut comparison = LogitComparison::default();
    let batch = samples.batches(2).next().unwrap().unwrap();
    assert!(comparison.add(&batch, &[1.0]).unwrap_err().to_string().contains("gives 1 logits, and the student 2"));
}

#[test]
fn a_network_that_normalises_gets_pixels() {
    let files = zoo("resnet8", 2);
    let mut samples = samples(&files, &[1.0, 2.0], None);
    samples.denormalise(&files.student().preprocessing()).unwrap();
    let batch = samples.batches(1).next().unwrap().unwrap();
    // The planes are 0, 1 and 2; mean and standard deviation are those of the student's file.
    let pixel = |channel: usize| batch.images[channel * 1024];
    assert_eq!([pixel(0), pixel(1), pixel(2)], [0.5, 0.6, 0.9]);
}

#[test]
fn samples_that_do_not_fit_the_student_are_refused() {
    let files = zoo("resnet8", 2);
    let student = files.student();
    let path = files.dir.path().join("wrong.safetensors");
    let refusal = || Samples::open(&path, &student, tensors::LOGITS).unwrap_err().to_string();
    let (name, dtype, shape, content) = images(1);
    write(&path, &[(name, dtype, &shape, content.clone())]);
    assert!(refusal().contains("lack images or logits"), "{}", refusal());
    write(&path, &[(name, dtype, &[1, 3, 64, 16], content.clone()), ("logits", Dtype::F32, &[1, 2], vec![0; 8])]);
    assert!(
        refusal().contains("images are [1, 3, 64, 16] of F32, and must be [N, 3, 32, 32] of U8 or F32"),
        "{}",
        refusal()
    );
    write(&path, &[(name, dtype, &shape, content.clone()), ("logits", Dtype::F32, &[2, 2], vec![0; 16])]);
    assert!(refusal().contains("logits are [2, 2] of F32, and must be [1, 2] of F32"), "{}", refusal());
    let labels = ("labels", Dtype::I64, [2].as_slice(), vec![0; 16]);
    write(&path, &[(name, dtype, &shape, content), ("logits", Dtype::F32, &[1, 2], vec![0; 8]), labels]);
    assert!(refusal().contains("not one int64 for each image"), "{}", refusal());
}

/// Samples in bytes of two students, whose logits are 1 and 2, and the path of the file.
fn in_bytes(files: &Files, count: u64) -> std::path::PathBuf {
    let path = files.dir.path().join("bytes.safetensors");
    let pixels = |from: u64| (0..count * 3072).map(|at| ((at + from) % 256) as u8).collect::<Vec<u8>>();
    let [scale, offset] = MeanStd { mean: [0.5, 0.4, 0.3], std: [0.25, 0.2, 0.3] }.scale_and_offset();
    let logits = |value: f32| bytes((0..2 * count).map(|_| value));
    write(
        &path,
        &[
            (tensors::IMAGES, Dtype::U8, &[count, 3, 32, 32], pixels(0)),
            (tensors::CALIBRATION, Dtype::U8, &[count, 3, 32, 32], pixels(7)),
            (tensors::SCALE, Dtype::F32, &[3], bytes(scale)),
            (tensors::OFFSET, Dtype::F32, &[3], bytes(offset)),
            (tensors::LOGITS, Dtype::F32, &[count, 2], logits(1.0)),
            (tensors::LAST_LOGITS, Dtype::F32, &[count, 2], logits(2.0)),
        ],
    );
    path
}

#[test]
fn bytes_are_normalised_as_in_training_a_batch_at_a_time() {
    let files = zoo("resnet8", 2);
    let path = in_bytes(&files, 5);
    let mut samples = Samples::open(&path, &files.student(), tensors::LOGITS).unwrap();
    assert_eq!(samples.images(), 5);
    let counts: Vec<u64> = samples.batches(2).map(|batch| batch.unwrap().shape[0]).collect();
    assert_eq!(counts, [2, 2, 1]);
    let scale = (1.0 / (255.0 * 0.2_f64)) as f32;
    let offset = (-0.4 / 0.2_f64) as f32;
    // The second channel of the last image.
    let at = 4 * 3072 + 1024 + 5;
    let pixel = (at % 256) as u8;
    let last = samples.batches(2).last().unwrap().unwrap();
    assert_eq!(last.images[1024 + 5].to_bits(), (f32::from(pixel) * scale + offset).to_bits());
    let (calibration, shape) = samples.calibration(4).last().unwrap().unwrap();
    assert_eq!((shape, calibration.len()), ([1, 3, 32, 32], 3072));
    let pixel = ((at + 7) % 256) as u8;
    assert_eq!(calibration[1024 + 5].to_bits(), (f32::from(pixel) * scale + offset).to_bits());

    samples.denormalise(&files.student().preprocessing()).unwrap();
    let first = samples.batches(5).next().unwrap().unwrap();
    assert_eq!([first.images[0], first.images[255], first.images[1]], [0.0, 1.0, 1.0 / 255.0]);
}

#[test]
fn each_student_is_compared_with_its_own_logits() {
    let files = zoo("resnet8", 2);
    let path = in_bytes(&files, 3);
    for (name, expected) in [(tensors::LOGITS, 1.0), (tensors::LAST_LOGITS, 2.0)] {
        let samples = Samples::open(&path, &files.student(), name).unwrap();
        assert!(samples.has_logits());
        assert_eq!(samples.batches(8).next().unwrap().unwrap().logits, [expected; 6]);
    }
    // Runs of earlier versions wrote those of the best student only.
    rewrite(&path, |stored, _| stored.retain(|(name, ..)| name != tensors::LAST_LOGITS));
    let samples = Samples::open(&path, &files.student(), tensors::LAST_LOGITS).unwrap();
    assert!(!samples.has_logits() && samples.batches(8).next().is_none());
    assert_eq!(samples.calibration(8).count(), 1);
}

#[test]
fn bytes_without_their_normalisation_are_refused() {
    let files = zoo("resnet8", 2);
    let path = in_bytes(&files, 1);
    rewrite(&path, |stored, _| stored.retain(|(name, ..)| name != tensors::SCALE));
    let refusal = Samples::open(&path, &files.student(), tensors::LOGITS).unwrap_err().to_string();
    assert!(refusal.contains("are bytes, and lack scale and offset"), "{refusal}");
}
