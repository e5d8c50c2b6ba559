//! Promise: no archive leads out of itself, hides bytes, or takes much more memory than its size.

use std::io::Write;

use distillery_core::checkpoint::{self, Checkpoint};
use distillery_core::exported::{Error, ExportedNetwork, is_exported};
use serde_json::json;

use super::fixtures::fixture;
use super::programs::{Network, archive, tensor};

fn refusal(bytes: Vec<u8>) -> String {
    let error = ExportedNetwork::from_bytes(bytes).unwrap_err();
    assert!(error.is_users(), "{error}");
    error.to_string()
}

/// The network's archive with other entries.
fn with_entries(change: impl FnOnce(&mut Vec<(String, Vec<u8>)>)) -> Vec<u8> {
    let mut entries: Vec<_> = Network::small().entries();
    entries.iter_mut().for_each(|(name, _)| *name = format!("net/{name}"));
    change(&mut entries);
    archive(entries.iter().map(|(name, bytes)| (name.clone(), bytes.as_slice())))
}

fn with_entry(name: &str, content: &[u8]) -> Vec<u8> {
    with_entries(|entries| {
        entries.retain(|(other, _)| other != name);
        entries.push((name.to_owned(), content.to_vec()));
    })
}

#[test]
fn other_files_are_named_for_what_they_are() {
    assert!(matches!(ExportedNetwork::from_bytes(Vec::new()), Err(Error::File(checkpoint::Error::Empty))));
    assert!(refusal(b"\x80\x02}.".to_vec()).contains("it is not a zip archive"));
    assert!(refusal(archive([("a/data.pkl".to_owned(), &b"\x80\x02}."[..])])).contains("no models/model.json"));
    assert!(refusal(with_entry("net/archive_format", b"pt3")).contains("the format pt3"));
    let old = archive([("serialized_exported_program.json".to_owned(), &b"{}"[..])]);
    assert!(refusal(old).contains("the layout of PyTorch before 2.8, which is not read: export it again with"));
}

#[test]
fn a_package_of_aotinductor_is_a_network_without_a_graph() {
    let names = ["model/archive_format", "model/data/aotinductor/model/c1.so", "model/data/aotinductor/model/c1.json"];
    let package = archive(names.map(|name| (name.to_owned(), &b"pt2"[..])));
    let directory = tempfile::tempdir().unwrap();
    // The bytes decide, not the name.
    let path = directory.path().join("package");
    std::fs::write(&path, &package).unwrap();
    assert!(is_exported(&path));
    let error = refusal(package);
    assert!(error.contains("code that AOTInductor compiled") && error.contains("torch.export.save"), "{error}");
}

#[test]
fn weights_in_a_pickle_are_those_of_an_older_pytorch_and_no_damage() {
    let pickled = with_entries(|entries| {
        entries.retain(|(name, _)| !name.starts_with("net/data/weights/") && !name.starts_with("net/data/constants/"));
        entries.push(("net/data/weights/model.pt".to_owned(), b"PK".to_vec()));
        entries.push(("net/data/constants/model.pt".to_owned(), b"PK".to_vec()));
    });
    let error = refusal(pickled);
    assert!(error.contains("its weights in a pickle, as PyTorch 2.8 writes them") && error.contains("2.9"), "{error}");
    assert!(!error.contains("damaged"), "{error}");
}

#[test]
fn names_of_the_classes_are_read_from_an_extra_file() {
    let read = |bytes: Vec<u8>| ExportedNetwork::from_bytes(bytes).unwrap().class_names();
    for name in ["net/extra/classes.json", "net/extra/classes"] {
        assert_eq!(read(with_entry(name, br#"["cat", "dog"]"#)).unwrap(), Some(vec!["cat".into(), "dog".into()]));
    }
    assert_eq!(read(with_entry("net/extra/other", b"[]")).unwrap(), None);
    for wrong in [&b"cat, dog"[..], b"[1, 2]", b"{}"] {
        let error = read(with_entry("net/extra/classes.json", wrong)).unwrap_err().to_string();
        assert!(error.contains("extra/classes.json is no JSON list of names"), "{error}");
    }
}

#[test]
fn a_checkpoints_reader_says_that_it_is_an_exported_network() {
    let error = Checkpoint::open(&fixture("test_efficientnet.pt2")).unwrap_err().to_string();
    assert!(error.contains("it is a network written by torch.export.save"), "{error}");
    assert!(is_exported(&fixture("test_efficientnet.pt2")));
    assert!(!is_exported(&fixture("../checkpoints/zip.pth")));
    assert!(!is_exported(&fixture("missing.pth")));
}

#[test]
fn other_versions_are_refused_before_anything_else_is_read() {
    let mut network = Network::small();
    network.program = json!({"schema_version": {"major": 9, "minor": 0}, "new": [1, 2, 3]});
    let error = network.read().unwrap_err();
    assert!(matches!(&error, Error::Version(version) if version == "schema 9.0"), "{error}");
    let mut network = Network::small();
    network.program["schema_version"]["minor"] = json!(18);
    let warnings = network.read().unwrap().description().warnings.clone();
    assert_eq!(warnings, ["the file has schema 8.18, and the newest that was tried is 8.17"]);
}

#[test]
fn an_entry_must_be_in_the_folder_under_a_plain_name() {
    for name in ["evil", "other/x", "/etc/passwd", "net/../../x", "net//x", "net/./x", "net/a\\..\\x"] {
        let error = refusal(with_entry(name, b"x"));
        assert!(error.contains("an entry outside of its folder"), "{name}: {error}");
    }
    let error = refusal(with_entry("two/models/model.json", b"{}"));
    assert!(error.contains("more than one folder with a program"), "{error}");
}

#[test]
fn entries_must_be_stored_as_they_are() {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let packed = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    writer.start_file("net/models/model.json", packed).unwrap();
    // A gigabyte of spaces would be a megabyte.
    writer.write_all(&vec![b' '; 16 << 20]).unwrap();
    let error = refusal(writer.finish().unwrap().into_inner());
    assert!(error.contains("net/models/model.json in its archive is compressed"), "{error}");
}

/// Where the directory at an archive's end describes an entry.
fn directory_entry(bytes: &[u8], name: &str) -> usize {
    let matches =
        |at: &usize| bytes[*at..].starts_with(b"PK\x01\x02") && bytes[*at + 46..].starts_with(name.as_bytes());
    (0..bytes.len() - 46 - name.len()).find(matches).unwrap()
}

#[test]
fn entries_may_not_overlap() {
    let mut bytes = Network::small().bytes();
    let (one, two) = ("net/data/weights/weight_2", "net/data/weights/weight_3");
    let (from, to) = (directory_entry(&bytes, one), directory_entry(&bytes, two));
    let offset: [u8; 4] = bytes[from + 42..from + 46].try_into().unwrap();
    bytes[to + 42..to + 46].copy_from_slice(&offset);
    let error = refusal(bytes);
    assert!(error.contains("in its archive overlap"), "{error}");
}

#[test]
fn entries_may_not_have_the_same_name() {
    let mut bytes = Network::small().bytes();
    let at = directory_entry(&bytes, "net/data/weights/weight_3");
    let name_end = at + 46 + "net/data/weights/weight_3".len();
    bytes[name_end - 1] = b'2';
    let error = refusal(bytes);
    assert!(error.contains("two entries with the same name") || error.contains("damaged"), "{error}");
}

#[test]
fn an_entry_may_not_reach_beyond_the_file() {
    let mut bytes = Network::small().bytes();
    let at = directory_entry(&bytes, "net/data/weights/weight_3");
    for field in [20, 24] {
        bytes[at + field..at + field + 4].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    }
    let error = refusal(bytes);
    assert!(error.contains("extends beyond the end of the file"), "{error}");
}

#[test]
fn a_truncated_archive_is_refused() {
    let bytes = Network::small().bytes();
    for length in (0..bytes.len()).step_by(7) {
        assert!(ExportedNetwork::from_bytes(bytes[..length].to_vec()).is_err(), "{length}");
    }
}

#[test]
fn a_byte_of_a_weight_that_changed_is_noticed_by_the_checksum() {
    let mut network = Network::small();
    let is_weight = |(name, _): &&mut (String, Vec<u8>)| name.starts_with("data/weights/weight_");
    let (name, content) = network.files.iter_mut().find(is_weight).unwrap();
    content.fill(0x3e);
    let name = name.clone();
    let mut bytes = network.bytes();
    ExportedNetwork::from_bytes(bytes.clone()).unwrap();
    let at = bytes.windows(16).position(|window| window == [0x3e; 16]).unwrap();
    bytes[at + 5] ^= 1;
    let said = format!("the file is damaged: the bytes of {name} in its archive do not have their checksum;");
    let error = refusal(bytes);
    assert!(error.starts_with(&said), "{error}");
}

#[test]
fn documents_that_are_not_pytorchs_are_refused() {
    let deep = [b"[".repeat(1 << 20), b"]".repeat(1 << 20)].concat();
    let nested = format!(
        "{{\"schema_version\": {{\"major\": 8, \"minor\": 17}}, \"graph_module\": {}",
        "{\"graph\":".repeat(1 << 16)
    );
    let documents: [&[u8]; 9] = [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"{\"schema_version\": 8}",
        b"{\"schema_version\": {\"major\": 8, \"minor\": 17}}",
        b"{\"schema_version\": {\"major\": 8, \"minor\": 17}, \"schema_version\": {\"major\": 8, \"minor\": 17}}",
        &deep,
        nested.as_bytes(),
    ];
    for document in documents {
        let error = refusal(with_entry("net/models/model.json", document));
        assert!(error.contains("models/model.json is not as PyTorch writes it"), "{error}");
    }
    let error = refusal(with_entry("net/models/model.json", &b" ".repeat((32 << 20) + 1)));
    assert!(error.starts_with("refused: models/model.json in it is longer than 32 MiB"), "{error}");
    for name in ["net/data/weights/model_weights_config.json", "net/models/model.json"] {
        let error = refusal(with_entries(|entries| entries.retain(|(other, _)| other != name)));
        assert!(error.contains("missing from its archive") || error.contains("no models/model.json"), "{error}");
    }
    let error = refusal(with_entry("net/byteorder", b"middle"));
    assert!(error.contains("its byte order is middle"), "{error}");
}

#[test]
fn a_key_that_comes_twice_is_refused() {
    let text = serde_json::to_string(&Network::small().program).unwrap();
    let doubled = text.replacen("\"tensor_values\":{", "\"tensor_values\":{\"act\":null,", 1);
    assert_ne!(text, doubled);
    assert!(refusal(with_entry("net/models/model.json", doubled.as_bytes())).contains("not as PyTorch writes it"));
    let meta = serde_json::to_string(&super::programs::meta(&[1])).unwrap();
    let doubled = text.replacen("\"tensor_values\":{", &format!("\"tensor_values\":{{\"act\":{meta},"), 1);
    let error = refusal(with_entry("net/models/model.json", doubled.as_bytes()));
    assert!(error.contains("an object has a key twice"), "{error}");
}

#[test]
fn too_many_nodes_and_entries_are_refused() {
    let mut network = Network::small();
    let node = network.graph()["nodes"][1].clone();
    network.graph()["nodes"] = (0..20_001).map(|_| node.clone()).collect();
    let faults = network.faults();
    assert_eq!(faults[0], "graph: has 20001 nodes, and 20000 are read at most");
    let many =
        with_entries(|entries| entries.extend((0..20_000).map(|index| (format!("net/extra/{index}"), Vec::new()))));
    let error = refusal(many);
    assert!(error.contains("entries, and 20000 are read at most"), "{error}");
}

#[test]
fn values_that_are_too_large_or_empty_are_refused() {
    for (size, expected) in [(0, "has no elements or too many"), (1_i64 << 40, "has no elements or too many")] {
        let mut network = Network::small();
        network.recorded("conv")["sizes"][1] = json!({"as_int": size});
        let faults = network.faults();
        assert!(faults[0].starts_with("node conv: ") && faults[0].contains(expected), "{faults:?}");
    }
    let mut network = Network::small();
    network.recorded("x")["sizes"][2] = json!({"as_int": 1_i64 << 40});
    assert!(network.faults()[0].starts_with("input: has no elements or too many"));
    let mut network = Network::small();
    network.recorded("act")["sizes"] = vec![json!({"as_int": 1}); 8000].into();
    assert!(network.fault().contains("has 8000 dimensions, and 16 are read at most"));
}

#[test]
fn names_from_the_file_are_shortened_and_escaped() {
    let mut network = Network::small();
    let name = format!("\u{1b}[31m{}", "n".repeat(100_000));
    network.node("relu.default", "last", &[("self", tensor(&name))], &[1]);
    let fault = network.fault();
    assert!(fault.len() < 200 && fault.contains("\\u{1b}[31m"), "{fault}");
}

/// CRC-32 of the bytes, as archives have it.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 })
    })
}

/// An archive as PyTorch writes it: the content of each entry begins at a multiple of 64 bytes, after a field `FB`.
fn padded_archive(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let start = u32::try_from(file.len()).unwrap();
        let padding = (64 - (file.len() + 30 + name.len() + 4) % 64) % 64;
        let extra = [b"FB".as_slice(), &u16::try_from(padding).unwrap().to_le_bytes(), &vec![b'Z'; padding]].concat();
        let size = u32::try_from(content.len()).unwrap().to_le_bytes();
        let length = |of: &[u8]| u16::try_from(of.len()).unwrap().to_le_bytes();
        // The version, flags, method, time and date are zero.
        let facts = [&[0; 10][..], &checksum(content).to_le_bytes(), &size, &size, &length(name.as_bytes())].concat();
        file.extend([b"PK\x03\x04", facts.as_slice(), &length(&extra), name.as_bytes(), &extra, content].concat());
        directory.extend([b"PK\x01\x02\0\0", facts.as_slice(), &[0; 12], &start.to_le_bytes()].concat());
        directory.extend(name.as_bytes());
    }
    let count = u16::try_from(entries.len()).unwrap().to_le_bytes();
    let [start, length] = [file.len(), directory.len()].map(|size| u32::try_from(size).unwrap().to_le_bytes());
    let end = [b"PK\x05\x06\0\0\0\0".as_slice(), &count, &count, &length, &start, &[0; 2]].concat();
    [file, directory, end].concat()
}

#[test]
fn a_folder_may_have_a_name_of_any_length() {
    let network = Network::small();
    let mut entries = network.entries();
    // PyTorch writes weights first, whose field is empty if the folder has eight letters.
    entries.sort_by_key(|(name, _)| !name.contains("weights/"));
    for length in 1..=64 {
        let folder = "m".repeat(length);
        let entries: Vec<_> =
            entries.iter().map(|(name, content)| (format!("{folder}/{name}"), content.clone())).collect();
        let read = ExportedNetwork::from_bytes(padded_archive(&entries));
        assert!(read.is_ok(), "{length}: {}", read.unwrap_err());
    }
}
