//! Promise: Hugging Face's parquet shards can be read whatever their columns are called, from many threads, in little
//! memory.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use distillery_core::dataset::{Dataset, DatasetFormat, DatasetOptions, Error, Frame, KEPT_BYTES, plane_bytes};
use image::{ImageFormat, Rgb, RgbImage};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use rayon::prelude::*;

pub(super) fn png(red: u8, green: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(4, 4, Rgb([red, green, 9])).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// One leaf column of a row group; None is a null.
pub(super) enum Column {
    Bytes(Vec<Option<Vec<u8>>>, i16),
    Int64(Vec<Option<i64>>),
    Int32(Vec<i32>),
    Double(Vec<f64>),
    Boolean(Vec<bool>),
}

pub(super) fn write(
    path: &Path,
    schema: &str,
    names: Option<&str>,
    groups: Vec<Vec<Column>>,
    compression: Compression,
) {
    let metadata = names.map(|names| vec![KeyValue::new("huggingface".to_owned(), names.to_owned())]);
    let properties = WriterProperties::builder().set_compression(compression).set_key_value_metadata(metadata);
    write_as(path, schema, groups, properties.build());
}

fn write_as(path: &Path, schema: &str, groups: Vec<Vec<Column>>, properties: WriterProperties) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    for columns in groups {
        let mut group = writer.next_row_group().unwrap();
        for column in columns {
            let mut leaf = group.next_column().unwrap().unwrap();
            match column {
                Column::Bytes(values, depth) => {
                    let levels: Vec<i16> = values.iter().map(|value| if value.is_some() { depth } else { 0 }).collect();
                    let values: Vec<ByteArray> = values.into_iter().flatten().map(ByteArray::from).collect();
                    leaf.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
                }
                Column::Int64(values) => {
                    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
                    let values: Vec<i64> = values.into_iter().flatten().collect();
                    leaf.typed::<Int64Type>().write_batch(&values, Some(&levels), None).unwrap();
                }
                Column::Int32(values) => {
                    leaf.typed::<Int32Type>().write_batch(&values, None, None).unwrap();
                }
                Column::Double(values) => {
                    leaf.typed::<DoubleType>().write_batch(&values, None, None).unwrap();
                }
                Column::Boolean(values) => {
                    leaf.typed::<BoolType>().write_batch(&values, None, None).unwrap();
                }
            }
            leaf.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// The layout of the published CIFAR-100: a struct of bytes and path, a fine and a coarse label.
const CIFAR: &str = "message schema {
    optional group img { optional binary bytes; optional binary path (UTF8); }
    optional int64 fine_label; optional int64 coarse_label;
}";

fn cifar_group(start: usize, rows: usize) -> Vec<Column> {
    let range = start..start + rows;
    vec![
        Column::Bytes(range.clone().map(|row| Some(png(row as u8, (row >> 8) as u8))).collect(), 2),
        Column::Bytes(vec![None; rows], 2),
        Column::Int64(range.clone().map(|row| Some((row % 5) as i64)).collect()),
        Column::Int64(range.map(|row| Some((row % 2) as i64)).collect()),
    ]
}

const NAMES: &str = r#"{"info": {"features": {"img": {"_type": "Image"},
    "fine_label": {"names": ["ant", "bee", "cat", "dog", "elk"], "_type": "ClassLabel"},
    "coarse_label": {"names": ["insect", "mammal"], "_type": "ClassLabel"}}}}"#;

fn cifar(at: &Path) {
    let plain = Compression::UNCOMPRESSED;
    let groups = |start: usize| vec![cifar_group(start, 60), cifar_group(start + 60, 40)];
    write(&at.join("train-00000-of-00003.parquet"), CIFAR, Some(NAMES), groups(0), plain);
    write(&at.join("train-00001-of-00003.parquet"), CIFAR, Some(NAMES), groups(100), plain);
    write(&at.join("train-00002-of-00003.parquet"), CIFAR, Some(NAMES), groups(200), Compression::SNAPPY);
    let zstd = Compression::ZSTD(ZstdLevel::default());
    write(&at.join("test-00000-of-00001.parquet"), CIFAR, Some(NAMES), vec![cifar_group(7, 3)], zstd);
}

fn open(at: &Path) -> Result<Dataset, Error> {
    Dataset::open(at, &DatasetOptions::default())
}

fn label_column(name: &str) -> DatasetOptions {
    DatasetOptions { label_column: Some(name.to_owned()), ..DatasetOptions::default() }
}

fn image_column(name: &str) -> DatasetOptions {
    DatasetOptions { image_column: Some(name.to_owned()), ..DatasetOptions::default() }
}

#[test]
fn shards_are_read_in_order_and_from_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    cifar(dir.path());
    let dataset = open(dir.path()).unwrap();
    assert_eq!(
        (dataset.format(), dataset.splits()),
        (DatasetFormat::Parquet, vec!["test".to_owned(), "train".to_owned()])
    );
    assert_eq!(dataset.classes().names.as_deref().unwrap(), ["ant", "bee", "cat", "dog", "elk"]);
    let images = dataset.split("train").unwrap();
    assert_eq!(images.labels(), (0..300).map(|row| row % 5).collect::<Vec<u32>>());
    // Every image, in an order that jumps between shards and groups.
    (0..3_000_usize).into_par_iter().for_each(|at| {
        let index = at * 7919 % 300;
        let mut planes = vec![0; plane_bytes(4)];
        images.read(index, &Frame::Whole, 4, &mut planes).unwrap();
        assert_eq!((planes[0], planes[16], planes[47]), (index as u8, (index >> 8) as u8, 9), "{index}");
    });
    assert_eq!(dataset.split("test").unwrap().labels(), [2, 3, 4]);
    let summary = dataset.summary().unwrap();
    assert_eq!((summary.images, summary.classes, summary.splits[1].images), (303, 5, 300));
}

#[test]
fn groups_larger_and_smaller_than_a_block_are_read_in_any_order_in_any_memory() {
    let dir = tempfile::tempdir().unwrap();
    let groups = || vec![cifar_group(0, 1300), cifar_group(1300, 3), cifar_group(1303, 700)];
    let builder = || WriterProperties::builder().set_write_batch_size(50);
    // A dictionary of all images, pages of a hundred, and one page.
    for properties in [
        builder().set_data_page_row_count_limit(100),
        builder().set_dictionary_enabled(false).set_data_page_row_count_limit(100).set_compression(Compression::SNAPPY),
        builder().set_dictionary_enabled(false).set_writer_version(WriterVersion::PARQUET_2_0),
    ] {
        write_as(&dir.path().join("train.parquet"), CIFAR, groups(), properties.build());
        let images = open(dir.path()).unwrap().split("train").unwrap();
        assert!(images.packed_bytes() > 2003 * 60);
        // Nothing is kept: each image unpacks its block again.
        for (kept, reads) in [(KEPT_BYTES, 4_006), (0, 500)] {
            images.keep(kept);
            (0..reads).into_par_iter().for_each(|at: usize| {
                let index = at * 7919 % 2003;
                let mut planes = vec![0; plane_bytes(4)];
                if at.is_multiple_of(100) {
                    images.fetch(2002 - index);
                }
                images.read(index, &Frame::Whole, 4, &mut planes).unwrap();
                assert_eq!((planes[0], planes[16], planes[47]), (index as u8, (index >> 8) as u8, 9), "{index}");
            });
        }
    }
}

#[test]
fn another_label_column_brings_its_own_names() {
    let dir = tempfile::tempdir().unwrap();
    cifar(&dir.path().join("data"));
    let dataset = Dataset::open(dir.path(), &label_column("coarse_label")).unwrap();
    assert_eq!(dataset.classes().names.as_deref().unwrap(), ["insect", "mammal"]);
    assert_eq!(dataset.split("test").unwrap().labels(), [1, 0, 1]);
    let message = Dataset::open(dir.path(), &label_column("label")).unwrap_err().to_string();
    assert!(
        message.contains("no label column \"label\" (integer or text); such columns are: fine_label, coarse_label"),
        "{message}"
    );
    let message = Dataset::open(dir.path(), &image_column("picture")).unwrap_err().to_string();
    assert!(message.contains("no image column \"picture\"") && message.ends_with("such columns are: img"), "{message}");
}

/// One file of that schema with one group.
fn single(schema: &str, columns: Vec<Column>) -> (tempfile::TempDir, Result<Dataset, Error>) {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("train.parquet"), schema, None, vec![columns], Compression::UNCOMPRESSED);
    let dataset = open(dir.path());
    (dir, dataset)
}

fn images(rows: usize, depth: i16) -> Column {
    Column::Bytes((0..rows).map(|row| Some(png(row as u8, 0))).collect(), depth)
}

#[test]
fn columns_are_told_from_the_schema() {
    // A plain binary column, 32-bit labels that are required, and columns that are no candidates.
    let schema = "message schema { optional binary pixels; required int32 class; optional binary text (UTF8);
        required int32 day (DATE); }";
    let columns =
        vec![images(3, 1), Column::Int32(vec![0, 2, 1]), Column::Bytes(vec![None; 3], 1), Column::Int32(vec![5; 3])];
    let (_dir, dataset) = single(schema, columns);
    let dataset = dataset.unwrap();
    assert_eq!((dataset.classes().count, &dataset.classes().names), (3, &None));
    assert_eq!(dataset.split("train").unwrap().labels(), [0, 2, 1]);

    let schema = "message schema { optional binary a; optional binary b; optional int64 label; optional int64 id; }";
    let labels = || Column::Int64(vec![Some(0), Some(1)]);
    let (dir, dataset) = single(schema, vec![images(2, 1), images(2, 1), labels(), labels()]);
    let message = dataset.unwrap_err().to_string();
    assert!(message.contains("could hold the image: a, b; set image_column"), "{message}");
    assert!(Dataset::open(dir.path(), &image_column("b")).is_ok());

    let schema = "message schema { optional binary image; optional int64 x; optional int64 y; }";
    let (dir, dataset) = single(schema, vec![images(2, 1), labels(), labels()]);
    let message = dataset.unwrap_err().to_string();
    assert!(message.contains("could hold the label: x, y; set label_column"), "{message}");
    assert!(Dataset::open(dir.path(), &label_column("y")).is_ok());

    let (_dir, dataset) = single("message schema { optional binary image; }", vec![images(2, 1)]);
    assert!(dataset.unwrap_err().to_string().contains("has no label column (integer or text)"));
    let (_dir, dataset) = single("message schema { optional int64 label; }", vec![labels()]);
    assert!(dataset.unwrap_err().to_string().contains("has no image column"));
}

#[test]
fn rows_that_cannot_be_used_say_why() {
    let schema = "message schema { optional binary image; optional int64 label; }";
    let labelled = |labels: Vec<Option<i64>>| single(schema, vec![images(labels.len(), 1), Column::Int64(labels)]);
    let refusal = |labels| {
        let (_dir, dataset) = labelled(labels);
        dataset.and_then(|dataset| dataset.split("train").map(drop)).unwrap_err().to_string()
    };
    assert!(refusal(vec![Some(0), Some(-1)]).contains("the split has no labels"));
    assert!(refusal(vec![Some(0), Some(1 << 40)]).contains("has the label 1099511627776"));
    assert!(refusal(vec![Some(0), None]).contains("1 rows in row group 0 without a label"));
    assert!(refusal(vec![Some(0), Some(2)]).contains("no label 1"));
    assert!(refusal(vec![Some(2), Some(2)]).contains("no label 1"));
    assert!(refusal(vec![]).contains("contains no images"));

    let labels = Column::Int64(vec![Some(0), Some(1)]);
    let (_dir, dataset) = single(schema, vec![Column::Bytes(vec![Some(png(1, 1)), None], 1), labels]);
    let images = dataset.unwrap().split("train").unwrap();
    images.read(0, &Frame::Whole, 4, &mut vec![0; plane_bytes(4)]).unwrap();
    let message = images.read(1, &Frame::Whole, 4, &mut vec![0; plane_bytes(4)]).unwrap_err().to_string();
    assert!(message.contains("image 1 of the split has no bytes") && message.contains("embedded images"), "{message}");

    let labels = Column::Int64(vec![Some(0), Some(1)]);
    let (_dir, dataset) = single(schema, vec![Column::Bytes(vec![Some(png(1, 1)), Some(b"no".to_vec())], 1), labels]);
    let images = dataset.unwrap().split("train").unwrap();
    images.read(0, &Frame::Whole, 4, &mut vec![0; plane_bytes(4)]).unwrap();
    let message = images.read(1, &Frame::Whole, 4, &mut vec![0; plane_bytes(4)]).unwrap_err().to_string();
    assert!(message.contains("image 1 of the split is not a PNG"), "{message}");
}

#[test]
fn labels_beyond_the_named_classes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let names = NAMES.replace(", \"elk\"", "");
    let path = dir.path().join("train-00000-of-00001.parquet");
    write(&path, CIFAR, Some(&names), vec![cifar_group(0, 5)], Compression::UNCOMPRESSED);
    let message = open(dir.path()).unwrap().split("train").unwrap_err().to_string();
    assert!(message.contains("image 4 of the train split has label 4, out of range"), "{message}");
}

#[test]
fn a_missing_shard_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    cifar(dir.path());
    fs::remove_file(dir.path().join("train-00001-of-00003.parquet")).unwrap();
    let message = open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("shard 1 of 3 of the train split is missing"), "{message}");
}

#[test]
fn damaged_shards_are_refused_and_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train-00000-of-00001.parquet");
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default())] {
        write(&path, CIFAR, Some(NAMES), vec![cifar_group(0, 5), cifar_group(5, 3)], compression);
        let whole = fs::read(&path).unwrap();
        let attempt = || {
            let images = open(dir.path())?.split("train")?;
            (0..images.len()).try_for_each(|index| images.read(index, &Frame::Whole, 4, &mut vec![0; plane_bytes(4)]))
        };
        attempt().unwrap();
        for length in (0..whole.len()).step_by(7) {
            fs::write(&path, &whole[..length]).unwrap();
            let error = attempt().unwrap_err();
            assert!(error.is_users() && error.to_string().contains("train-00000"), "{length}: {error}");
        }
        let mut random = 0x5eed_u64;
        let mut below = |end: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % end
        };
        for _ in 0..1_000 {
            let mut bytes = whole.clone();
            for _ in 0..=below(4) {
                let at = below(bytes.len());
                bytes[at] = below(256) as u8;
            }
            fs::write(&path, bytes).unwrap();
            drop(attempt());
        }
    }
}
