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
    assert_eq!(dataset.notes(), ["1 image that train/metadata.csv does not name is passed over"]);
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

#[test]
fn cells_that_are_no_labels_are_refused_with_their_line() {
    let csv = |label: &str| ("metadata.csv", format!("file_name,label\n1.png,a\n\n2.png,{label}\n"));
    let json = |label: &str| {
        let first = r#"{"file_name": "1.png", "label": "a"}"#;
        ("metadata.jsonl", format!("{first}\n\n\n{{\"file_name\": \"2.png\", \"label\": {label}}}\n"))
    };
    for ((name, table), fault) in [
        (csv(" "), "without a label: add it, or remove the row"),
        (csv("NaN"), "whose label is NaN, which stands for a missing one"),
        (csv(" nan "), "whose label is nan, which stands for a missing one"),
        (json("[0]"), "whose label is an array: labels are integers or text"),
        (json("{}"), "whose label is an object: labels are integers or text"),
        (json("null"), "whose label is null: labels are integers or text"),
        (json("true"), "whose label is true or false: labels are integers or text"),
        (json("0.5"), "whose label is a number that is no integer: labels are integers or text"),
        (json("1e300"), "whose label is a number that is no integer: labels are integers or text"),
        (json("\"\""), "without a label: add it, or remove the row"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for image in ["train/1.png", "train/2.png"] {
            put(&dir.path().join(image), &plain(1));
        }
        put(&dir.path().join("train").join(name), table.as_bytes());
        let wanted = format!("train/{name}: names \"2.png\" in line 4, {fault}");
        assert!(refusal(dir.path()).contains(&wanted), "{table}: {}", refusal(dir.path()));
    }
}

#[test]
fn columns_and_keys_that_are_there_twice_are_refused() {
    for (name, table, fault) in [
        (
            "metadata.csv",
            "file_name,label,label\n1.png,a,b\n",
            "has 2 columns that are called \"label\": remove or rename",
        ),
        (
            "metadata.csv",
            "file_name,Label,LABEL\n1.png,a,b\n",
            "has 2 columns that are called \"label\": remove or rename",
        ),
        ("metadata.csv", "file_name,file_name,label\n1.png,1.png,a\n", "has 2 columns that are called \"file_name\""),
        (
            "metadata.jsonl",
            "{\"file_name\": \"1.png\", \"label\": 0}\n{\"file_name\": \"2.png\", \"label\": 0, \"label\": 1}\n",
            "cannot be used in line 2: the key \"label\" appears twice in an object: remove one (column ",
        ),
        (
            "metadata.jsonl",
            "\n[\"1.png\", 0]\n",
            "cannot be used in line 2: it is no JSON object, as in {\"file_name\"",
        ),
        ("metadata.jsonl", "{\"file_name\": nan}\n", "cannot be used in line 1: expected "),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for image in ["train/1.png", "train/2.png"] {
            put(&dir.path().join(image), &plain(1));
        }
        put(&dir.path().join("train").join(name), table.as_bytes());
        let message = refusal(dir.path());
        assert!(message.contains(&format!("train/{name}: {fault}")), "{table}: {message}");
    }
    // A column that nobody reads may be there as often as it likes.
    let dir = tempfile::tempdir().unwrap();
    put(&dir.path().join("train/1.png"), &plain(1));
    put(&dir.path().join("train/metadata.csv"), b"file_name,label,,\n1.png,a,,\n");
    assert_eq!(open(dir.path()).unwrap().labels("train").unwrap(), [0]);
}

#[test]
fn tables_without_rows_say_so() {
    for (name, table, lack) in [
        ("metadata.csv", "", "is empty; write the columns file_name and label"),
        ("metadata.csv", "\n \n", "is empty; write the columns file_name and label"),
        ("metadata.jsonl", "\n", "is empty; write the columns file_name and label"),
        ("metadata.jsonl", "{}\n", "has no column file_name, which names the images; its columns are: none"),
        ("metadata.csv", "file_name,label\n", "has no rows below its columns; write one for each image"),
    ] {
        for at in ["train", ""] {
            let dir = tempfile::tempdir().unwrap();
            put(&dir.path().join(at).join("1.png"), &plain(1));
            put(&dir.path().join(at).join(name), table.as_bytes());
            let message = refusal(dir.path());
            assert!(message.contains(&format!("{name}: {lack}")), "{at} {table:?}: {message}");
            // Beside directories of classes it is not needed.
            for class in ["a", "b"] {
                put(&dir.path().join(at).join(class).join("1.png"), &plain(1));
            }
            let notes = open(dir.path()).unwrap().notes();
            let note = format!("{name} is passed over: it {lack}");
            assert!(notes.iter().any(|found| found.starts_with(&note)), "{notes:?}");
        }
    }
}

/// Notes of a data set of one table, which names all of its images.
fn notes(at: &str, rows: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut table = "file_name,label\n".to_owned();
    for (path, label) in rows {
        put(&dir.path().join(at).join(path), &plain(1));
        table.push_str(&format!("{path},{label}\n"));
    }
    put(&dir.path().join(at).join("metadata.csv"), table.as_bytes());
    open(dir.path()).unwrap().notes()
}

#[test]
fn labels_that_contradict_directories_of_classes_are_counted() {
    let agreeing = [("cat/1.png", "cat"), ("dog/2.png", "dog"), ("dog/more/3.png", "dog"), ("4.png", "dog")];
    assert!(notes("train", &agreeing).is_empty(), "{:?}", notes("train", &agreeing));
    let numbers = [("00/1.png", "0"), ("1/2.png", "1.0")];
    assert!(notes("train", &numbers).is_empty(), "{:?}", notes("train", &numbers));
    // One directory is none of classes, unless it is called so.
    let together = [("images/1.png", "cat"), ("images/2.png", "dog")];
    assert!(notes("train", &together).is_empty(), "{:?}", notes("train", &together));
    let said = |count: &str, example: &str, table: &str| {
        format!(
            "{count} images lie in a directory that is not called as their label, such as {example}: {table} decides, \
             and not the directories"
        )
    };
    let table = "train/metadata.csv";
    let swapped = [("cat/1.png", "dog"), ("dog/2.png", "cat"), ("dog/3.png", "dog"), ("4.png", "cat")];
    assert_eq!(notes("train", &swapped), [said("2 of 3", r#""dog/2.png" with the label "cat""#, table)]);
    let one = [("cat/1.png", "cat"), ("cat/2.png", "dog")];
    assert_eq!(notes("train", &one), [said("1 of 2", r#""cat/2.png" with the label "dog""#, table)]);
    let renamed = [("cat/1.png", "0"), ("dog/2.png", "1")];
    assert_eq!(notes("train", &renamed), [said("2 of 2", r#""cat/1.png" with the label "0""#, table)]);
    // Neither are splits.
    let whole = [("cat/1.png", "cat"), ("dog/2.png", "cat"), ("test/3.png", "cat")];
    let said = said("1 of 2", r#""dog/2.png" with the label "cat""#, "metadata.csv");
    assert!(notes("", &whole).contains(&said), "{:?}", notes("", &whole));
    let split = [("train/1.png", "cat"), ("train/2.png", "dog"), ("test/3.png", "cat")];
    assert!(notes("", &split).is_empty(), "{:?}", notes("", &split));
}

#[test]
fn labels_that_may_not_be_meant_as_they_stand_are_noted() {
    let rows = [("1.png", "01"), ("2.png", "1"), ("3.png", "1.0"), ("4.png", "0"), ("5.png", "2"), ("6.png", "2.0")];
    assert_eq!(
        notes("train", &rows),
        [format!(
            r#"5 different labels of train/metadata.csv are taken for 2 numbers, such as "01" and "1" for 1: {}"#,
            "each number is one class"
        )]
    );
    assert!(notes("train", &[("1.png", "00"), ("2.png", "01"), ("3.png", "00")]).is_empty());
    let words = notes("train", &[("1.png", "None"), ("2.png", "None"), ("3.png", "N/A"), ("4.png", "none")]);
    let said = |images: &str, word: &str| {
        format!(
            "{images} the label {word:?} in train/metadata.csv, which is taken for a class: if it is missing, remove such \
             rows"
        )
    };
    let alike = r#"classes whose names differ in case or blanks alone are different classes: "None" and "none""#;
    assert_eq!(words, [said("1 image has", "N/A"), said("2 images have", "None"), alike.to_owned()]);
}

#[test]
fn a_note_on_a_table_names_it_so_that_those_of_two_splits_differ() {
    let dir = tempfile::tempdir().unwrap();
    for split in ["train", "test"] {
        put(&dir.path().join(split).join("1.png"), &plain(1));
        put(&dir.path().join(split).join("2.png"), &plain(2));
        put(&dir.path().join(split).join("metadata.csv"), b"file_name,label\n1.png,01\n2.png,1\n");
    }
    let notes = open(dir.path()).unwrap().notes();
    for split in ["train", "test"] {
        let said = format!("2 different labels of {split}/metadata.csv are taken for 1 number");
        assert_eq!(notes.iter().filter(|note| note.starts_with(&said)).count(), 1, "{notes:?}");
    }
}

#[test]
fn tables_and_columns_that_are_passed_over_are_noted() {
    let set = |files: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            put(&dir.path().join(path), &if content.is_empty() { plain(1) } else { content.as_bytes().to_vec() });
        }
        open(dir.path()).unwrap().notes()
    };
    let json = "{\"file_name\": \"1.png\", \"label\": \"b\"}\n";
    let both =
        [("train/1.png", ""), ("train/metadata.csv", "file_name,label\n1.png,a\n"), ("train/metadata.jsonl", json)];
    assert_eq!(set(&both), ["train/metadata.jsonl is passed over: train/metadata.csv beside it is read"]);
    let captions =
        [("train/a/1.png", ""), ("train/metadata.csv", "file_name,text\na/1.png,x\n"), ("train/metadata.jsonl", json)];
    let neither = "metadata.csv is passed over: it has no column label, and dataset.label_column names no other; its \
                   columns, which commas separate, are: file_name, text; train/metadata.jsonl beside it is passed over \
                   too";
    assert_eq!(set(&captions), [neither]);
    let beside = [("train/a/1.png", ""), ("metadata.csv", "file_name,label\ntrain/a/1.png,b\n")];
    assert_eq!(
        set(&beside),
        [
            "metadata.csv is passed over: the directories of splits beside it say the labels. The table of a split lies in its directory"
        ]
    );
    let unread = |name: &str, count: u32| {
        format!(
            "the column \"split\" of {name} is passed over, which says another split of {count} images: splits are \
             directories, such as train/ and test/, and images in none of them are in the train split"
        )
    };
    let loose = "file_name,label,split\n1.png,a,train\n2.png,a,test\n3.png,b,val\n";
    let loose = set(&[("1.png", ""), ("2.png", ""), ("3.png", ""), ("metadata.csv", loose)]);
    let whole = "the directory has no splits: all of its images are in the train split".to_owned();
    assert_eq!(loose, [whole, unread("metadata.csv", 2)]);
    let inside = "file_name,label,split\n1.png,a,Train\n2.png,b,test\n";
    let inside = set(&[("train/1.png", ""), ("train/2.png", ""), ("train/metadata.csv", inside)]);
    assert_eq!(inside, [unread("train/metadata.csv", 1)]);
    let agreeing = "file_name,label,split\ntrain/1.png,a,train\ntest/2.png,a,test\n";
    assert_eq!(set(&[("train/1.png", ""), ("test/2.png", ""), ("metadata.csv", agreeing)]), [""; 0]);
    let some = "file_name,label\ntest/1.png,a\n2.png,a\n";
    let some = set(&[("test/1.png", ""), ("2.png", ""), ("metadata.csv", some)]);
    assert_eq!(some, ["1 image in no directory of a split is in the train split"]);
}
