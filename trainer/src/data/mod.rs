//! From the images of a data set to batches of tensors: [`open`] opens both splits of a specification, [`loader`]
//! decodes, shuffles and batches one of them, and [`augment`] crops and mirrors.
//!
//! Everything random follows from the job's seed and the place in the run, so that a resumed run sees the same images
//! as one that was never interrupted.

pub mod augment;
mod batch;
mod decode;
mod error;
pub mod hash;
pub mod loader;
pub mod normalisation;
pub mod open;
pub(crate) mod random;
mod shard;
pub mod split_hashes;
mod stream;

pub use augment::{CropSource, Crops, crop_flip, resized_crop, view_of};
pub use batch::{Batch, Portion};
pub use error::LoadError;
pub use loader::{Batches, Framing, Loader, LoaderOptions};
pub use shard::Shard;
