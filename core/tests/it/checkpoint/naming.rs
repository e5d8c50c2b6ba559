//! Promise: a known network is recognised under the keys that wrappers and other code give it, and what was done is
//! said.

use std::collections::BTreeMap;

use distillery_core::architecture::{self, Architecture};
use distillery_core::checkpoint::{Checkpoint, Dtype, NewTensor, write};

/// The keys and shapes of a network, in order.
fn entries(name: &str, classes: u32) -> Vec<(String, Vec<u64>)> {
    let layout = architecture::find(name).unwrap().layout(classes);
    layout.entries.into_iter().map(|entry| (entry.key, entry.shape)).collect()
}

fn prefixed(name: &str, prefix: &str) -> Vec<(String, Vec<u64>)> {
    entries(name, 10).into_iter().map(|(key, shape)| (format!("{prefix}{key}"), shape)).collect()
}

/// A safetensors file of zeros with these tensors, in this order.
fn file(tensors: &[(String, Vec<u64>)]) -> tempfile::NamedTempFile {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, shape)| vec![0; 4 * usize::try_from(shape.iter().product::<u64>()).unwrap()]).collect();
    let new: Vec<_> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| NewTensor { name, dtype: Dtype::F32, shape, bytes })
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    write(file.path(), &new, &BTreeMap::new()).unwrap();
    file
}

/// The networks that a file of these tensors fits, and the notes.
fn read(tensors: &[(String, Vec<u64>)]) -> (Vec<&'static str>, String) {
    read_part(tensors, None)
}

fn read_part(tensors: &[(String, Vec<u64>)], part: Option<&str>) -> (Vec<&'static str>, String) {
    let read = Checkpoint::open_state_dict(file(tensors).path(), part).unwrap();
    let fits = architecture::fits(&read.shapes()).into_iter().map(|fit| fit.architecture.name).collect();
    (fits, read.notes().join("\n"))
}

#[test]
fn prefixes_of_wrappers_are_left_out() {
    for prefix in ["_orig_mod.", "model.", "net.", "backbone.", "module._orig_mod.", "module.model.", "my_own_wrapper."]
    {
        let (fits, notes) = read(&prefixed("resnet8", prefix));
        assert_eq!(fits, ["resnet8"], "{prefix}");
        let named = prefix.trim_start_matches("module.");
        assert_eq!(notes, format!("every key begins with {named}, which is left out"));
    }
    assert_eq!(read(&prefixed("resnet8", "module.")), (vec!["resnet8"], String::new()));
}

#[test]
fn counters_are_ignored() {
    let mut averaged = prefixed("resnet8", "module.");
    averaged.insert(0, ("n_averaged".into(), vec![]));
    averaged.push(("module.conv1.total_ops".into(), vec![1]));
    averaged.push(("module.total_params".into(), vec![1]));
    averaged.push(("module.bn1.num_batches_tracked".into(), vec![]));
    assert_eq!(read(&averaged), (vec!["resnet8"], String::new()));
    let parameters = |tensors: &[_]| Checkpoint::open(file(tensors).path()).unwrap().parameters();
    assert_eq!(parameters(&averaged), parameters(&entries("resnet8", 10)));
}

#[test]
fn no_network_is_taken_for_a_wrapped_one() {
    for Architecture { name, .. } in architecture::all() {
        let given = entries(name, 7);
        let read = Checkpoint::open(file(&given).path()).unwrap();
        assert!(read.notes().is_empty(), "{name}: {:?}", read.notes());
        let names: Vec<_> = read.tensors().iter().map(|tensor| tensor.name().to_owned()).collect();
        assert_eq!(names, given.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_distillers_file_has_two_networks_of_which_one_is_read() {
    let both = [prefixed("resnet8x4", "module.student."), prefixed("resnet32x4", "module.teacher.")].concat();
    let (fits, notes) = read(&both);
    assert_eq!(fits, ["resnet8x4"]);
    assert!(notes.contains("only the keys that begin with student. are read"), "{notes}");
    assert!(notes.contains("Another network is under teacher"), "{notes}");
    assert_eq!(read_part(&both, Some("teacher")).0, ["resnet32x4"]);
    assert_eq!(read_part(&both, Some("student")).0, ["resnet8x4"]);
    // Parameters of the loss.
    let mut extra = prefixed("resnet8", "model.");
    extra.push(("criterion.weight".into(), vec![10]));
    let (fits, notes) = read(&extra);
    assert_eq!(fits, ["resnet8"]);
    assert!(notes.contains("model. are read; 1 other is left out"), "{notes}");
}

/// resnet20 as some published code names it.
fn renamed(name: &str, rename: impl Fn(&str) -> String) -> Vec<(String, Vec<u64>)> {
    entries(name, 10).into_iter().map(|(key, shape)| (rename(&key), shape)).collect()
}

fn underscored(key: &str) -> String {
    let (layer, leaf) = key.rsplit_once('.').unwrap();
    let layer = layer
        .replace("layer", "stage_")
        .replace("downsample.0", "shortcut.conv")
        .replace("downsample.1", "shortcut.bn")
        .replace("conv1", "conv_1")
        .replace("conv2", "conv_2")
        .replace("bn1", "bn_1")
        .replace("bn2", "bn_2");
    format!("{layer}.{leaf}")
}

#[test]
fn cifar_resnets_under_other_names_are_matched_by_order_and_shape() {
    for name in ["resnet8", "resnet20", "resnet20_a", "resnet56_a", "resnet8x4", "resnet110", "resnet18_cifar"] {
        let mut given = renamed(name, underscored);
        given.insert(5, ("bn_1.num_batches_tracked".into(), vec![]));
        let (fits, notes) = read(&given);
        assert_eq!(fits, [name]);
        assert!(
            notes.contains(&format!("its keys are not those of {name}, but their order and shapes are")),
            "{notes}"
        );
        assert!(notes.contains("conv_1.weight as conv1.weight"), "{notes}");
        let read = Checkpoint::open(file(&given).path()).unwrap();
        assert!(read.get("bn1.num_batches_tracked").is_some());
    }
    // Behind a prefix, too.
    let wrapped: Vec<_> =
        renamed("resnet20", underscored).into_iter().map(|(key, shape)| (format!("module.{key}"), shape)).collect();
    assert_eq!(read(&wrapped).0, ["resnet20"]);
}

#[test]
fn what_order_and_shape_leave_open_is_not_matched() {
    // With the batch norm before the convolution, the layers have the same shapes in the same order, but each block
    // begins with what belongs to the one before it.
    let layout = entries("resnet20_a", 10);
    let mut layer = 0;
    let mut previous = String::new();
    let preactivated: Vec<_> = layout
        .iter()
        .map(|(key, shape)| {
            let (of, leaf) = key.rsplit_once('.').unwrap();
            if of != previous {
                layer += 1;
                previous = of.to_owned();
            }
            // The first convolution, then blocks of four layers, then the last batch norm and the classifier.
            let name = match layer {
                1 => "conv".to_owned(),
                38 => "bn".to_owned(),
                39 => "fc".to_owned(),
                _ => format!("blocks.{}.{}", (layer - 2) / 4, ["bn1", "conv1", "bn2", "conv2"][(layer - 2) % 4]),
            };
            (format!("{name}.{leaf}"), shape.clone())
        })
        .collect();
    assert_eq!(preactivated.last().unwrap().0, "fc.bias");
    assert_eq!(read(&preactivated), (vec![], String::new()));
    // Without blocks in the names, nothing tells the two apart.
    let flat = renamed("resnet20_a", |key| {
        let (layer, leaf) = key.rsplit_once('.').unwrap();
        format!("{}.{leaf}", underscored(&format!("{layer}.x")).trim_end_matches(".x").replace('.', "_"))
    });
    assert_eq!(read(&flat).0, [""; 0]);
    // Other orders and other shapes.
    let mut swapped = renamed("resnet20", underscored);
    swapped.swap(1, 2);
    assert_eq!(read(&swapped).0, [""; 0]);
    let mut other = renamed("resnet20", underscored);
    other[0].1 = vec![16, 3, 5, 5];
    assert_eq!(read(&other).0, [""; 0]);
}

#[test]
fn a_file_of_very_many_tensors_is_compared_with_no_network() {
    let many: Vec<_> = (0..30_000).map(|index| (format!("layer{index}.weight"), vec![1])).collect();
    assert_eq!(read(&many), (vec![], String::new()));
}
