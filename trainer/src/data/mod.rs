//! From a data set's images to batches of tensors.
//!
//! [`loader`] decodes, shuffles and batches; [`augment`] changes a batch at random. What is random is a pure function
//! of the job's seed and the place in the run, so that a resumed run sees the same as an uninterrupted one.

pub mod augment;
mod decode;
pub mod fingerprint;
pub mod loader;
pub mod normalisation;
pub mod open;
mod shard;
mod stream;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub use augment::{Crops, crop_flip, resized_crop};
pub use loader::{Batches, Framing, Loaded, Loader, Options};
pub use shard::Share;

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

/// Random numbers of one use (`purpose`) at one place of a run. The arguments are the key itself, so that different
/// ones give unrelated numbers.
pub(super) fn random(purpose: &[u8; 8], seed: u64, epoch: u32, batch: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(purpose);
    key[8..16].copy_from_slice(&seed.to_le_bytes());
    key[16..24].copy_from_slice(&batch.to_le_bytes());
    key[24..28].copy_from_slice(&epoch.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}
