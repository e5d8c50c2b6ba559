//! Promise: WebDataset's tars are read in place, as WebDataset reads them.

use std::fs;
use std::path::Path;

use distillery_core::dataset::{DatasetFormat, fingerprint};
use tar::{Builder, EntryType, Header};

use super::support::{LFS_POINTER, open, plain, put, reds, refusal};

type Members<'a> = [(&'a str, Vec<u8>)];

fn tar(members: &Members<'_>) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A shard of images, whose reds count up from `first`, with these labels in `cls` files.
pub(super) fn shard(at: &Path, first: u8, labels: &[&str]) {
    let names: Vec<_> = (0..labels.len()).map(|key| (format!("{key:03}.png"), format!("{key:03}.cls"))).collect();
    let mut members = Vec::new();
    for (red, ((image, label), text)) in (first..).zip(names.iter().zip(labels)) {
        members.push((image.as_str(), plain(red)));
        members.push((label.as_str(), text.as_bytes().to_vec()));
    }
    put(at, &tar(&members));
}

#[test]
fn images_and_labels_are_read_from_the_shards_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    shard(&dir.path().join("train-000001.tar"), 10, &["0", "2"]);
    shard(&dir.path().join("train-000000.tar"), 1, &["2", "1\n"]);
    shard(&dir.path().join("val-000000.tar"), 20, &["1"]);
    let dataset = open(dir.path()).unwrap();
    assert_eq!((dataset.format(), dataset.splits()), (DatasetFormat::WebDataset, vec!["train".into(), "val".into()]));
    assert_eq!((dataset.classes().count, &dataset.classes().names), (3, &None));
    assert_eq!(dataset.labels("train").unwrap(), [2, 1, 0, 2]);
    assert_eq!(reds(&dataset, "train"), [1, 2, 10, 11]);
    assert_eq!((dataset.labels("val").unwrap(), reds(&dataset, "val")), (vec![1], vec![20]));
    assert!(dataset.notes().is_empty(), "{:?}", dataset.notes());
    assert_eq!(dataset.summary().unwrap().images, 5);
}

#[test]
fn labels_may_be_names_and_lie_in_json_and_what_is_incomplete_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let json = |label: &str| format!(r#"{{"width": 2, "label": {label}}}"#).into_bytes();
    let members = [
        ("a/1.png", plain(1)),
        ("a/1.json", json("\"dog\"")),
        ("a/1.txt", b"a caption".to_vec()),
        ("a/2.json", json("\"cat\"")),
        ("a/2.PNG", plain(2)),
        // The file with nothing but the label decides.
        ("b/1.json", json("7")),
        ("b/1.cls", b"dog".to_vec()),
        ("b/1.png", plain(3)),
        ("b/2.png", plain(4)),
        ("b/2.json", b"{}".to_vec()),
        ("b/3.png", plain(5)),
        ("b/4.cls", b"cat".to_vec()),
        ("b/._5.png", plain(6)),
        ("readme", b"no sample".to_vec()),
    ];
    put(&dir.path().join("train.tar"), &tar(&members));
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.classes().names.as_deref().unwrap(), ["cat", "dog"]);
    assert_eq!((dataset.labels("train").unwrap(), reds(&dataset, "train")), (vec![1, 0, 1], vec![1, 2, 3]));
    assert_eq!(
        dataset.notes(),
        [
            "passed over in the train split: 2 images without a label, such as b/2",
            "passed over in the train split: 1 label without an image, such as b/4",
        ]
    );
}

#[test]
fn the_names_of_the_shards_or_of_their_directories_say_the_split() {
    for (names, splits) in [
        (["pets-train-0001.tar", "pets-test-0001.tar"], vec!["test", "train"]),
        (["000000.tar", "000001.tar"], vec!["train"]),
        (["train/0.tar", "Val/0.tar"], vec!["Val", "train"]),
        (["train-00000-of-00001.tar", "extra-00000-of-00001.tar"], vec!["extra", "train"]),
        (["pets/train-0.tar", "pets/test-0.tar"], vec!["test", "train"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            shard(&dir.path().join(name), 1, &["0", "1"]);
        }
        assert_eq!(open(dir.path()).unwrap().splits(), splits, "{names:?}");
    }
}

#[test]
fn long_names_of_gnu_and_pax_are_read_and_other_entries_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(120), "k".repeat(60));
    let mut builder = Builder::new(Vec::new());
    let mut add = |kind: EntryType, name: &str, content: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content).unwrap();
    };
    add(EntryType::Directory, "d", b"");
    add(EntryType::Regular, &format!("{long}.png"), &plain(1));
    add(EntryType::Regular, &format!("{long}.cls"), b"0");
    add(EntryType::XHeader, "pax", b"14 path=z.png\n");
    add(EntryType::Regular, "short.bin", &plain(2));
    add(EntryType::XHeader, "pax", b"14 path=z.cls\n");
    add(EntryType::Regular, "short.bin", b"1");
    put(&dir.path().join("train-0.tar"), &builder.into_inner().unwrap());
    let dataset = open(dir.path()).unwrap();
    assert_eq!((dataset.labels("train").unwrap(), reds(&dataset, "train")), (vec![0, 1], vec![1, 2]));
}

#[test]
fn an_archive_of_something_else_is_no_shard() {
    let dir = tempfile::tempdir().unwrap();
    put(&dir.path().join("train.tar"), &tar(&[("train/cat/1.png", plain(1)), ("train/dog/1.png", plain(2))]));
    assert!(refusal(dir.path()).contains("unpack the archive"), "{}", refusal(dir.path()));
    // Nor is what lies beside a data set that it may be the archive of.
    for class in ["cat", "dog"] {
        put(&dir.path().join(format!("train/{class}/1.png")), &plain(1));
    }
    shard(&dir.path().join("train.tar"), 1, &["0", "1"]);
    assert_eq!(open(dir.path()).unwrap().format(), DatasetFormat::Folder);
}

#[test]
fn what_is_wrong_with_a_shard_is_said() {
    let say = |name: &str, bytes: &[u8], expected: &str| {
        let dir = tempfile::tempdir().unwrap();
        shard(&dir.path().join("train-0.tar"), 1, &["0", "1", "0"]);
        put(&dir.path().join(name), bytes);
        let refused = refusal(dir.path());
        assert!(refused.contains(name) && refused.contains(expected), "{refused}");
    };
    let complete = tar(&[("1.png", plain(1)), ("1.cls", b"0".to_vec())]);
    say("train-1.tar", &complete[..520], "is truncated");
    say("train-1.tar", &complete[..100], "is not a whole tar");
    say("train-1.tar", LFS_POINTER, "is a Git LFS pointer");
    say("train-1.tar", &tar(&[("1.png", plain(1)), ("1.jpg", plain(1))]), "has two images of the sample 1");
    say("train-1.tar", &tar(&[("1.png", plain(1)), ("1.cls", b" \n".to_vec())]), "has no label in 1.cls");
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(1 << 40);
    header.set_cksum();
    say("train-1.tar", &[header.as_bytes().as_slice(), &[0; 1024]].concat(), "is truncated");

    let dir = tempfile::tempdir().unwrap();
    shard(&dir.path().join("train-00000-of-00002.tar"), 1, &["0", "1"]);
    assert!(refusal(dir.path()).contains("shard 1 of 2 of the train split is missing"), "{}", refusal(dir.path()));
}

#[test]
fn labels_of_another_split_must_be_known_to_the_training_split() {
    let dir = tempfile::tempdir().unwrap();
    shard(&dir.path().join("train-0.tar"), 1, &["cat", "dog"]);
    shard(&dir.path().join("test-0.tar"), 1, &["cow"]);
    let error = open(dir.path()).unwrap().labels("test").unwrap_err().to_string();
    assert!(error.contains("has the label \"cow\", which the train split does not have"), "{error}");
    shard(&dir.path().join("train-0.tar"), 1, &["0", "1"]);
    let error = open(dir.path()).unwrap().labels("test").unwrap_err().to_string();
    assert!(error.contains("where the train split has numbers"), "{error}");
}

#[test]
fn another_shard_is_another_data_set() {
    let dir = tempfile::tempdir().unwrap();
    shard(&dir.path().join("train-0.tar"), 1, &["0", "1"]);
    let before = fingerprint(dir.path()).unwrap();
    fs::copy(dir.path().join("train-0.tar"), dir.path().join("train-1.tar")).unwrap();
    assert_ne!(fingerprint(dir.path()).unwrap(), before);
}

#[test]
fn labels_that_are_captions_are_refused_before_they_fill_memory() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..4200).map(|key| (format!("{key:04}.png"), format!("{key:04}.cls"))).collect();
    let mut members = Vec::new();
    for (image, label) in &names {
        members.push((image.as_str(), plain(1)));
        members.push((label.as_str(), format!("{label} {}", "x".repeat(4000)).into_bytes()));
    }
    put(&dir.path().join("train-000000.tar"), &tar(&members));
    let refused = refusal(dir.path());
    assert!(refused.contains("different labels than classes can have") && refused.contains("captions"), "{refused}");
    assert!(refused.len() < 1000, "{refused}");
}

#[test]
fn labels_in_several_unicode_normal_forms_are_one_class() {
    let dir = tempfile::tempdir().unwrap();
    shard(&dir.path().join("train-000000.tar"), 1, &["caf\u{e9}", "cafe\u{301}", "dog"]);
    shard(&dir.path().join("val-000000.tar"), 10, &["cafe\u{301}"]);
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.classes().names.as_deref().unwrap(), ["caf\u{e9}", "dog"]);
    assert_eq!((dataset.labels("train").unwrap(), dataset.labels("val").unwrap()), (vec![0, 0, 1], vec![0]));
    let notes = dataset.notes();
    let [united, other] = notes.as_slice() else { panic!("{notes:?}") };
    assert_eq!(united, "the train split has the class \"caf\u{e9}\" in several Unicode normal forms: it is one class");
    assert!(other.starts_with("the val split writes 1 class in another Unicode normal form"), "{other}");
}
