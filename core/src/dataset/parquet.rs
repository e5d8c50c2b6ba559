//! Hugging Face's parquet shards: `<split>-00000-of-00003.parquet`, with an image column and an integer label column.

mod columns;
mod groups;
mod pieces;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use self::columns::Columns;
use self::groups::PositionedFile;
use self::pieces::{Piece, PieceCache};
use super::{
    BLOCK, Classes, DatasetFormat, DatasetOptions, Error, FormatReader, Frame, Images, deciding_split, file_names,
    labels, pixels,
};

/// A file of a split.
#[derive(Debug, Clone)]
struct ShardFile {
    path: PathBuf,
    metadata: Arc<ParquetMetaData>,
    columns: Columns,
}

#[derive(Debug)]
struct Parquet {
    splits: BTreeMap<String, Vec<ShardFile>>,
}

/// Recognises `train-00000-of-00003.parquet`, `train-anything.parquet` and `train.parquet`.
pub(super) fn detect(root: &Path, options: &DatasetOptions) -> Result<Option<Box<dyn FormatReader>>, Error> {
    let mut splits: BTreeMap<String, Vec<ShardFile>> = BTreeMap::new();
    let mut numbers: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for name in file_names(root)? {
        let Some(stem) = name.strip_suffix(".parquet") else { continue };
        let (split, rest) = stem.split_once('-').unwrap_or((stem, ""));
        if split.is_empty() {
            continue;
        }
        if let Some(number) = shard_number(rest) {
            numbers.entry(split.to_owned()).or_default().push(number);
        }
        splits.entry(split.to_owned()).or_default().push(ShardFile::open(root.join(&name), options)?);
    }
    for (split, numbers) in numbers {
        let total = numbers.iter().map(|&(_, total)| total).max().unwrap_or(0);
        if let Some(missing) = (0..total).find(|index| !numbers.iter().any(|(number, _)| number == index)) {
            let message = format!("shard {missing} of {total} of the {split} split is missing: add it");
            return Err(Error::invalid(root, message));
        }
    }
    Ok((!splits.is_empty()).then(|| Box::new(Parquet { splits }) as Box<dyn FormatReader>))
}

/// Parses `00002-of-00003`, which a suffix such as a hash may follow, into (2, 3).
fn shard_number(rest: &str) -> Option<(u64, u64)> {
    let (number, rest) = rest.split_once("-of-")?;
    let total = rest.split('-').next()?;
    // A total beyond what could be listed is not a number of shards.
    Some((number.parse().ok()?, total.parse().ok().filter(|&total| total <= 1_000_000)?))
}

impl ShardFile {
    fn open(path: PathBuf, options: &DatasetOptions) -> Result<Self, Error> {
        let file = PositionedFile::open(&path)?;
        let metadata = guarded(&path, || ParquetMetaDataReader::new().parse_and_finish(&file))?;
        if metadata.row_groups().iter().any(|group| group.num_rows() < 0) {
            return Err(Error::invalid(&path, "has a row group with a negative number of rows: download it again"));
        }
        let columns = columns::choose(metadata.file_metadata(), options)
            .map_err(|message| Error::Column { path: path.clone(), message })?;
        Ok(Self { path, metadata: Arc::new(metadata), columns })
    }

    /// Size of a row group's encoded images in bytes, according to the metadata.
    fn image_bytes(&self, group: usize) -> u64 {
        let column = self.metadata.row_group(group).column(self.columns.image);
        u64::try_from(column.uncompressed_size()).unwrap_or(0)
    }

    fn rows(&self) -> u64 {
        self.metadata.row_groups().iter().map(|group| group.num_rows().unsigned_abs()).sum()
    }
}

impl FormatReader for Parquet {
    fn format(&self) -> DatasetFormat {
        DatasetFormat::Parquet
    }

    fn splits(&self) -> Vec<String> {
        self.splits.keys().cloned().collect()
    }

    fn images(&self, split: &str) -> Result<u64, Error> {
        Ok(self.splits[split].iter().map(ShardFile::rows).sum())
    }

    fn classes(&self) -> Result<Classes, Error> {
        let shards = &self.splits[deciding_split(&self.splits)];
        let names =
            shards.iter().find_map(|shard| columns::class_names(shard.metadata.file_metadata(), &shard.columns));
        if let Some(names) = names {
            return Ok(Classes { count: u32::try_from(names.len()).unwrap_or(u32::MAX), names: Some(names) });
        }
        labels::count(&shards[0].path, &all_labels(shards)?)
    }

    fn files(&self, split: &str) -> Vec<PathBuf> {
        self.splits[split].iter().map(|shard| shard.path.clone()).collect()
    }

    fn open(&self, split: &str, _: &Classes) -> Result<Box<dyn Images>, Error> {
        let shards = self.splits[split].clone();
        let labels = all_labels(&shards)?;
        let mut groups = Vec::new();
        let mut start = 0;
        for (shard, metadata) in shards.iter().enumerate() {
            for (index, group) in metadata.metadata.row_groups().iter().enumerate() {
                // An empty row group would have the same start as the next one.
                if group.num_rows() > 0 {
                    groups.push(RowGroup { start, shard, index });
                    start += usize::try_from(group.num_rows()).unwrap_or(0);
                }
            }
        }
        Ok(Box::new(ParquetImages { shards, groups, labels, cache: PieceCache::default() }))
    }
}

fn all_labels(shards: &[ShardFile]) -> Result<Vec<u32>, Error> {
    let mut labels = Vec::new();
    for shard in shards {
        for group in 0..shard.metadata.num_row_groups() {
            groups::labels(shard, group, &mut labels)?;
        }
    }
    Ok(labels)
}

#[derive(Debug)]
struct RowGroup {
    /// Index of its first image in the split.
    start: usize,
    shard: usize,
    index: usize,
}

/// Unpacks together the images of a block that are in the same row group, and caches the most recently used pieces.
#[derive(Debug)]
struct ParquetImages {
    shards: Vec<ShardFile>,
    groups: Vec<RowGroup>,
    labels: Vec<u32>,
    cache: PieceCache,
}

impl ParquetImages {
    /// The piece that contains an image, the image's index in the piece, and the file.
    fn piece(&self, index: usize) -> Result<(Arc<Piece>, usize, &Path), Error> {
        let number = self.groups.partition_point(|group| group.start <= index) - 1;
        let group = &self.groups[number];
        let end = self.groups.get(number + 1).map_or(self.labels.len(), |next| next.start);
        let block = index - index % BLOCK;
        let (first, last) = (block.max(group.start), (block + BLOCK).min(end));
        let shard = &self.shards[group.shard];
        let bytes = shard.image_bytes(group.index) / (end - group.start) as u64 * (last - first) as u64;
        let read = || Ok(Piece::of(&groups::images(shard, group.index, first - group.start..last - group.start)?));
        Ok((self.cache.get(first, bytes, read)?, index - first, &shard.path))
    }
}

impl Images for ParquetImages {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), Error> {
        assert!(index < self.labels.len(), "image {index} of {}", self.labels.len());
        let (piece, place, path) = self.piece(index)?;
        let invalid = |message: &str| Error::invalid(path, format!("image {index} of the split {message}"));
        let encoded = piece.get(place).ok_or_else(|| invalid("is missing: download the file again"))?;
        pixels::decode(encoded, frame, side, planes).map_err(|message| invalid(&message))
    }

    fn packed_bytes(&self) -> u64 {
        self.groups.iter().map(|group| self.shards[group.shard].image_bytes(group.index)).fold(0, u64::saturating_add)
    }

    fn keep(&self, bytes: u64) {
        self.cache.limit(bytes);
    }

    fn fetch(&self, index: usize) {
        let block = index - index % BLOCK;
        let end = (block + BLOCK).min(self.labels.len());
        let later = self.groups.iter().map(|group| group.start).skip_while(|start| *start <= block);
        // A block can span several row groups.
        for first in std::iter::once(block).chain(later.take_while(|start| *start < end)) {
            drop(self.piece(first));
        }
    }
}

/// Runs the parquet reader. Its panics, which damaged metadata can cause, become errors. I/O errors remain I/O errors.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, Error> {
    let unsound = |why: &dyn std::fmt::Display| {
        Error::invalid(path, format!("is not a valid parquet file ({why}): download it again"))
    };
    // Unwind safe: after a panic, nothing that was being read is used.
    let result = catch_unwind(AssertUnwindSafe(read)).map_err(|_| unsound(&"its metadata contradicts itself"))?;
    result.map_err(|error| match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) if error.kind() != io::ErrorKind::UnexpectedEof => Error::io(path)(*error),
            Ok(_) => Error::invalid(path, "is truncated: download it again"),
            Err(inner) => unsound(&inner),
        },
        other => unsound(&other),
    })
}

/// Opens a shard. Shards are opened for each row group, so that a data set of a thousand shards does not keep a
/// thousand files open.
fn reopen(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(Error::io(path))
}
