//! Why images could not be loaded.

use distillery_core::dataset::{self, tolerated_damage};

/// Why images could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("there are no images: the split is empty")]
    Empty,
    #[error(
        "{corrupt} of {total} images cannot be decoded, and at most {} may be: repair or remove them, beginning with: {}",
        tolerated_damage(*total),
        named.join("; ")
    )]
    TooManyCorrupt {
        /// Images that could not be decoded so far.
        corrupt: u64,
        /// Images of the split.
        total: u64,
        /// The first corrupt images, with reasons.
        named: Vec<String>,
    },
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// A tensor could not be allocated.
    #[error("the images do not fit on the device: {0}")]
    Tensor(#[from] tch::TchError),
    #[error("a decoding thread panicked: see standard error")]
    Stopped,
}

impl LoadError {
    /// Whether the user has to change the data or the specification.
    #[must_use]
    pub fn is_users(&self) -> bool {
        match self {
            Self::Empty | Self::TooManyCorrupt { .. } => true,
            Self::Dataset(error) => error.is_users(),
            Self::Tensor(_) | Self::Stopped => false,
        }
    }
}

impl From<LoadError> for crate::error::Error {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Dataset(error) => error.into(),
            LoadError::Tensor(error) => error.into(),
            _ if error.is_users() => Self::user(error.to_string()),
            _ => Self::internal(error.to_string()),
        }
    }
}
