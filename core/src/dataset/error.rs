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
        "{}: the format of this data set is unknown: {found}. Supported are Hugging Face parquet shards \
         (train-*.parquet, test-*.parquet), WebDataset shards (train-*.tar, test-*.tar), an image folder \
         (train/<class>/*.png or *.jpg, test/<class>/…; or <class>/*.png; or a metadata.csv with file_name and label), \
         CIFAR-10 and CIFAR-100 (their binary or Python version) or MNIST IDX files (train-images-idx3-ubyte[.gz] and so \
         on)",
        path.display()
    )]
    UnknownLayout {
        path: PathBuf,
        /// What the directory holds, and what to do.
        found: String,
    },
    #[error("{}: has no {wanted}; its splits are: {}{advice}", path.display(), listed(known))]
    NoSplit {
        path: PathBuf,
        /// The requested split, or the usual ones, as in `test, val or validation split`.
        wanted: String,
        known: Vec<String>,
        /// What else can be done, as the end of the sentence.
        advice: &'static str,
    },
    /// A column cannot be used, or is ambiguous.
    #[error("{}: {message}", path.display())]
    Column {
        /// The shard, or the directory if the format has no columns.
        path: PathBuf,
        /// What is wrong, and the possible columns.
        message: String,
    },
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

    /// Adds to [`Error::NoSplit`] what else can be done.
    pub(super) fn advise(self, advice: &'static str) -> Self {
        match self {
            Self::NoSplit { path, wanted, known, .. } => Self::NoSplit { path, wanted, known, advice },
            other => other,
        }
    }

    /// A copy of a fault that the files have, to report it once more; any other error becomes [`Error::Invalid`].
    pub(super) fn again(&self) -> Self {
        let (path, message) = match self {
            Self::Column { path, message } => {
                return Self::Column { path: path.clone(), message: message.clone() };
            }
            Self::Invalid { path, message } => (path.clone(), message.clone()),
            Self::Missing { path }
            | Self::UnknownLayout { path, .. }
            | Self::NoSplit { path, .. }
            | Self::Io { path, .. } => (path.clone(), self.to_string()),
        };
        Self::Invalid { path, message }
    }

    /// The message with paths relative to `base`, which need not be known to whoever reads it.
    #[must_use]
    pub fn relative_to(&self, base: &Path) -> String {
        self.to_string().replace(&format!("{}/", base.display()), "")
    }

    /// The file or directory at fault.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Missing { path }
            | Self::UnknownLayout { path, .. }
            | Self::NoSplit { path, .. }
            | Self::Column { path, .. }
            | Self::Invalid { path, .. }
            | Self::Io { path, .. } => path,
        }
    }

    /// The message without the path.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Column { message, .. } | Self::Invalid { message, .. } => message.clone(),
            other => other.to_string(),
        }
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
