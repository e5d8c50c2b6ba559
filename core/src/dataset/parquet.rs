//! Hugging Face's parquet shards: `<split>-00000-of-00003.parquet`, or a directory per split, with an image column and
//! a label column of integers or text.

mod classes;
mod columns;
mod groups;
mod pieces;
mod shards;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use self::columns::LeafColumns;
use self::groups::PositionedFile;
use self::pieces::{Piece, PieceCache};
pub(super) use self::shards::{check_numbers, is_parquet as may_read};
use super::links::Links;
use super::{
    BLOCK, ChoosableColumns, Classes, DatasetFormat, DatasetOptions, Error, FormatReader, Frame, Images, labels,
    pixels, source, splits,
};

/// A file of a split.
#[derive(Debug, Clone)]
struct ShardFile {
    path: PathBuf,
    metadata: Arc<ParquetMetaData>,
    columns: LeafColumns,
}

#[derive(Debug)]
struct Parquet {
    splits: BTreeMap<String, Vec<ShardFile>>,
    /// Splits that cannot be used, with reasons.
    faults: BTreeMap<String, Error>,
}

/// Recognises `train-00000-of-00003.parquet`, `train-anything.parquet`, `train.parquet` and `train/0000.parquet`. If
/// there are parquet files of which none can be used, and which may have nothing to do with the data set, the result
/// is why.
pub(super) fn detect(
    root: &Path,
    options: &DatasetOptions,
    links: &Links,
) -> Result<Result<Box<dyn FormatReader>, Option<Error>>, Error> {
    let mut parquet = Parquet { splits: BTreeMap::new(), faults: BTreeMap::new() };
    for (split, paths) in shards::by_split(root, links)? {
        let open = || -> Result<Vec<ShardFile>, Error> {
            check_numbers(root, &split, &paths)?;
            paths.iter().map(|path| ShardFile::open(path.clone(), options)).collect()
        };
        match open() {
            Ok(shards) => drop(parquet.splits.insert(split, shards)),
            Err(error) if error.is_users() => drop(parquet.faults.insert(split, error)),
            Err(error) => return Err(error),
        }
    }
    let decisive = |split: &&String| splits::is_train(split) || parquet.splits.is_empty() && splits::is_usual(split);
    if let Some(split) = parquet.faults.keys().find(decisive).cloned()
        && let Some(fault) = parquet.faults.remove(&split)
    {
        return Err(fault);
    }
    if parquet.splits.is_empty() {
        return Ok(Err(parquet.faults.pop_first().map(|(_, fault)| fault)));
    }
    Ok(Ok(Box::new(parquet)))
}

/// Checks that a shard can be read.
pub(super) fn check_shard(path: &Path) -> Result<(), Error> {
    classes::check(&ShardFile::open(path.to_owned(), &DatasetOptions::default())?)
}

impl ShardFile {
    fn open(path: PathBuf, options: &DatasetOptions) -> Result<Self, Error> {
        source::refuse_lfs_pointer(&path, &source::open(&path)?)?;
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

    /// The names of the classes, if the file has them.
    fn class_names(&self) -> Option<Vec<String>> {
        columns::class_names(self.metadata.file_metadata(), &self.columns)
    }
}

impl FormatReader for Parquet {
    fn format(&self) -> DatasetFormat {
        DatasetFormat::Parquet
    }

    fn splits(&self) -> Vec<String> {
        self.splits.keys().cloned().collect()
    }

    fn fault(&self, split: &str) -> Option<Error> {
        let (_, fault) = self.faults.iter().find(|(name, _)| name.eq_ignore_ascii_case(split))?;
        Some(fault.again())
    }

    fn images(&self, split: &str) -> Result<u64, Error> {
        Ok(self.splits[split].iter().map(ShardFile::rows).sum())
    }

    fn classes(&self) -> Result<Classes, Error> {
        let split = splits::deciding(&self.splits);
        classes::of(split, &self.splits[split])
    }

    fn files(&self, split: &str) -> Vec<PathBuf> {
        self.splits[split].iter().map(|shard| shard.path.clone()).collect()
    }

    fn labels(&self, split: &str, classes: &Classes) -> Result<Vec<u32>, Error> {
        let deciding = splits::deciding(&self.splits);
        classes::labels((split, &self.splits[split]), (deciding, &self.splits[deciding]), classes)
    }

    fn open(&self, split: &str, labels: Vec<u32>) -> Result<Box<dyn Images>, Error> {
        let shards = self.splits[split].clone();
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
        Ok(Box::new(ParquetImages { shards, groups, labels, cache: PieceCache::default(), turned: AtomicU64::new(0) }))
    }

    fn choosable_columns(&self) -> ChoosableColumns {
        ChoosableColumns { image: true, label: true }
    }

    fn notes(&self, classes: &Classes) -> Vec<String> {
        let passed_over = self.faults.iter().map(|(split, fault)| match fault {
            Error::Column { path, message } | Error::Invalid { path, message } => {
                let name = path.file_name().unwrap_or_default().display();
                format!("the {split} split is passed over: {name} {message}")
            }
            other => format!("the {split} split is passed over: {other}"),
        });
        let of_classes = self.splits.iter().flat_map(|(split, shards)| classes::notes(split, shards, classes));
        passed_over.chain(of_classes).collect()
    }
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
    /// How often an image was turned.
    turned: AtomicU64,
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

    /// Passes an encoded image to `take`, whose errors are predicates that continue "the image".
    fn with_encoded(&self, index: usize, take: impl FnOnce(&[u8]) -> Result<(), String>) -> Result<(), Error> {
        assert!(index < self.labels.len(), "image {index} of {}", self.labels.len());
        let (piece, place, path) = self.piece(index)?;
        let missing = "has no bytes: it is null, or not embedded in the file. Remove it, or write the data set with \
                       embedded images";
        let taken = piece.get(place).map_or_else(|| Err(missing.to_owned()), take);
        taken.map_err(|message| Error::invalid(path, format!("image {index} of the split {message}")))
    }
}

impl Images for ParquetImages {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), Error> {
        self.with_encoded(index, |encoded| {
            // As `datasets` does when it decodes an image.
            let is_turned = pixels::decode(encoded, pixels::Orientation::Upright, frame, side, planes)?;
            self.turned.fetch_add(u64::from(is_turned), Ordering::Relaxed);
            Ok(())
        })
    }

    fn stored(&self, index: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        self.with_encoded(index, |encoded| {
            take(encoded);
            Ok(())
        })
    }

    fn turned(&self) -> u64 {
        self.turned.load(Ordering::Relaxed)
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
