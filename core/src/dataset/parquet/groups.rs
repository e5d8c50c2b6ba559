//! Reads labels and encoded images from row groups. Only the pages that contain the wanted rows are decoded.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use ::parquet::column::reader::ColumnReader;
use ::parquet::data_type::{ByteArray, DataType};
use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::metadata::page_index::RowGroupPageIndex;
use ::parquet::file::properties::ReaderProperties;
use ::parquet::file::reader::{ChunkReader, Length, RowGroupReader};
use ::parquet::file::serialized_reader::SerializedRowGroupReader;
use bytes::Bytes;

use super::super::Error;
use super::{ShardFile, guarded, reopen};

/// A file that is read by position. The parquet crate's reader for [`File`] uses a file offset shared by all clones.
#[derive(Debug, Clone)]
pub(super) struct PositionedFile {
    file: Arc<File>,
    length: u64,
}

impl PositionedFile {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = reopen(path)?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        Ok(Self { file: Arc::new(file), length })
    }
}

impl Length for PositionedFile {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for PositionedFile {
    type T = io::BufReader<PositionedReader>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(io::BufReader::new(PositionedReader { file: Arc::clone(&self.file), position: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        // Checked before memory is allocated for the length that the file claims.
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(ParquetError::EOF("the file ends before its content".to_owned()));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// A reader with its own position in a shared file.
#[derive(Debug)]
pub(super) struct PositionedReader {
    file: Arc<File>,
    position: u64,
}

impl Read for PositionedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// The values of a column; a null is `None`.
type Nullable<T> = Vec<Option<<T as DataType>::T>>;

/// Reads rows of a column of a row group.
fn column<T: DataType>(
    shard: &ShardFile,
    (group, rows): (usize, Range<usize>),
    leaf: usize,
    typed: fn(ColumnReader) -> Option<::parquet::column::reader::ColumnReaderImpl<T>>,
) -> Result<Nullable<T>, Error> {
    let metadata = shard.metadata.row_group(group);
    let file = Arc::new(PositionedFile::open(&shard.path)?);
    let present = metadata.column(leaf).column_descr().max_def_level();
    let read = || -> ParquetResult<Option<(Nullable<T>, usize)>> {
        let properties = Arc::new(ReaderProperties::builder().build());
        let reader = SerializedRowGroupReader::new(file, metadata, RowGroupPageIndex::new(group, None), properties)?;
        let Some(mut reader) = typed(reader.get_column_reader(leaf)?) else { return Ok(None) };
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        // Skipping reads only the headers of earlier pages.
        let skipped = reader.skip_records(rows.start)?;
        let (records, _, _) = reader.read_records(rows.len(), Some(&mut levels), None, &mut values)?;
        let values = values.into_iter();
        let values = if present == 0 {
            values.map(Some).collect()
        } else {
            let mut values = values;
            levels.into_iter().map(|level| if level == present { values.next() } else { None }).collect()
        };
        Ok(Some((values, skipped + records)))
    };
    let invalid = |message: String| Err(Error::invalid(&shard.path, message));
    match guarded(&shard.path, read)? {
        None => {
            invalid(format!("has a column in row group {group} whose type differs from the schema: download it again"))
        }
        Some((values, records)) if records < rows.end || values.len() < rows.len() => {
            let expected = rows.end;
            invalid(format!("has {records} rows in row group {group} instead of {expected}: download it again"))
        }
        Some((values, _)) => Ok(values),
    }
}

/// Labels as a file has them, before they are classes.
#[derive(Debug)]
pub(super) enum RawLabels {
    Numbers(Vec<u32>),
    Texts(Vec<ByteArray>),
}

/// Reads the labels of a row group.
pub(super) fn labels(shard: &ShardFile, group: usize) -> Result<RawLabels, Error> {
    use ::parquet::basic::Type;
    use ::parquet::data_type::{ByteArrayType, DoubleType, FloatType, Int32Type, Int64Type};
    let leaf = shard.columns.label;
    let all = (group, 0..usize::try_from(shard.metadata.row_group(group).num_rows()).unwrap_or(0));
    // A macro, because the variants of `ColumnReader` have no trait in common.
    macro_rules! read {
        ($type:ty, $reader:ident) => {
            present(
                shard,
                group,
                column::<$type>(shard, all, leaf, |reader| match reader {
                    ColumnReader::$reader(reader) => Some(reader),
                    _ => None,
                })?,
            )?
        };
    }
    let numbers: Vec<i64> = match shard.metadata.file_metadata().schema_descr().column(leaf).physical_type() {
        Type::INT32 => read!(Int32Type, Int32ColumnReader).into_iter().map(i64::from).collect(),
        Type::INT64 => read!(Int64Type, Int64ColumnReader),
        Type::FLOAT => whole(shard, read!(FloatType, FloatColumnReader).into_iter().map(f64::from))?,
        Type::DOUBLE => whole(shard, read!(DoubleType, DoubleColumnReader).into_iter())?,
        _ => return Ok(RawLabels::Texts(read!(ByteArrayType, ByteArrayColumnReader))),
    };
    let mut labels = Vec::with_capacity(numbers.len());
    for value in numbers {
        let label = u32::try_from(value).map_err(|_| {
            let hint = if value == -1 { ", which usually means that the split has no labels" } else { "" };
            Error::invalid(&shard.path, format!("has the label {value}{hint}: classes are numbered from 0"))
        })?;
        labels.push(label);
    }
    Ok(RawLabels::Numbers(labels))
}

/// Values of which none may be missing.
fn present<T>(shard: &ShardFile, group: usize, values: Vec<Option<T>>) -> Result<Vec<T>, Error> {
    let missing = values.iter().filter(|value| value.is_none()).count();
    if missing == 0 {
        return Ok(values.into_iter().flatten().collect());
    }
    let message = format!("has {missing} rows in row group {group} without a label: use a split that has labels");
    Err(Error::invalid(&shard.path, message))
}

/// Floating-point numbers that must be whole.
fn whole(shard: &ShardFile, values: impl Iterator<Item = f64>) -> Result<Vec<i64>, Error> {
    let whole = |value: f64| {
        let is_whole = value.fract() == 0.0 && value.abs() < 1e15;
        let message = || format!("has the label {value}: labels are whole numbers or text");
        if is_whole { Ok(value as i64) } else { Err(Error::invalid(&shard.path, message())) }
    };
    values.map(whole).collect()
}

/// The encoded images of some rows of a row group; a null is `None`. They keep the pages in memory of which they are
/// parts.
pub(super) fn images(shard: &ShardFile, group: usize, rows: Range<usize>) -> Result<Vec<Option<ByteArray>>, Error> {
    use ::parquet::data_type::ByteArrayType;
    column::<ByteArrayType>(shard, (group, rows), shard.columns.image, |reader| match reader {
        ColumnReader::ByteArrayColumnReader(reader) => Some(reader),
        _ => None,
    })
}
