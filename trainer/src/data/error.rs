//! Why there is no batch.

use distillery::dataset;

/// Why there is no batch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are no images to take batches from.
    #[error("there are no images: the split is empty, or dataset.limit is 0")]
    Empty,
    /// More than one in a hundred images cannot be decoded.
    #[error(
        "{corrupt} of {total} images cannot be decoded, and more than 1 % is too many; repair or remove them, \
         beginning with: {}",
        named.join("; ")
    )]
    TooManyCorrupt {
        /// How many could not be decoded so far.
        corrupt: u64,
        /// How many there are.
        total: u64,
        /// The first of them, with reasons.
        named: Vec<String>,
    },
    /// The images could not be read.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// A tensor could not be made: most likely there is not enough memory on the device.
    #[error("the images do not fit on the device: {0}")]
    Tensor(#[from] tch::TchError),
    /// A decoder panicked.
    #[error("a thread that decodes images ended without a result: see standard error")]
    Stopped,
}

impl Error {
    /// Whether the data or the specification is at fault, rather than the machine.
    #[must_use]
    pub fn is_users(&self) -> bool {
        match self {
            Self::Empty | Self::TooManyCorrupt { .. } => true,
            Self::Dataset(error) => error.is_users(),
            Self::Tensor(_) | Self::Stopped => false,
        }
    }
}

impl From<Error> for crate::error::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Dataset(error) => error.into(),
            Error::Tensor(error) => error.into(),
            _ if error.is_users() => Self::user(error.to_string()),
            _ => Self::internal(error.to_string()),
        }
    }
}
