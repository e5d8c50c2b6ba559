//! Promise: a table of files and labels is read as its author means it, or refused with what is wrong.

use distillery_core::dataset::{Dataset, DatasetFormat, DatasetOptions};

use super::support::{open, plain, put, reds, refusal};

#[test]
fn a_table_names_the_files_and_their_labels() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for red in 1..=4 {
        put(&at.join(format!("train/images/{red}.png")), &plain(red));
    }
    put(&at.join("test/5.png"), &plain(5));
    let table = "\u{feff}file_name,\"label\",note\r\nimages/3.png,\"dog, big\",x\r\nimages/1.png,cat,\r\n\r\nimages/2.png,\"dog, big\",\"a \"\"b\"\"\"\r\n";
    put(&at.join("train/metadata.csv"), table.as_bytes());
    put(&at.join("test/metadata.jsonl"), b"{\"file_name\": \"5.png\", \"label\": \"cat\"}\n");
    let dataset = open(at).unwrap();
    assert_eq!(dataset.format(), DatasetFormat::Folder);
    assert_eq!(dataset.classes().names.as_deref().unwrap(), ["cat", "dog, big"]);
    assert_eq!((dataset.labels("train").unwrap(), reds(&dataset, "train")), (vec![0, 1, 1], vec![1, 3, 2]));
    assert_eq!(dataset.labels("test").unwrap(), [0]);
    assert_eq!(dataset.notes(), ["1 images that metadata.csv does not name are passed over"]);
    for (table, fault) in [
        ("file_name,label\n/etc/passwd,a\n", "which is not a path below its directory"),
        ("file_name,label\n../test/5.png,a\n", "which is not a path below its directory"),
        ("file_name,label\nimages/9.png,a\n", "but there is no such file"),
        ("file_name,label\nimages/1.png,a\nimages/1.png,b\n", "which an earlier row names too"),
        ("file_name,label\nimages/1.png,\n", "without a label"),
        ("file_name,label\nimages/1.png\n", "has 1 cells in line 2, where its first line has 2"),
        ("file_name,label\n\"images/1.png,a\n", "is never closed"),
    ] {
        put(&at.join("train/metadata.csv"), table.as_bytes());
        assert!(refusal(at).contains(fault), "{table}: {}", refusal(at));
    }
}

#[test]
fn a_table_of_the_whole_directory_may_have_splits_and_another_column() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for (path, red) in [("train/1.png", 1), ("train/2.png", 2), ("test/3.png", 3)] {
        put(&at.join(path), &plain(red));
    }
    put(&at.join("metadata.csv"), b"file_name,grade\ntrain/1.png,10\ntrain/2.png,9.0\ntest/3.png,10\n");
    let options = DatasetOptions { label_column: Some("grade".to_owned()), ..DatasetOptions::default() };
    let dataset = Dataset::open(at, &options).unwrap();
    assert_eq!(dataset.splits(), ["test", "train"]);
    // Numbers are in their own order, and not in that of their digits.
    assert_eq!(dataset.classes().names.as_deref().unwrap(), ["9", "10"]);
    assert_eq!((dataset.labels("train").unwrap(), dataset.labels("test").unwrap()), (vec![0, 1], vec![1]));
    assert_eq!(reds(&dataset, "train"), [2, 1]);
    let options = DatasetOptions { label_column: Some("kind".to_owned()), ..DatasetOptions::default() };
    let message = Dataset::open(at, &options).unwrap_err().to_string();
    assert!(message.contains(r#"has no column "kind"; its columns are: file_name, grade"#), "{message}");
}

#[test]
fn numbers_in_a_table_that_do_not_count_from_0_are_noted() {
    let dir = tempfile::tempdir().unwrap();
    for (labels, note) in [
        ([2, 0, 1], None),
        ([1, 2, 3], Some("the labels are 1 to 3: label 1 is the networks' class 0")),
        ([1, -1, 0], Some("the labels are -1 to 1: label -1 is the networks' class 0")),
        (
            [5, 900_000_000, 0],
            Some("the labels are 0 to 900000000 with gaps, 3 classes in this order: label 0 is the networks' class 0"),
        ),
    ] {
        let mut table = "file_name,label\n".to_owned();
        for (number, label) in labels.iter().enumerate() {
            put(&dir.path().join(format!("train/{number}.png")), &plain(1));
            table.push_str(&format!("{number}.png,{label}\n"));
        }
        put(&dir.path().join("train/metadata.csv"), table.as_bytes());
        let dataset = open(dir.path()).unwrap();
        assert_eq!(dataset.notes(), note.map(str::to_owned).into_iter().collect::<Vec<_>>());
        assert_eq!(dataset.classes().count, 3);
    }
}

#[test]
fn splits_are_never_taken_for_classes() {
    let images = |paths: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            put(&dir.path().join(path), &plain(1));
        }
        dir
    };
    let without_classes = ["train/1.png", "train/2.png", "test/3.png"];
    for (table, lack) in [
        ("filename,class\ntrain/1.png,a\n", "has no column file_name"),
        ("file_name;label\ntrain/1.png;a\n", "which commas separate, are: file_name;label"),
        ("file_name,grade\ntrain/1.png,a\n", "dataset.label_column names no other"),
    ] {
        for place in ["metadata.csv", "train/metadata.csv"] {
            let dir = images(&without_classes);
            put(&dir.path().join(place), table.as_bytes());
            let message = refusal(dir.path());
            assert!(message.contains(place) && message.contains(lack), "{place}: {message}");
        }
    }
    let message = refusal(images(&without_classes).path());
    assert!(message.contains("test and train hold images directly"), "{message}");
    // A class may have such a name among others, and a table may say something else than labels.
    let dir = images(&["train/1.png", "plane/2.png"]);
    put(&dir.path().join("metadata.csv"), b"file_name,caption\ntrain/1.png,a train\n");
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.classes().names.as_deref().unwrap(), ["plane", "train"]);
    assert!(
        dataset.notes()[0].starts_with("metadata.csv is passed over: it has no column label"),
        "{:?}",
        dataset.notes()
    );
}
