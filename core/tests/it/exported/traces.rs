//! Promise: of the machine that exported a network, a stored file says nothing, and is otherwise what it was.

use std::fs::File;
use std::io::{Cursor, Read, Write};

use distillery_core::exported::{self, ExportedNetwork, strip_traces};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::fixtures::fixture;
use super::programs::Network;

/// The file without stack traces, and whether there were any.
fn stripped(bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let changed = strip_traces(file.as_file()).unwrap();
    (std::fs::read(file.path()).unwrap(), changed)
}

/// An entry of an archive, whose checksum is compared.
fn entry(bytes: &[u8], name: &str) -> Vec<u8> {
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut content = Vec::new();
    zip.by_name(name).unwrap().read_to_end(&mut content).unwrap();
    content
}

fn program(bytes: &[u8]) -> Value {
    serde_json::from_slice(&entry(bytes, "net/models/model.json")).unwrap()
}

#[test]
fn stack_traces_are_removed_and_everything_else_stays() {
    let network = Network::small();
    let bytes = network.bytes();
    assert!(String::from_utf8_lossy(&bytes).contains("/home/somebody/secret.py"));
    let (clean, changed) = stripped(&bytes);
    assert!(changed);
    assert_eq!(clean.len(), bytes.len());
    assert!(!String::from_utf8_lossy(&clean).contains("secret"));
    let mut expected = network.program.clone();
    for node in expected["graph_module"]["graph"]["nodes"].as_array_mut().unwrap() {
        node["metadata"]["stack_trace"] = json!("");
    }
    assert_eq!(program(&clean), expected);
    for (name, content) in &network.files {
        assert_eq!(entry(&clean, &format!("net/{name}")), *content, "{name}");
    }
    let description = |bytes: &[u8]| ExportedNetwork::from_bytes(bytes.to_vec()).unwrap().description().clone();
    assert_eq!(description(&clean), description(&bytes));
}

#[test]
fn the_same_file_is_always_changed_in_the_same_way_and_only_once() {
    let bytes = Network::small().bytes();
    let (clean, _) = stripped(&bytes);
    assert_eq!(stripped(&bytes).0, clean);
    assert_eq!(stripped(&clean), (clean, false));
    let without = std::fs::read(fixture("test_efficientnet.pt2")).unwrap();
    assert_eq!(stripped(&without), (without, false));
}

#[test]
fn only_a_member_of_that_name_is_a_stack_trace() {
    let mut network = Network::small();
    let trace = "a \"quoted\" path C:\\secret\\ and \"stack_trace\": \"inside\"";
    network.graph()["nodes"][0]["metadata"] = json!({"stack_trace": trace, "custom": "stack_trace", "empty": ""});
    network.graph()["nodes"][1]["metadata"] = json!({"stack_trace": null, "other": ["stack_trace", "stays"]});
    let (clean, changed) = stripped(&network.bytes());
    assert!(changed);
    let nodes = program(&clean)["graph_module"]["graph"]["nodes"].clone();
    assert_eq!(nodes[0]["metadata"], json!({"stack_trace": "", "custom": "stack_trace", "empty": ""}));
    assert_eq!(nodes[1]["metadata"], json!({"stack_trace": null, "other": ["stack_trace", "stays"]}));
}

#[test]
fn a_checksum_behind_an_entry_is_that_of_the_changed_one_too() {
    // As PyTorch writes archives: the sizes and the checksum follow the bytes.
    let mut writer = zip::ZipWriter::new_stream(Vec::new());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in Network::small().entries() {
        writer.start_file(format!("net/{name}"), stored).unwrap();
        writer.write_all(&bytes).unwrap();
    }
    let bytes = writer.finish().unwrap().into_inner();
    let descriptors = |bytes: &[u8]| -> Vec<Vec<u8>> {
        let signed = bytes.windows(8).filter(|window| window.starts_with(b"PK\x07\x08"));
        signed.map(|window| window[4..].to_vec()).collect()
    };
    let (clean, changed) = stripped(&bytes);
    assert!(changed);
    let checksum = {
        let mut zip = zip::ZipArchive::new(Cursor::new(&clean)).unwrap();
        zip.by_name("net/models/model.json").unwrap().crc32().to_le_bytes().to_vec()
    };
    assert!(program(&clean).is_object());
    assert!(descriptors(&clean).contains(&checksum) && !descriptors(&bytes).contains(&checksum));
}

#[test]
fn a_file_that_is_no_exported_network_is_refused_and_left_alone() {
    for bytes in [b"not a network".to_vec(), std::fs::read(fixture("../checkpoints/zip.pth")).unwrap()] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        let error = strip_traces(&File::options().read(true).write(true).open(file.path()).unwrap()).unwrap_err();
        assert!(error.is_users(), "{error}");
        assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
    }
}

#[test]
fn a_damaged_program_is_refused_and_gets_no_new_checksum() {
    let mut bytes = Network::small().bytes();
    let at = bytes.windows(9).position(|window| window == b"secret.py").unwrap();
    bytes[at] ^= 1;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let error = strip_traces(file.as_file()).unwrap_err().to_string();
    assert!(error.contains("the bytes of models/model.json in its archive do not have their checksum"), "{error}");
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
}

#[test]
fn a_damaged_archive_with_a_program_is_still_an_exported_network() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let packed = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    writer.start_file("net/models/model.json", packed).unwrap();
    writer.write_all(&[b' '; 1000]).unwrap();
    file.write_all(&writer.finish().unwrap().into_inner()).unwrap();
    assert!(exported::is_exported(file.path()));
}

#[test]
fn the_hash_of_a_network_is_that_of_the_file_without_traces_which_stays_as_it_is() {
    let bytes = Network::small().bytes();
    let (clean, _) = stripped(&bytes);
    let hash = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    assert_eq!(exported::sha256(file.path()).unwrap(), hash(&clean));
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
    for (expected, is_its) in [(hash(&clean), true), (hash(&bytes), true), (hash(b"another"), false)] {
        assert_eq!(exported::has_sha256(file.path(), &expected).unwrap(), is_its, "{expected}");
    }
    // Any other file has its own.
    let checkpoint = fixture("../checkpoints/zip.pth");
    assert_eq!(exported::sha256(&checkpoint).unwrap(), hash(&std::fs::read(&checkpoint).unwrap()));
    assert!(exported::sha256(&fixture("missing.pt2")).is_err());
}
