//! Archives, made in memory.

use std::io::{Cursor, Write};
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Files by path.
pub type Files<'a> = [(&'a str, Vec<u8>)];

/// A PPM image of one colour.
pub fn ppm([red, green, blue]: [u8; 3]) -> Vec<u8> {
    let pixels = [red, green, blue].repeat(64);
    [b"P6 8 8 255\n".as_slice(), &pixels].concat()
}

/// Two classes of three images to train on, and one of each to evaluate on.
pub fn pets() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("train/cat/1.ppm", ppm([200, 10, 10])),
        ("train/cat/2.ppm", ppm([210, 10, 10])),
        ("train/cat/3.ppm", ppm([220, 10, 10])),
        ("train/dog/1.ppm", ppm([10, 10, 200])),
        ("train/dog/2.ppm", ppm([10, 10, 210])),
        ("train/dog/3.ppm", ppm([10, 10, 220])),
        ("test/cat/1.ppm", ppm([205, 10, 10])),
        ("test/dog/1.ppm", ppm([10, 10, 205])),
    ]
}

pub fn zip(files: &Files<'_>) -> Vec<u8> {
    zip_with(files, CompressionMethod::Deflated)
}

pub fn zip_with(files: &Files<'_>, method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, content) in files {
        writer.start_file(*path, SimpleFileOptions::default().compression_method(method)).expect("a new entry");
        writer.write_all(content).expect("memory");
    }
    writer.finish().expect("memory").into_inner()
}

/// A tar as GNU tar writes it. Names are not checked.
pub fn tar(files: &Files<'_>) -> Vec<u8> {
    let entries = files.iter().map(|(path, content)| entry(path.as_bytes(), b'0', content));
    ended(entries.collect())
}

/// The end of a tar behind its entries.
pub fn ended(entries: Vec<Vec<u8>>) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.extend([0; 1024]);
    bytes
}

/// An entry of a tar, of any type and with any name of at most 100 bytes.
pub fn entry(path: &[u8], kind: u8, content: &[u8]) -> Vec<u8> {
    announced(path, kind, content.len() as u64, content)
}

/// An entry that announces another size than it has.
pub fn announced(path: &[u8], kind: u8, size: u64, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o644);
    header.set_size(size);
    if matches!(kind, b'1' | b'2') {
        header.as_old_mut().linkname[..11].copy_from_slice(b"/etc/passwd");
    }
    header.set_cksum();
    let padding = content.len().next_multiple_of(512) - content.len();
    [header.as_bytes().as_slice(), content, &vec![0; padding]].concat()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).expect("memory")
}

/// A parquet shard of images with their labels.
pub fn parquet(rows: &[(Vec<u8>, i64)]) -> Vec<u8> {
    let schema = "message schema { optional group image { optional binary bytes; } optional int64 label; }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let mut bytes = Vec::new();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).expect("a schema");
    let mut group = writer.next_row_group().expect("memory");
    let images: Vec<ByteArray> = rows.iter().map(|(image, _)| image.clone().into()).collect();
    let mut column = group.next_column().expect("memory").expect("the first column");
    column.typed::<ByteArrayType>().write_batch(&images, Some(&vec![2; rows.len()]), None).expect("memory");
    column.close().expect("memory");
    let labels: Vec<i64> = rows.iter().map(|(_, label)| *label).collect();
    let mut column = group.next_column().expect("memory").expect("the second column");
    column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; rows.len()]), None).expect("memory");
    column.close().expect("memory");
    group.close().expect("memory");
    writer.close().expect("memory");
    bytes
}
