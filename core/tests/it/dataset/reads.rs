//! Promise: little more of a parquet file is read than is needed.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use distillery_core::dataset::{BLOCK, Dataset, DatasetOptions, KEPT_BYTES};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

const BLOCKS: usize = 32;
const IMAGE: usize = 4096;

/// One row group of incompressible noise, in pages of about a mebibyte.
fn write(path: &Path) {
    let schema = "message schema { required binary image; required int64 label; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_dictionary_enabled(false).set_compression(Compression::SNAPPY);
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties.build().into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut random = 0x5eed_u64;
    let mut byte = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 56) as u8
    };
    let images: Vec<ByteArray> =
        (0..BLOCKS * BLOCK).map(|_| ByteArray::from((0..IMAGE).map(|_| byte()).collect::<Vec<_>>())).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&images, None, None).unwrap();
    column.close().unwrap();
    let labels: Vec<i64> = (0..images.len() as i64).map(|row| row % 2).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&labels, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

fn bytes_read() -> u64 {
    let counters = fs::read_to_string("/proc/thread-self/io").unwrap();
    counters.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().trim().parse().unwrap()
}

#[test]
fn a_block_costs_its_pages_and_an_epoch_little_more_than_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train.parquet");
    write(&path);
    let size = fs::metadata(&path).unwrap().len();
    let images = Dataset::open(dir.path(), &DatasetOptions::default()).unwrap().split("train").unwrap();
    let block = (BLOCK * IMAGE) as u64;
    let cost = |fetch: &dyn Fn()| {
        let before = bytes_read();
        fetch();
        bytes_read() - before
    };
    let shuffled = || (0..BLOCKS).map(|number| number * 13 % BLOCKS);
    // Three blocks, and what counts besides the images.
    images.keep(4 * block);
    // The pages at both ends are read whole, and a header of each page before.
    let last = cost(&|| images.fetch(images.len() - 1));
    assert!(last >= block && last < 2 * block + (2 << 20), "{last} bytes for a block of {block}");
    // Not once for each block.
    let epoch = cost(&|| shuffled().for_each(|block| images.fetch(block * BLOCK)));
    assert!(epoch >= size / 2 && epoch < 3 * size, "{epoch} bytes of a file of {size}");
    // Only the last three are still there.
    let kept: Vec<usize> = shuffled().skip(BLOCKS - 3).collect();
    let again = cost(&|| kept.iter().for_each(|block| images.fetch(block * BLOCK + 1)));
    assert!(again < 10_000, "{again} bytes for blocks that are kept");
    assert!(cost(&|| images.fetch(0)) > block);
    images.keep(KEPT_BYTES);
    shuffled().for_each(|block| images.fetch(block * BLOCK));
    let again = cost(&|| shuffled().for_each(|block| images.fetch(block * BLOCK)));
    assert!(again < 10_000, "{again} bytes for blocks that are kept");
}
