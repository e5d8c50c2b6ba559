//! Promise: weights that make every output NaN are found, with the name of their tensor.

use std::collections::BTreeMap;

use distillery_core::architecture;
use distillery_core::checkpoint::{Checkpoint, Dtype, NewTensor, Soundness, write};

/// A resnet8 of ones, with one element of one tensor changed.
fn soundness(key: &str, value: f64, dtype: Dtype) -> Soundness {
    with_metadata(key, value, dtype, &[]).soundness(architecture::find("resnet8").unwrap(), 3).unwrap()
}

/// Why that cannot be used.
fn changed(key: &str, value: f64, dtype: Dtype) -> Option<String> {
    if let Soundness::Unsound(what) = soundness(key, value, dtype) { Some(what) } else { None }
}

/// The same file with metadata.
fn with_metadata(key: &str, value: f64, dtype: Dtype, metadata: &[(&str, &str)]) -> Checkpoint {
    let network = architecture::find("resnet8").unwrap();
    let encode = |value: f64| match dtype {
        Dtype::F64 => value.to_le_bytes().to_vec(),
        Dtype::I32 => (value as i32).to_le_bytes().to_vec(),
        _ => (value as f32).to_le_bytes().to_vec(),
    };
    let tensors: Vec<_> = network
        .layout(3)
        .entries
        .into_iter()
        .map(|entry| {
            let count = usize::try_from(entry.shape.iter().product::<u64>()).unwrap();
            let mut bytes = encode(1.0).repeat(count);
            if entry.key == key {
                let one = encode(value);
                bytes[one.len()..2 * one.len()].copy_from_slice(&one);
            }
            (entry.key, entry.shape, bytes)
        })
        .collect();
    let foreign = f32::NAN.to_le_bytes();
    let mut new: Vec<_> = tensors.iter().map(|(name, shape, bytes)| NewTensor { name, dtype, shape, bytes }).collect();
    // No network uses this one.
    new.push(NewTensor { name: "total_ops", dtype: Dtype::F32, shape: &[1], bytes: &foreign });
    let file = tempfile::NamedTempFile::new().unwrap();
    let metadata: BTreeMap<_, _> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    write(file.path(), &new, &metadata).unwrap();
    Checkpoint::open(file.path()).unwrap()
}

#[test]
fn weights_that_are_not_finite_are_named() {
    assert_eq!(changed("", 0.0, Dtype::F32), None);
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let message = changed("layer2.0.conv1.weight", value, Dtype::F32).unwrap();
        assert!(message.starts_with("cannot be used: layer2.0.conv1.weight has 1 of 4608 values that are not finite"));
    }
    // Beyond float32.
    assert!(changed("fc.bias", 1e300, Dtype::F64).unwrap().contains("fc.bias"));
    assert_eq!(changed("fc.bias", -1e30, Dtype::F64), None);
}

#[test]
fn weights_too_large_for_a_trained_network_are_doubted_and_not_refused() {
    for value in [3e38, -1e7] {
        let Soundness::Doubtful(doubt) = soundness("fc.weight", value, Dtype::F32) else { panic!("{value}") };
        assert!(doubt.starts_with("fc.weight has 1 of 192 values beyond 1e6, the largest of size "), "{doubt}");
        assert!(doubt.ends_with("so the file is probably broken"), "{doubt}");
    }
    assert_eq!(soundness("fc.weight", 1e5, Dtype::F32), Soundness::Sound);
    // A variance is a square.
    assert_eq!(soundness("bn1.running_var", 1e11, Dtype::F32), Soundness::Sound);
    assert!(matches!(soundness("bn1.running_var", 1e13, Dtype::F32), Soundness::Doubtful(_)));
}

#[test]
fn negative_variances_are_named() {
    let message = changed("bn1.running_var", -1.0, Dtype::F32).unwrap();
    assert!(message.contains("bn1.running_var is a variance and has 1 of 16 values below zero"), "{message}");
    assert_eq!(changed("bn1.running_mean", -1.0, Dtype::F32), None);
    assert_eq!(changed("bn1.running_var", 0.0, Dtype::F32), None);
}

#[test]
fn integers_are_no_weights() {
    let message = changed("", 0.0, Dtype::I32).unwrap();
    assert!(message.contains("has elements of type I32, and weights are floating-point numbers"), "{message}");
}

#[test]
fn metadata_that_cannot_be_true_is_ignored_and_noted() {
    let notes = |metadata: &[(&str, &str)]| with_metadata("", 0.0, Dtype::F32, metadata).notes().to_vec();
    let sound =
        [("architecture", "resnet8"), ("accuracy", "71.5"), ("mean", "[0.5,0.5,0.5]"), ("std", "[0.2,0.2,0.2]")];
    assert!(notes(&sound).is_empty(), "{:?}", notes(&sound));
    // Names of other programs say nothing that could be wrong here.
    assert!(notes(&[("architecture", "my own")]).is_empty());
    assert_eq!(
        notes(&[("accuracy", "1e9")]),
        ["the accuracy \"1e9\" in its metadata is no percentage, and is ignored"]
    );
    let for_bytes = [("mean", "[128,128,128]"), ("std", "[60,60,60]")];
    let [note] = &*notes(&for_bytes) else { panic!("{for_bytes:?}") };
    assert!(note.ends_with("those of mean from -10 to 10 and those of std from 0.000001 to 10"), "{note}");
    for broken in [("mean", "[9,9"), ("mean", "[0.5,0.5,0.5]"), ("std", "[0,0,0]")] {
        let [note] = &*notes(&[broken]) else { panic!("{broken:?}") };
        assert!(
            note.starts_with("the mean and std in its metadata are ignored: each must be a list of three"),
            "{note}"
        );
    }
    assert_eq!(
        notes(&[("architecture", "resnet110")]),
        ["its metadata names the architecture resnet110, but its tensors are those of resnet8"]
    );
}

#[test]
fn the_architecture_is_the_one_in_the_metadata_unless_the_tensors_are_anothers() {
    let certain = |metadata: &[(&str, &str)]| {
        with_metadata("", 0.0, Dtype::F32, metadata).certain_architecture().map(|network| network.name)
    };
    assert_eq!(certain(&[]), Ok("resnet8"));
    assert_eq!(certain(&[("architecture", "resnet8")]), Ok("resnet8"));
    assert_eq!(certain(&[("architecture", "resnet110")]), Ok("resnet8"));
    // Weights of an exported network are those of the only architecture with its keys and shapes, and a note says so.
    let exported = [("format", "exported"), ("network", "abc")];
    assert_eq!(certain(&exported), Ok("resnet8"));
    assert_eq!(
        with_metadata("", 0.0, Dtype::F32, &exported).notes(),
        ["it has the weights of the exported network with the SHA-256 abc, whose graph may be another than that of \
          resnet8, which its tensors fit"]
    );
}

#[test]
fn a_file_that_fits_nothing_says_what_is_missing() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let with = |metadata: &[(&str, &str)]| {
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let tensor = NewTensor { name: "mine", dtype: Dtype::F32, shape: &[1], bytes: &[0; 4] };
        write(file.path(), &[tensor], &metadata).unwrap();
        Checkpoint::open(file.path()).unwrap().certain_architecture().map(|network| network.name)
    };
    assert!(with(&[]).unwrap_err().starts_with("fits no known architecture. Export the network"));
    let exported = with(&[("format", "exported"), ("network", "abc")]).unwrap_err();
    assert!(exported.ends_with("in the .pt2 file with the SHA-256 abc"), "{exported}");
    // Whoever loads it will say how it differs.
    assert_eq!(with(&[("architecture", "resnet8")]), Ok("resnet8"));
}
