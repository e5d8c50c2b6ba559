//! From a data set's images to batches of tensors.
//!
//! [`loader`] decodes, shuffles and batches; [`augment`] changes a batch at random. What is random is a pure function
//! of the job's seed and the place in the run, so that a resumed run sees the same as an uninterrupted one.

pub mod augment;
mod batch;
mod decode;
mod error;
pub mod fingerprint;
pub mod hash;
pub mod loader;
pub mod normalisation;
pub mod open;
mod random;
mod shard;
mod stream;

pub use augment::{Crops, crop_flip, resized_crop, view_of};
pub use batch::Loaded;
pub use error::Error;
pub use loader::{Batches, Framing, Loader, Options};
pub use shard::Shard;
