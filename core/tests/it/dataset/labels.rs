//! Promise: the labels of parquet files are what their author calls the labels, in whatever way they are written, or
//! the data set is refused with advice that helps.

use std::fs;
use std::path::Path;

use distillery_core::dataset::{Dataset, DatasetOptions, Frame, plane_bytes};
use image::metadata::Orientation;
use image::{ImageFormat, Rgb, RgbImage};
use parquet::basic::Compression;

use super::parquet::{Column, png, write};
use super::support::{LFS_POINTER, encode, open, plain, put, read, refusal};

const PLAIN: Compression = Compression::UNCOMPRESSED;

fn images(rows: usize) -> Column {
    Column::Bytes((0..rows).map(|row| Some(png(row as u8, 0))).collect(), 1)
}

fn texts(values: &[&str]) -> Column {
    Column::Bytes(values.iter().map(|value| Some(value.as_bytes().to_vec())).collect(), 1)
}

fn numbers(values: &[i64]) -> Column {
    Column::Int64(values.iter().copied().map(Some).collect())
}

/// Writes a file of images with these further columns, and what Hugging Face's writer says about them.
fn shard(at: &Path, name: &str, columns: &str, features: Option<&str>, rows: usize, values: Vec<Column>) {
    let schema = format!("message schema {{ optional binary image; {columns} }}");
    let features = features.map(|features| format!(r#"{{"info": {{"features": {features}}}}}"#));
    let columns = [images(rows)].into_iter().chain(values).collect();
    write(&at.join(name), &schema, features.as_deref(), vec![columns], PLAIN);
}

const LABEL: &str = "optional int64 label;";

fn classes(names: &[&str]) -> String {
    format!(r#"{{"label": {{"names": {names:?}, "_type": "ClassLabel"}}}}"#)
}

fn names(dataset: &Dataset) -> Vec<String> {
    dataset.classes().names.clone().unwrap_or_default()
}

#[test]
fn labels_that_are_text_are_classes_in_alphabetical_order_whatever_integers_are_beside_them() {
    for other in ["id", "fold", "image_id", "width", "__index_level_0__"] {
        let dir = tempfile::tempdir().unwrap();
        let columns = format!("optional int64 {other}; optional binary label (UTF8);");
        let values = |ids: &[i64], labels: &[&str]| vec![numbers(ids), texts(labels)];
        let labels = ["red", "green", "blue", "red"];
        shard(dir.path(), "train.parquet", &columns, None, 4, values(&[0, 1, 2, 3], &labels));
        shard(dir.path(), "test.parquet", &columns, None, 2, values(&[4, 5], &["green", "red"]));
        let dataset = open(dir.path()).unwrap();
        assert_eq!(names(&dataset), ["blue", "green", "red"], "{other}");
        assert_eq!(dataset.labels("train").unwrap(), [2, 1, 0, 2]);
        assert_eq!(dataset.labels("test").unwrap(), [1, 2]);
        shard(dir.path(), "test.parquet", &columns, None, 2, values(&[4, 5], &["green", "pink"]));
        let message = open(dir.path()).unwrap().labels("test").unwrap_err().to_string();
        assert!(
            message.contains(r#"the label "pink" in the test split, which is no class of the train split"#),
            "{message}"
        );
    }
}

#[test]
fn whole_numbers_that_are_stored_as_floating_point_are_labels() {
    let dir = tempfile::tempdir().unwrap();
    let columns = "required double label;";
    shard(dir.path(), "train.parquet", columns, None, 3, vec![Column::Double(vec![1.0, 0.0, 1.0])]);
    assert_eq!(open(dir.path()).unwrap().labels("train").unwrap(), [1, 0, 1]);
    shard(dir.path(), "train.parquet", columns, None, 2, vec![Column::Double(vec![0.0, 0.5])]);
    assert!(refusal(dir.path()).contains("has the label 0.5: labels are whole numbers or text"));
}

#[test]
fn labels_may_count_from_1_and_the_networks_count_from_0() {
    let dir = tempfile::tempdir().unwrap();
    shard(dir.path(), "train.parquet", LABEL, None, 4, vec![numbers(&[3, 1, 2, 1])]);
    shard(dir.path(), "test.parquet", LABEL, None, 1, vec![numbers(&[3])]);
    let dataset = open(dir.path()).unwrap();
    assert_eq!((dataset.classes().count, dataset.labels("train").unwrap()), (3, vec![2, 0, 1, 0]));
    assert_eq!(dataset.labels("test").unwrap(), [2]);
    assert_eq!(dataset.notes(), ["the labels are 1 to 3: label 1 is the networks' class 0"]);
    shard(dir.path(), "test.parquet", LABEL, None, 2, vec![numbers(&[1, 0])]);
    let message = open(dir.path()).unwrap().labels("test").unwrap_err().to_string();
    assert!(
        message.contains(
            "image 1 of the test split has label 0, out of range: the data set has 3 classes, numbered from 1"
        )
    );
}

#[test]
fn splits_and_shards_that_number_their_classes_differently_are_matched_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let train = classes(&["red", "green", "blue"]);
    shard(dir.path(), "train-00000-of-00002.parquet", LABEL, Some(&train), 3, vec![numbers(&[0, 1, 2])]);
    let other = classes(&["blue", "green", "red"]);
    shard(dir.path(), "train-00001-of-00002.parquet", LABEL, Some(&other), 3, vec![numbers(&[0, 1, 2])]);
    shard(dir.path(), "test.parquet", LABEL, Some(&other), 2, vec![numbers(&[0, 2])]);
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.labels("train").unwrap(), [0, 1, 2, 2, 1, 0]);
    assert_eq!(dataset.labels("test").unwrap(), [2, 0]);
    let said = |split: &str| format!("the {split} split numbers its classes differently: they are matched by name");
    assert_eq!(dataset.notes(), [said("test"), said("train")]);
    // Names that no image has do no harm.
    let more = classes(&["red", "green", "blue", "pink"]);
    shard(dir.path(), "test.parquet", LABEL, Some(&more), 2, vec![numbers(&[0, 2])]);
    assert_eq!(open(dir.path()).unwrap().labels("test").unwrap(), [0, 2]);
    shard(dir.path(), "test.parquet", LABEL, Some(&more), 2, vec![numbers(&[0, 3])]);
    let message = open(dir.path()).unwrap().labels("test").unwrap_err().to_string();
    assert!(message.contains(r#"the label "pink" in the test split"#), "{message}");
    // Without names, numbers are all there is, which is said.
    shard(dir.path(), "test.parquet", LABEL, None, 2, vec![numbers(&[0, 2])]);
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.labels("test").unwrap(), [0, 2]);
    let note = "1 of 1 files of the test split do not name the classes: they are taken by number";
    assert!(dataset.notes().contains(&note.to_owned()), "{:?}", dataset.notes());
    let twice = classes(&["red", "red"]);
    shard(dir.path(), "train-00000-of-00002.parquet", LABEL, Some(&twice), 3, vec![numbers(&[0, 1, 0])]);
    assert!(refusal(dir.path()).contains(r#"names the class "red" twice"#));
}

#[test]
fn text_and_numbers_are_not_mixed_up() {
    let dir = tempfile::tempdir().unwrap();
    let text = "optional binary label (UTF8);";
    shard(dir.path(), "train.parquet", text, None, 2, vec![texts(&["a", "b"])]);
    shard(dir.path(), "test.parquet", LABEL, None, 2, vec![numbers(&[0, 1])]);
    let message = open(dir.path()).unwrap().labels("test").unwrap_err().to_string();
    assert!(message.contains("has numbers as labels, and the train split has text"), "{message}");
    // Text is matched with names.
    shard(dir.path(), "train.parquet", LABEL, Some(&classes(&["b", "a"])), 2, vec![numbers(&[0, 1])]);
    shard(dir.path(), "test.parquet", text, None, 2, vec![texts(&["a", "b"])]);
    assert_eq!(open(dir.path()).unwrap().labels("test").unwrap(), [1, 0]);
    shard(dir.path(), "train-1.parquet", text, None, 2, vec![texts(&["a", "b"])]);
    shard(dir.path(), "train.parquet", LABEL, None, 2, vec![numbers(&[0, 1])]);
    assert!(refusal(dir.path()).contains("has labels of another type than"));
}

#[test]
fn advice_names_the_column_that_is_called_label() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let columns = "optional int64 width; optional int64 height; required boolean label;";
    let values = || vec![numbers(&[4, 4]), numbers(&[4, 4]), Column::Boolean(vec![true, false])];
    shard(at, "train.parquet", columns, None, 2, values());
    let message = refusal(at);
    assert!(message.contains(r#"has the column "label", which holds true and false"#), "{message}");
    let options = DatasetOptions { label_column: Some("label".to_owned()), ..DatasetOptions::default() };
    let message = Dataset::open(at, &options).unwrap_err().to_string();
    assert!(
        message.contains(r#"has the column "label", but it holds true and false, not the label (integer or text); such columns are: width, height"#),
        "{message}"
    );
    // The only number is not taken for the label where it usually says something else, or there is text.
    shard(at, "train.parquet", "optional int64 id;", None, 2, vec![numbers(&[0, 1])]);
    assert!(refusal(at).contains(r#"if "id" holds the labels, set label_column to it"#));
    let columns = "optional int64 kind; optional binary species (UTF8);";
    shard(at, "train.parquet", columns, None, 2, vec![numbers(&[0, 1]), texts(&["a", "b"])]);
    assert!(refusal(at).contains("several columns that could hold the label: kind, species; set label_column"));
}

#[test]
fn a_number_that_is_different_for_every_image_is_not_guessed_to_be_the_label() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<i64> = (0..20).collect();
    shard(dir.path(), "train.parquet", "optional int64 number;", None, 20, vec![numbers(&rows)]);
    assert!(refusal(dir.path()).contains(r#"has a different "number" for every image, which is not a class"#));
    let few: Vec<i64> = (0..20).map(|row| row % 5).collect();
    shard(dir.path(), "train.parquet", "optional int64 digit;", None, 20, vec![numbers(&few)]);
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.classes().count, 5);
    assert_eq!(dataset.notes(), [r#"the labels of the train split are the column "digit""#]);
}

#[test]
fn a_null_image_is_left_out_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut column: Vec<Option<Vec<u8>>> = (0..120).map(|row| Some(png(row, 0))).collect();
    column[7] = None;
    let labels: Vec<i64> = (0..120).map(|row| row % 3).collect();
    let schema = "message schema { optional binary image; optional int64 label; }";
    let values = vec![Column::Bytes(column, 1), numbers(&labels)];
    write(&dir.path().join("train.parquet"), schema, None, vec![values], PLAIN);
    let images = open(dir.path()).unwrap().split("train").unwrap();
    let mut planes = vec![0; plane_bytes(4)];
    for index in 0..120 {
        match images.read(index, &Frame::Whole, 4, &mut planes) {
            Ok(()) => assert_eq!(usize::from(planes[0]), index),
            Err(error) => {
                assert_eq!(index, 7, "{error}");
                assert!(error.to_string().contains("image 7 of the split has no bytes: it is null"), "{error}");
            }
        }
    }
}

#[test]
fn shards_of_two_generations_are_refused_by_name() {
    let columns = || vec![numbers(&[0, 1, 0])];
    for (one, other) in [
        ("train-00000-of-00001-aa.parquet", "train-00000-of-00002-bb.parquet"),
        ("train-00000-of-00002-aa.parquet", "train-00000-of-00002-bb.parquet"),
        ("train-00000-of-00002.parquet", "train.parquet"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for name in [one, other, "train-00001-of-00002-bb.parquet"] {
            shard(dir.path(), name, LABEL, None, 3, columns());
        }
        let message = refusal(dir.path());
        let names_both = message.contains(one) && (message.contains(other) || message.contains("00001-of-00002-bb"));
        assert!(names_both && message.contains("two generations"), "{message}");
    }
}

#[test]
fn files_that_belong_to_no_split_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for split in ["train", "test"] {
        shard(at, &format!("{split}-00000-of-00001.parquet"), LABEL, None, 2, vec![numbers(&[0, 1])]);
    }
    let schema = "message schema { optional int64 box; }";
    write(&at.join("annotations.parquet"), schema, None, vec![vec![numbers(&[1])]], PLAIN);
    let dataset = open(at).unwrap();
    assert_eq!(dataset.splits(), ["test", "train"]);
    assert_eq!(
        dataset.notes(),
        [
            "the annotations split is passed over: annotations.parquet has no image column (a struct with bytes, or binary)"
        ]
    );
    let message = dataset.labels("annotations").unwrap_err().to_string();
    assert!(message.contains("has no image column"), "{message}");
    // A split without labels says so where somebody wants it, and is in nobody's way otherwise.
    shard(at, "validation.parquet", LABEL, None, 2, vec![numbers(&[0, 1])]);
    shard(at, "test-00000-of-00001.parquet", "", None, 2, vec![]);
    let dataset = open(at).unwrap();
    assert!(
        dataset.eval_split(None).unwrap_err().to_string().contains("test-00000-of-00001.parquet: has no label column")
    );
    assert_eq!(dataset.eval_split(Some("validation")).unwrap(), "validation");
    // Beside a folder of images such a file means nothing.
    let dir = tempfile::tempdir().unwrap();
    put(&dir.path().join("train/a/1.png"), &png(1, 1));
    write(&dir.path().join("annotations.parquet"), schema, None, vec![vec![numbers(&[1])]], PLAIN);
    assert_eq!(open(dir.path()).unwrap().splits(), ["train"]);
}

#[test]
fn git_lfs_pointers_are_named_as_such() {
    for name in ["train-00000-of-00001.parquet", "data/train.parquet", "train.bin", "data_batch_1.bin"] {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join(name), LFS_POINTER);
        let result = open(dir.path()).and_then(|dataset| dataset.labels("train"));
        let message = result.unwrap_err().to_string();
        assert!(message.contains("is a Git LFS pointer") && message.contains("git lfs pull"), "{name}: {message}");
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"] {
        fs::write(dir.path().join(name), LFS_POINTER).unwrap();
    }
    assert!(refusal(dir.path()).contains("train-labels-idx1-ubyte.gz: is a Git LFS pointer"));
}

/// A JPEG of 8×4 pixels, dark on the left, that is to be turned.
fn turned(orientation: u8) -> Vec<u8> {
    let image = RgbImage::from_fn(8, 4, |x, _| if x < 4 { Rgb([0; 3]) } else { Rgb([255; 3]) });
    let jpeg = encode(image, ImageFormat::Jpeg);
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let length = (exif.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat()
}

#[test]
fn images_in_parquet_are_turned_upright_as_datasets_does_and_those_in_folders_are_not_as_torchvision_does() {
    assert_eq!(Orientation::from_exif(6), Some(Orientation::Rotate90));
    let bright = |planes: Vec<u8>| -> Vec<bool> { planes[..16].iter().map(|value| *value > 128).collect() };
    let dir = tempfile::tempdir().unwrap();
    let schema = "message schema { optional binary image; optional int64 label; }";
    let columns = vec![Column::Bytes(vec![Some(turned(1)), Some(turned(6))], 1), numbers(&[0, 0])];
    write(&dir.path().join("train.parquet"), schema, None, vec![columns], PLAIN);
    let dataset = open(dir.path()).unwrap();
    let right = [false, false, true, true].repeat(4);
    assert_eq!(bright(read(&dataset, "train", 0, 4).unwrap()), right);
    // Turned clockwise, the left side is the upper one.
    let below = [[false; 8], [true; 8]].concat();
    assert_eq!(bright(read(&dataset, "train", 1, 4).unwrap()), below);
    let folder = tempfile::tempdir().unwrap();
    put(&folder.path().join("train/a/1.jpg"), &turned(6));
    assert_eq!(bright(read(&open(folder.path()).unwrap(), "train", 0, 4).unwrap()), right);
}

#[test]
fn classes_whose_names_differ_in_case_alone_are_noted() {
    let dir = tempfile::tempdir().unwrap();
    for class in ["Cat", "cat", "dog", "Dog", "cow"] {
        put(&dir.path().join(format!("train/{class}/1.png")), &plain(1));
    }
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.classes().count, 5);
    let note = "classes whose names differ in case or blanks alone are different classes: \"Cat\" and \"cat\", and 1 \
                more pair";
    assert_eq!(dataset.notes(), [note]);
}

#[test]
fn text_in_two_unicode_normal_forms_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let text = "optional binary label (UTF8);";
    shard(dir.path(), "train.parquet", text, None, 2, vec![texts(&["caf\u{e9}", "cafe\u{301}"])]);
    let message = refusal(dir.path());
    assert!(message.contains("has the label \"caf\u{e9}\" in two Unicode normal forms"), "{message}");
    shard(dir.path(), "train.parquet", text, None, 2, vec![texts(&["caf\u{e9}", "dog"])]);
    shard(dir.path(), "test.parquet", text, None, 2, vec![texts(&["cafe\u{301}", "dog"])]);
    let message = open(dir.path()).unwrap().labels("test").unwrap_err().to_string();
    assert!(message.contains("which the train split writes in another Unicode normal form"), "{message}");
}
