//! Errors of data sets, with the path and what to do next.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: no such directory; put the data set there, or use another name", path.display())]
    Missing { path: PathBuf },
    /// The directory's format is not recognised.
    #[error(
        "{}: the format of this data set is unknown; supported are Hugging Face parquet shards (train-*.parquet, \
         test-*.parquet), an image folder (train/<class>/*.png or *.jpg, test/<class>/…), CIFAR binary files (data_batch_*.bin and \
         test_batch.bin, or train.bin and test.bin) or MNIST IDX files (train-images-idx3-ubyte[.gz] and so on)",
        path.display()
    )]
    UnknownLayout { path: PathBuf },
    #[error("{}: has no {wanted}; its splits are: {}", path.display(), listed(known))]
    NoSplit {
        path: PathBuf,
        /// The requested split, or the usual ones, as in `test, val or validation split`.
        wanted: String,
        known: Vec<String>,
    },
    /// A column cannot be used, or is ambiguous.
    #[error("{}: {message}", path.display())]
    Column {
        /// The shard, or the directory if the format has no columns.
        path: PathBuf,
        /// What is wrong, and the possible columns.
        message: String,
    },
    /// A file is invalid.
    #[error("{}: {message}", path.display())]
    Invalid {
        path: PathBuf,
        /// What is wrong, and what to do next.
        message: String,
    },
    /// Reading failed. Another attempt may succeed.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Error {
    pub(super) fn invalid(path: &Path, message: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), message: message.into() }
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { path: path.to_owned(), source }
    }

    /// Whether the data or the job specification is at fault, not the machine.
    #[must_use]
    pub fn is_users(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

fn listed(names: &[String]) -> impl fmt::Display {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
