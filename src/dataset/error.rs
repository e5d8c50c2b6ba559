//! What can be wrong with a data set, with the path and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong with a data set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such directory.
    #[error("{}: no such directory; put the data set there, or name another one", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The directory holds nothing that is recognised.
    #[error(
        "{}: no data set is recognised here; put in Hugging Face parquet shards (train-*.parquet, test-*.parquet), an \
         image folder (train/<class>/*.png or *.jpg, test/<class>/…), CIFAR binary files (data_batch_*.bin and \
         test_batch.bin, or train.bin and test.bin) or MNIST IDX files (train-images-idx3-ubyte[.gz] and so on)",
        path.display()
    )]
    UnknownLayout {
        /// The directory.
        path: PathBuf,
    },
    /// The data set has no such split.
    #[error("{}: has no {wanted}; its splits are: {}", path.display(), listed(known))]
    NoSplit {
        /// The directory.
        path: PathBuf,
        /// What was looked for.
        wanted: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A column cannot be used, or cannot be told from the others.
    #[error("{}: {message}", path.display())]
    Column {
        /// The shard, or the directory where the format has no columns.
        path: PathBuf,
        /// What is wrong and which columns could be meant.
        message: String,
    },
    /// The files are not what they should be.
    #[error("{}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do about it.
        message: String,
    },
    /// The files could not be read; the same could go better another time.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn invalid(path: &Path, message: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), message: message.into() }
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { path: path.to_owned(), source }
    }

    /// Whether the data or the specification is at fault, rather than the machine.
    #[must_use]
    pub fn is_users(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

fn listed(names: &[String]) -> impl fmt::Display {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
