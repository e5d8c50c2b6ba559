//! Promise: safetensors files are written atomically and reproducibly, and read with every length checked.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::PermissionsExt;

use distillery_core::checkpoint::{Checkpoint, CheckpointFormat, Dtype, Error, NewTensor, convert, write};
use safetensors::tensor::TensorView;

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn refusal(header: &str, data: &[u8]) -> Error {
    let error = Checkpoint::from_bytes(file(header, data)).unwrap_err();
    assert!(error.is_users(), "{error}");
    error
}

fn metadata() -> BTreeMap<String, String> {
    [("architecture", "resnet20"), ("classes", "[\"a\", \"ü\\n\"]")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

#[test]
fn what_is_written_reads_back_here_and_in_the_reference_implementation() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("student.safetensors");
    let weights: Vec<u8> = [1.5_f32, -2.0, 0.25, 3.0, 0.0, 7.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensors = [
        NewTensor { name: "odd", dtype: Dtype::U8, shape: &[3], bytes: &[1, 2, 3] },
        NewTensor { name: "conv1.weight", dtype: Dtype::F32, shape: &[2, 3], bytes: &weights },
        NewTensor { name: "count", dtype: Dtype::I64, shape: &[], bytes: &7_i64.to_le_bytes() },
        NewTensor { name: "none", dtype: Dtype::F32, shape: &[0, 5], bytes: &[] },
    ];
    write(&path, &tensors, &metadata()).unwrap();
    let first = fs::read(&path).unwrap();
    write(&path, &tensors, &metadata()).unwrap();
    assert_eq!(first, fs::read(&path).unwrap(), "the same content gives the same bytes");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o444 & 0o400, 0o400);

    let ours = Checkpoint::open(&path).unwrap();
    assert_eq!((ours.format(), ours.metadata()), (CheckpointFormat::Safetensors, &metadata()));
    assert_eq!(ours.floats(ours.get("conv1.weight").unwrap()).unwrap(), [1.5, -2.0, 0.25, 3.0, 0.0, 7.0]);
    assert_eq!(ours.get("none").unwrap().shape(), [0, 5]);
    assert_eq!((ours.parameters(), ours.shapes()["count"].len()), (6, 0));

    let theirs = safetensors::SafeTensors::deserialize(&first).unwrap();
    for tensor in tensors {
        assert_eq!(theirs.tensor(tensor.name).unwrap().data(), tensor.bytes);
    }
    let (header, theirs) = safetensors::SafeTensors::read_metadata(&first).unwrap();
    assert_eq!(header % 8, 0);
    assert_eq!(theirs.metadata().as_ref().unwrap()["architecture"], "resnet20");
}

#[test]
fn what_the_reference_implementation_writes_reads() {
    let bytes: Vec<u8> = (0..16).collect();
    let view = |dtype| TensorView::new(dtype, vec![128 / dtype.bitsize()], &bytes).unwrap();
    let tensors: Vec<_> = [safetensors::Dtype::F64, safetensors::Dtype::BF16, safetensors::Dtype::I8]
        .map(|t| (t.to_string(), view(t)))
        .into();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let written = safetensors::serialize(tensors, Some(metadata)).unwrap();
    let checkpoint = Checkpoint::from_bytes(written.clone()).unwrap();
    assert_eq!(checkpoint.metadata()["format"], "pt");
    for tensor in checkpoint.tensors() {
        assert_eq!(tensor.dtype().name(), tensor.name());
        assert_eq!(checkpoint.bytes(tensor).unwrap(), bytes);
    }
    for length in 0..written.len() {
        let error = Checkpoint::from_bytes(written[..length].to_vec()).unwrap_err();
        assert!(error.is_users(), "{error}");
        assert_eq!(matches!(error, Error::Truncated(_)), length > 8, "{length}: {error}");
    }
}

#[test]
fn converting_keeps_metadata_and_drops_the_prefix_of_data_parallel() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.safetensors");
    let tensors = [
        NewTensor { name: "module.fc.weight", dtype: Dtype::U8, shape: &[1], bytes: &[1] },
        NewTensor { name: "module.module.fc.bias", dtype: Dtype::U8, shape: &[1], bytes: &[2] },
    ];
    write(&path, &tensors, &metadata()).unwrap();
    convert(&path, &path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let names: Vec<_> = checkpoint.shapes().into_keys().collect();
    assert_eq!(names, ["fc.weight", "module.fc.bias"]);
    assert_eq!(checkpoint.metadata()["architecture"], "resnet20");
    assert_eq!(checkpoint.metadata()["format"], "pt");
}

#[test]
fn headers_that_lie_are_refused() {
    let one =
        |offsets: &str, shape: &str| format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
    assert!(Checkpoint::from_bytes(file(&one("[0,8]", "[2]"), &[0; 8])).is_ok());
    assert!(matches!(refusal(&one("[0,8]", "[2]"), &[0; 7]), Error::Truncated(_)));
    for (offsets, shape) in [
        ("[0,8]", "[3]"),
        ("[4,12]", "[2]"),
        ("[8,0]", "[2]"),
        ("[0,18446744073709551615]", "[4611686018427387904]"),
        ("[0,8]", "[4294967296,4294967296,2]"),
        ("[0,8]", "[18446744073709551615,0]"),
        ("[0,8]", "[-2]"),
        ("[0,8]", "[2.0]"),
        ("[0]", "[2]"),
    ] {
        assert!(matches!(refusal(&one(offsets, shape), &[0; 8]), Error::Corrupt(_)), "{offsets} {shape}");
    }
    assert!(refusal(&one("[0,8]", "[2]"), &[0; 9]).to_string().contains("1 bytes follow"));
    let fp8 = r#"{"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}"#;
    assert!(refusal(fp8, &[0]).to_string().contains("w has type F8_E4M3"));
    assert!(matches!(refusal("{}", &[]), Error::NoStateDict(_)));
    assert!(matches!(refusal("{\"a\":1}", &[]), Error::Corrupt(_)));
    let overlap =
        r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#;
    assert!(matches!(refusal(overlap, &[0; 3]), Error::Corrupt(_)));
    let twice =
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    assert!(refusal(twice, &[0; 2]).to_string().contains("two tensors named a"));
    let deep = format!("{{\"w\":{}", "[".repeat(100_000));
    assert!(matches!(refusal(&deep, &[]), Error::Corrupt(_)));
}

#[test]
fn metadata_may_be_null() {
    let header = r#"{"__metadata__":null,"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let read = Checkpoint::from_bytes(file(header, &[7])).unwrap();
    assert!(read.metadata().is_empty());
    assert_eq!(read.bytes(read.get("w").unwrap()).unwrap(), [7]);
    assert!(safetensors::SafeTensors::deserialize(&file(header, &[7])).is_ok());
}

#[test]
fn tensors_of_types_that_are_not_read_are_left_out_and_named() {
    let header = r#"{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},
        "w":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},"x":{"dtype":"U16","shape":[1],"data_offsets":[3,5]}}"#;
    let read = Checkpoint::from_bytes(file(header, &[0, 0, 7, 0, 0])).unwrap();
    assert_eq!((read.tensors().len(), read.bytes(read.get("w").unwrap()).unwrap()), (1, vec![7]));
    let note = "tensors of kinds that are not read are left out: a has type F8_E4M3, x has type U16";
    assert_eq!(read.notes(), [note]);
    // Their bytes must still follow those before.
    for (from, to) in [(1, 3), (4, 5), (5, 3)] {
        let wrong = header.replace("[3,5]", &format!("[{from},{to}]"));
        assert!(Checkpoint::from_bytes(file(&wrong, &[0; 5])).is_err(), "{from} {to}");
    }
}

#[test]
fn the_accuracy_that_a_file_names_is_in_percent() {
    let accuracy = |value: &str| {
        let header = format!(
            r#"{{"__metadata__":{{"accuracy":"{value}"}},"w":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#
        );
        Checkpoint::from_bytes(file(&header, &[7])).unwrap().recorded_accuracy()
    };
    assert_eq!(accuracy("76.3"), Some(76.3));
    assert_eq!(accuracy("0.5"), Some(50.0));
    assert_eq!(accuracy(" 93 % "), Some(93.0));
    for nonsense in ["high", "NaN", "-3", "1e9", ""] {
        assert_eq!(accuracy(nonsense), None, "{nonsense}");
    }
}

#[test]
fn a_header_whose_length_looks_like_another_format_is_still_a_header() {
    // A pickle of protocol 2 begins with 0x0280.
    for length in [0x0280, 0x0380, 0x0480] {
        let header = r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        let header = format!("{header}{}", " ".repeat(length - header.len()));
        assert!(Checkpoint::from_bytes(file(&header, &[1])).is_ok());
    }
}

#[test]
fn a_header_that_would_take_much_memory_is_refused_before_it_is_parsed() {
    let tensor = |number: usize| format!(r#""{number:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let list = |count: usize, member: &dyn Fn(usize) -> String| (0..count).map(member).collect::<Vec<_>>().join(",");
    let tensors = format!("{{{}}}", list(160_000, &tensor));
    let metadata = list(400_000, &|number| format!(r#""{number:x}":"""#));
    let metadata = format!(r#"{{"__metadata__":{{{metadata}}}}}"#);
    let dimensions = format!(r#"{{"w":{{"dtype":"U8","shape":[{}0],"data_offsets":[0,0]}}}}"#, "1,".repeat(2_000_000));
    for header in [tensors, metadata, dimensions] {
        let error = refusal(&header, &[]);
        assert!(matches!(&error, Error::Limit(text) if text.contains("quotes and commas")), "{error}");
    }
    let long = format!("{{}}{}", " ".repeat(32 << 20));
    assert!(matches!(refusal(&long, &[]), Error::Limit(text) if text.contains("bytes long")));
    // As many tensors as no network has.
    let many = format!("{{{}}}", list(20_000, &tensor));
    assert_eq!(Checkpoint::from_bytes(file(&many, &[])).unwrap().tensors().len(), 20_000);
}

#[test]
fn lengths_that_lie_take_no_memory() {
    for length in [9, 1 << 40, u64::MAX - 7, u64::MAX] {
        let bytes = [&length.to_le_bytes()[..], b"{}      "].concat();
        let error = Checkpoint::from_bytes(bytes).unwrap_err();
        let known = matches!(error, Error::Truncated(_) | Error::NotACheckpoint { .. });
        assert!(known, "{length}: {error}");
    }
}

#[test]
fn a_tensor_that_disagrees_with_its_shape_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.safetensors");
    let tensor = NewTensor { name: "w", dtype: Dtype::F32, shape: &[2], bytes: &[0; 4] };
    assert!(write(&path, &[tensor], &BTreeMap::new()).is_err());
    let tensor = NewTensor { bytes: &[0; 8], ..tensor };
    assert!(write(&path, &[tensor, tensor], &BTreeMap::new()).is_err());
    let tensor = NewTensor { shape: &[u64::MAX, 2], ..tensor };
    assert!(write(&path, &[tensor], &BTreeMap::new()).is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing stays of what failed");
}

#[test]
fn a_file_that_is_no_checkpoint_is_refused_with_the_known_formats() {
    let message = |bytes: &[u8]| Checkpoint::from_bytes(bytes.to_vec()).unwrap_err().to_string();
    assert!(message(b"").contains("is empty"));
    for (bytes, hint) in [
        (&b"<!DOCTYPE html><html>"[..], "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"hello, world", "68 65 6c 6c"),
        (b"x", "78"),
    ] {
        let message = message(bytes);
        assert!(message.contains(hint) && message.contains("safetensors and files written by torch.save"), "{message}");
    }
}
