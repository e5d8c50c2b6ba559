//! Promise: a name of a class in several Unicode normal forms, as macOS and other systems write accents, is one class,
//! and what was united is said.

use super::support::{open, plain, put, reds};

/// `café`, composed and decomposed.
const NFC: &str = "caf\u{e9}";
const NFD: &str = "cafe\u{301}";

#[track_caller]
fn assert_says(notes: &[String], said: &str) {
    assert!(notes.iter().any(|note| note.contains(said)), "{said:?} in {notes:?}");
}

#[test]
fn directories_whose_names_look_the_same_are_one_class() {
    let dir = tempfile::tempdir().unwrap();
    let train = [(format!("{NFC}/1.png"), 1), (format!("{NFD}/2.png"), 2), ("dog/3.png".to_owned(), 3)];
    for (path, red) in &train {
        put(&dir.path().join("train").join(path), &plain(*red));
    }
    put(&dir.path().join(format!("test/{NFC}/4.png")), &plain(4));
    put(&dir.path().join("test/dog/5.png"), &plain(5));
    let dataset = open(dir.path()).unwrap();
    // The first by name, as it is written: the order stays that of torchvision.
    assert_eq!(dataset.classes().names.as_deref().unwrap(), [NFD, "dog"]);
    assert_eq!((dataset.labels("train").unwrap(), reds(&dataset, "train")), (vec![0, 0, 1], vec![2, 1, 3]));
    assert_eq!((dataset.labels("test").unwrap(), reds(&dataset, "test")), (vec![0, 1], vec![4, 5]));
    let notes = dataset.notes();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert_says(&notes, "train has the class \"caf\u{e9}\" in several Unicode normal forms: it is one class");
    assert_says(&notes, "the test split writes 1 class in another Unicode normal form than the train split");
}

#[test]
fn names_in_one_form_keep_the_order_of_their_bytes_and_are_not_mentioned() {
    let dir = tempfile::tempdir().unwrap();
    // Composed, the first would come last.
    for (path, red) in [(format!("{NFD}/1.png"), 1), ("cafz/2.png".to_owned(), 2)] {
        put(&dir.path().join("train").join(path), &plain(red));
    }
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.classes().names.as_deref().unwrap(), [NFD, "cafz"]);
    assert_eq!(dataset.notes(), Vec::<String>::new());
}

#[test]
fn a_split_of_another_name_whose_classes_are_in_the_other_form_is_one_with_labels() {
    let dir = tempfile::tempdir().unwrap();
    put(&dir.path().join(format!("train/{NFC}/1.png")), &plain(1));
    put(&dir.path().join("train/dog/2.png"), &plain(2));
    put(&dir.path().join(format!("unseen/{NFD}/3.png")), &plain(3));
    put(&dir.path().join("unseen/loose.png"), &plain(4));
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.splits(), ["train", "unseen"]);
    assert_eq!((dataset.labels("unseen").unwrap(), reds(&dataset, "unseen")), (vec![0], vec![3]));
}

#[test]
fn a_table_may_write_labels_and_files_in_other_forms_than_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    for (file, red) in [("e\u{301}.png", 1), ("2.png", 2), ("3.png", 3)] {
        put(&dir.path().join("train").join(file), &plain(red));
    }
    let table = format!("file_name,label\n\u{e9}.png,{NFC}\n2.png,{NFD}\n3.png,dog\n");
    put(&dir.path().join("train/metadata.csv"), table.as_bytes());
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.classes().names.as_deref().unwrap(), [NFD, "dog"]);
    assert_eq!((dataset.labels("train").unwrap(), reds(&dataset, "train")), (vec![0, 0, 1], vec![2, 1, 3]));
    let notes = dataset.notes();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert_says(&notes, "train/metadata.csv has the class \"caf\u{e9}\" in several Unicode normal forms");
    assert_says(&notes, "train/metadata.csv names 1 file in another Unicode normal form than the disk");
}

#[test]
fn one_file_that_a_table_names_in_two_forms_is_named_twice() {
    let dir = tempfile::tempdir().unwrap();
    put(&dir.path().join("train/e\u{301}.png"), &plain(1));
    put(&dir.path().join("train/metadata.csv"), "file_name,label\n\u{e9}.png,a\ne\u{301}.png,b\n".as_bytes());
    assert!(open(dir.path()).unwrap_err().to_string().contains("which an earlier row names too"));
}
