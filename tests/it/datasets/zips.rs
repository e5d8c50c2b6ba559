//! Zips of unusual forms: those that are read, and those that are made to deceive.

use std::io::{Cursor, Write};

use serde_json::{Value, json};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::hostile::{fault, replaced, zip_also};
use crate::support::api::{Api, plain_job};
use crate::support::archives::{Files, pets, ppm, zip, zip_with};

/// Places of fields in the records of a zip.
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";

fn places(bytes: &[u8], magic: &[u8]) -> Vec<usize> {
    (0..bytes.len().saturating_sub(magic.len())).filter(|&at| bytes[at..].starts_with(magic)).collect()
}

/// A zip with 64-bit records everywhere, as archivers write them for large files and for many.
fn zip64(files: &Files<'_>) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.set_raw_zip64_extensible_data_sector(Box::default());
    for (path, content) in files {
        writer.start_file(*path, SimpleFileOptions::default().large_file(true)).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn notes(details: &Value) -> String {
    details["notes"].to_string()
}

#[tokio::test]
async fn zip64_is_read_and_is_the_same_data_set() {
    let api = Api::start().await;
    let bytes = zip64(&pets());
    assert_eq!(places(&bytes, END_64).len(), 1);
    let details = api.upload_dataset("pets", bytes).await.expect(201);
    assert_eq!(api.upload_dataset("pets", zip(&pets())).await.expect(200)["id"], details["id"]);
}

#[tokio::test]
async fn a_zip64_that_announces_too_many_entries_is_refused_before_there_is_room_for_them() {
    let api = Api::start().await;
    let mut bytes = zip64(&pets());
    let record = places(&bytes, END_64)[0];
    for field in [24, 32] {
        bytes[record + field..record + field + 8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    }
    fault(&api, bytes, "it has 1099511627776 files and directories; at most 2000000 are taken").await;
}

#[tokio::test]
async fn encrypted_entries_are_refused_with_what_to_do() {
    let api = Api::start().await;
    let mut bytes =
        zip_with(&[pets(), vec![("train/cat/secret.ppm", ppm([1, 2, 3]))]].concat(), CompressionMethod::Stored);
    for (magic, flags, name) in [(LOCAL, 6, 30), (CENTRAL, 8, 46)] {
        for at in places(&bytes, magic) {
            bytes[at + flags] |= u8::from(bytes[at + name..].starts_with(b"train/cat/secret.ppm"));
        }
    }
    fault(&api, bytes, "train/cat/secret.ppm is encrypted (pack it again without a password)").await;
}

#[tokio::test]
async fn names_that_are_not_utf_8_are_refused_and_not_guessed() {
    let api = Api::start().await;
    // As zip programs on Windows write é, in its code page.
    let also = zip_also(|writer| writer.start_file("train/cafX/1.ppm", SimpleFileOptions::default()).unwrap());
    fault(&api, replaced(&also, b"train/cafX/1.ppm", b"train/caf\x82/1.ppm"), "is not valid UTF-8: rename it").await;
}

#[tokio::test]
async fn names_that_differ_in_case_alone_are_different_and_a_note_says_so() {
    let api = Api::start().await;
    let more = vec![("train/Cat/1.ppm", ppm([9, 9, 9])), ("train/cat/1.PPM", ppm([8, 8, 8]))];
    let details = api.upload_dataset("pets", zip(&[pets(), more].concat())).await.expect(201);
    assert_eq!((&details["class_count"], &details["images"]), (&json!(3), &json!(10)));
    let said = "classes whose names differ in case or blanks alone are different classes";
    assert!(notes(&details).contains(said), "{}", notes(&details));
}

#[tokio::test]
async fn a_class_in_two_unicode_normal_forms_is_one_class_and_a_note_says_so() {
    let api = Api::start().await;
    let more = vec![
        ("train/caf\u{e9}/1.ppm", ppm([1, 1, 1])),
        ("train/cafe\u{301}/1.ppm", ppm([2, 2, 2])),
        ("test/caf\u{e9}/1.ppm", ppm([3, 3, 3])),
    ];
    let details = api.upload_dataset("pets", zip(&[pets(), more].concat())).await.expect(201);
    assert_eq!(details["class_count"], 3);
    assert_eq!(details["classes"]["listed"][0]["images"], json!({"train": 2, "test": 1}));
    assert!(notes(&details).contains("in several Unicode normal forms: it is one class"), "{}", notes(&details));
    // Nobody has to act on it, so no dry run warns of it.
    let mut job = plain_job();
    job["dataset"] = json!({"name": "pets"});
    let dry = api.post("/v1/jobs?dry_run=true", &job).await.expect(200);
    assert!(!dry["warnings"].to_string().contains("normal form"), "{dry:#}");
}

/// A zip whose directory names one entry many times, under other names.
fn overlapping(times: u16) -> Vec<u8> {
    let bytes = zip(&[("train/cat/00000.ppm", vec![0; 1 << 20])]);
    let (central, end) = (places(&bytes, CENTRAL)[0], places(&bytes, END)[0]);
    let (entry, mut tail) = (&bytes[central..end], bytes[end..].to_vec());
    let mut whole = bytes[..central].to_vec();
    for number in 0..times {
        let name = format!("train/cat/{number:05}.ppm");
        whole.extend([&entry[..46], name.as_bytes(), &entry[46 + name.len()..]].concat());
    }
    let size = u32::try_from(entry.len()).unwrap() * u32::from(times);
    tail[8..10].copy_from_slice(&times.to_le_bytes());
    tail[10..12].copy_from_slice(&times.to_le_bytes());
    tail[12..16].copy_from_slice(&size.to_le_bytes());
    [whole, tail].concat()
}

#[tokio::test]
async fn entries_that_share_their_bytes_are_no_way_around_the_limits() {
    let api = Api::start().await;
    let bytes = overlapping(200);
    assert!(bytes.len() < 50_000);
    fault(&api, bytes, "more than 100 times its own size").await;
}
