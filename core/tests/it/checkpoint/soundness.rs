//! Promise: weights that make every output NaN are found, with the name of their tensor.

use std::collections::BTreeMap;

use distillery_core::architecture;
use distillery_core::checkpoint::{Checkpoint, Dtype, NewTensor, write};

/// A resnet8 of ones, with one element of one tensor changed.
fn changed(key: &str, value: f64, dtype: Dtype) -> Option<String> {
    let network = architecture::find("resnet8").unwrap();
    let encode = |value: f64| match dtype {
        Dtype::F64 => value.to_le_bytes().to_vec(),
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
    write(file.path(), &new, &BTreeMap::new()).unwrap();
    Checkpoint::open(file.path()).unwrap().unsound(network, 3).unwrap()
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
fn negative_variances_are_named() {
    let message = changed("bn1.running_var", -1.0, Dtype::F32).unwrap();
    assert!(message.contains("bn1.running_var is a variance and has 1 of 16 values below zero"), "{message}");
    assert_eq!(changed("bn1.running_mean", -1.0, Dtype::F32), None);
    assert_eq!(changed("bn1.running_var", 0.0, Dtype::F32), None);
}
