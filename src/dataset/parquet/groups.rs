//! Row groups: labels, encoded images, and a cache of the latter that many threads share.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ::parquet::column::reader::ColumnReader;
use ::parquet::data_type::{ByteArray, DataType};
use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::metadata::page_index::RowGroupPageIndex;
use ::parquet::file::properties::ReaderProperties;
use ::parquet::file::reader::{ChunkReader, Length, RowGroupReader};
use ::parquet::file::serialized_reader::SerializedRowGroupReader;
use bytes::Bytes;

use super::super::Error;
use super::{Shard, guarded, reopen};

/// Encoded images that are kept: all of CIFAR, a few row groups of anything larger.
const CACHE_BYTES: u64 = 256 << 20;

/// A file that is read by position: the reader of [`File`] itself moves a place that all its copies share.
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
    type T = io::BufReader<Place>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(io::BufReader::new(Place { file: Arc::clone(&self.file), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        // Before memory is set aside for what the file says.
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(ParquetError::EOF("it ends before its content".to_owned()));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// A place of one's own in a file.
#[derive(Debug)]
pub(super) struct Place {
    file: Arc<File>,
    at: u64,
}

impl Read for Place {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Reads a column of a row group; a row without a value is an error.
fn column<T: DataType>(
    shard: &Shard,
    group: usize,
    leaf: usize,
    missing: &str,
    typed: fn(ColumnReader) -> Option<::parquet::column::reader::ColumnReaderImpl<T>>,
) -> Result<Vec<T::T>, Error> {
    let metadata = shard.metadata.row_group(group);
    let rows = usize::try_from(metadata.num_rows()).unwrap_or(0);
    let file = Arc::new(PositionedFile::open(&shard.path)?);
    let read = || -> ParquetResult<Option<(Vec<T::T>, usize)>> {
        let properties = Arc::new(ReaderProperties::builder().build());
        let reader = SerializedRowGroupReader::new(file, metadata, RowGroupPageIndex::new(group, None), properties)?;
        let Some(mut reader) = typed(reader.get_column_reader(leaf)?) else { return Ok(None) };
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let (records, _, _) = reader.read_records(rows, Some(&mut levels), None, &mut values)?;
        Ok(Some((values, records)))
    };
    let invalid = |message: String| Err(Error::invalid(&shard.path, message));
    match guarded(&shard.path, read)? {
        None => invalid(format!("has a column of another type than its schema says in row group {group}")),
        Some((_, records)) if records < rows => {
            invalid(format!("has {records} rows where {rows} are expected in row group {group}: download it again"))
        }
        Some((values, _)) if values.len() < rows => {
            invalid(format!("has {} rows in row group {group} {missing}", rows - values.len()))
        }
        Some((values, _)) => Ok(values),
    }
}

/// Appends the labels of a row group.
pub(super) fn labels(shard: &Shard, group: usize, labels: &mut Vec<u32>) -> Result<(), Error> {
    use ::parquet::basic::Type;
    use ::parquet::data_type::{Int32Type, Int64Type};
    let (leaf, missing) = (shard.columns.label, "without a label: use a split that has labels");
    let kind = shard.metadata.file_metadata().schema_descr().column(leaf).physical_type();
    let values: Vec<i64> = if kind == Type::INT32 {
        let values = column::<Int32Type>(shard, group, leaf, missing, |reader| match reader {
            ColumnReader::Int32ColumnReader(reader) => Some(reader),
            _ => None,
        })?;
        values.into_iter().map(i64::from).collect()
    } else {
        column::<Int64Type>(shard, group, leaf, missing, |reader| match reader {
            ColumnReader::Int64ColumnReader(reader) => Some(reader),
            _ => None,
        })?
    };
    for value in values {
        let label = u32::try_from(value).map_err(|_| {
            let hint = if value == -1 { ", which usually says that the split has no labels" } else { "" };
            Error::invalid(&shard.path, format!("has the label {value}{hint}: classes are numbered from 0"))
        })?;
        labels.push(label);
    }
    Ok(())
}

/// The encoded images of a row group.
fn images(shard: &Shard, group: usize) -> Result<Vec<ByteArray>, Error> {
    use ::parquet::data_type::ByteArrayType;
    let missing = "whose image is not in the file itself: write the data set with embedded images";
    column::<ByteArrayType>(shard, group, shard.columns.image, missing, |reader| match reader {
        ColumnReader::ByteArrayColumnReader(reader) => Some(reader),
        _ => None,
    })
}

type Images = Arc<Vec<ByteArray>>;

/// One row group, read by whoever comes first while the others wait for it.
#[derive(Debug)]
struct Slot {
    key: (usize, usize),
    bytes: u64,
    images: Mutex<Option<Images>>,
}

/// The row groups that were used last.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The one used last is at the back.
    slots: Mutex<VecDeque<Arc<Slot>>>,
}

impl Cache {
    pub(super) fn get(&self, key: (usize, usize), shard: &Shard) -> Result<Images, Error> {
        let slot = self.slot(key, shard);
        let mut images = slot.images.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(images) = images.as_ref() {
            return Ok(Arc::clone(images));
        }
        let read = Arc::new(self::images(shard, key.1)?);
        *images = Some(Arc::clone(&read));
        Ok(read)
    }

    fn slot(&self, key: (usize, usize), shard: &Shard) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let known = slots.iter().rposition(|slot| slot.key == key).and_then(|at| slots.remove(at));
        let slot = known.unwrap_or_else(|| {
            let column = shard.metadata.row_group(key.1).column(shard.columns.image);
            let bytes = u64::try_from(column.uncompressed_size()).unwrap_or(u64::MAX);
            // Those in use stay in memory until their users are done.
            while slots.iter().map(|slot| slot.bytes).sum::<u64>().saturating_add(bytes) > CACHE_BYTES {
                if slots.pop_front().is_none() {
                    break;
                }
            }
            Arc::new(Slot { key, bytes, images: Mutex::new(None) })
        });
        slots.push_back(Arc::clone(&slot));
        slot
    }
}
