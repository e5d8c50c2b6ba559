//! Promise: files of torch.save are read exactly. `fixtures/make_checkpoints.py` wrote them with PyTorch.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use distillery_core::checkpoint::{Checkpoint, CheckpointFormat, Dtype, Error, convert};
use serde_json::Value;

use super::programs::{dict, stored, zip};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints").join(name)
}

fn expected() -> BTreeMap<String, BTreeMap<String, Value>> {
    serde_json::from_str(&fs::read_to_string(fixture("expected.json")).unwrap()).unwrap()
}

fn dtype(name: &str) -> Dtype {
    match name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::Bf16,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint8" => Dtype::U8,
        "bool" => Dtype::Bool,
        other => panic!("{other}"),
    }
}

fn assert_holds(checkpoint: &Checkpoint, file: &str, tensors: &BTreeMap<String, Value>) {
    assert_eq!(checkpoint.tensors().len(), tensors.len(), "{file}");
    for (name, expected) in tensors {
        let tensor = checkpoint.get(name).unwrap_or_else(|| panic!("{file}: {name}"));
        assert_eq!(tensor.dtype(), dtype(expected["dtype"].as_str().unwrap()), "{file}: {name}");
        assert_eq!(serde_json::to_value(tensor.shape()).unwrap(), expected["shape"], "{file}: {name}");
        let bytes = checkpoint.bytes(tensor).unwrap();
        assert_eq!(hex::encode(bytes), expected["bytes"], "{file}: {name}");
        let floats: Vec<u8> = checkpoint.floats(tensor).unwrap().into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(hex::encode(floats), expected["floats"], "{file}: {name}");
    }
}

#[test]
fn every_file_reads_exactly_from_disk_and_from_memory() {
    let expected = expected();
    assert!(expected.len() > 15);
    for (file, tensors) in expected {
        let path = fixture(&file);
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let format =
            if file.starts_with("legacy") { CheckpointFormat::TorchLegacy } else { CheckpointFormat::TorchZip };
        assert_eq!(checkpoint.format(), format, "{file}");
        assert_holds(&checkpoint, &file, &tensors);
        assert_holds(&Checkpoint::from_bytes(fs::read(path).unwrap()).unwrap(), &file, &tensors);
    }
}

#[test]
fn every_file_converts_to_safetensors_and_stays_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("out.safetensors");
    for (file, tensors) in expected() {
        convert(&fixture(&file), &output).unwrap_or_else(|error| panic!("{file}: {error}"));
        let checkpoint = Checkpoint::open(&output).unwrap();
        assert_eq!(checkpoint.format(), CheckpointFormat::Safetensors);
        assert_holds(&checkpoint, &file, &tensors);
        // The reference implementation agrees.
        let bytes = fs::read(&output).unwrap();
        let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(reference.len(), tensors.len());
        for tensor in checkpoint.tensors() {
            let theirs = reference.tensor(tensor.name()).unwrap();
            assert_eq!(theirs.data(), checkpoint.bytes(tensor).unwrap());
            assert_eq!(theirs.dtype().to_string(), tensor.dtype().name());
        }
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn the_order_is_the_state_dicts() {
    for file in ["zip.pth", "legacy.th", "data_parallel.pth", "legacy_nested.pth"] {
        let checkpoint = Checkpoint::open(&fixture(file)).unwrap();
        let names: Vec<_> = checkpoint.tensors().iter().map(distillery_core::checkpoint::Tensor::name).collect();
        let norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"];
        let norm: Vec<_> = norm.iter().map(|part| format!("bn1.{part}")).collect();
        let mut expected = vec!["conv1.weight"];
        expected.extend(norm.iter().map(String::as_str));
        expected.extend(["fc.weight", "fc.bias"]);
        assert_eq!(names, expected, "{file}");
        assert_eq!(checkpoint.parameters(), 8 + 4 + 9);
    }
}

fn refusal(file: &str) -> Error {
    Checkpoint::open(&fixture(file)).unwrap_err()
}

#[test]
fn a_file_without_a_state_dict_is_refused_with_advice() {
    let message = refusal("whole_model.pth").to_string();
    assert!(message.starts_with("refused: the file wants to run __main__.Small;"), "{message}");
    assert!(message.contains("torch.save(model.state_dict()"), "{message}");
    assert!(matches!(refusal("list.pth"), Error::NoStateDict(_)));
    let message = refusal("no_tensors.pth").to_string();
    assert!(message.contains("its keys include epoch, note") && message.contains("\"state_dict\""), "{message}");
    let message = refusal("sparse.pth").to_string();
    assert!(message.contains("_rebuild_sparse_tensor"), "{message}");
    let message = refusal("complex.pth").to_string();
    assert!(message.contains("torch.ComplexFloatStorage"), "{message}");
    let message = refusal("scripted.pt").to_string();
    assert!(message.contains("TorchScript") && message.contains("torch.export.save"), "{message}");
}

#[test]
fn every_truncation_is_refused_and_none_panics() {
    for file in ["zip.pth", "legacy.th", "nested.pth", "legacy_nested.pth", "deflated.pth", "legacy_protocol4.pt"] {
        let whole = fs::read(fixture(file)).unwrap();
        for length in 0..whole.len() {
            let error = Checkpoint::from_bytes(whole[..length].to_vec()).unwrap_err();
            assert!(error.is_users(), "{file} at {length}: {error}");
        }
    }
}

#[test]
fn a_half_uploaded_file_says_so() {
    for file in ["zip.pth", "legacy.th"] {
        let whole = fs::read(fixture(file)).unwrap();
        for length in [whole.len() - 1, whole.len() / 2, 40] {
            let error = Checkpoint::from_bytes(whole[..length].to_vec()).unwrap_err();
            assert!(matches!(error, Error::Truncated(_)), "{file} at {length}: {error}");
        }
    }
}

#[test]
fn a_byte_that_changed_is_noticed_by_its_checksum() {
    let weights = |value: f32| value.to_le_bytes().repeat(4);
    let program = dict(&[("a", &stored("0", 4)[..]), ("b", &stored("1", 4)[..])]);
    let whole = zip(&program, &[("0", &weights(1.5)[..]), ("1", &weights(2.5)[..])]);
    assert!(Checkpoint::from_bytes(whole.clone()).unwrap().notes().is_empty());
    let mut flipped = whole.clone();
    let at = whole.windows(16).position(|bytes| bytes == weights(2.5)).unwrap();
    flipped[at] ^= 1;
    let error = Checkpoint::from_bytes(flipped).unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
    assert!(error.to_string().contains("the bytes of archive/data/1 in its archive"), "{error}");
    // Without any checksums, as torch.save writes them on request, nothing can be noticed, which is said.
    let mut without = whole.clone();
    for at in 0..whole.len() - 20 {
        if whole[at..].starts_with(b"PK\x01\x02") {
            without[at + 16] ^= 0xff;
        }
    }
    let checkpoint = Checkpoint::from_bytes(without).unwrap();
    let [note] = checkpoint.notes() else { panic!("{:?}", checkpoint.notes()) };
    assert!(note.contains("set_crc32_options(False)"), "{note}");
}
