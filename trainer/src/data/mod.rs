//! From the images of a data set to batches of tensors: [`open`] opens both splits of a specification, [`loader`]
//! decodes, shuffles and batches one of them, [`augment`] crops and mirrors, [`policy`] varies images further while
//! they are decoded, and [`erase`] and [`mix`] change batches on their device.
//!
//! Everything random follows from the job's seed and the place in the run, so that a resumed run sees the same images
//! as one that was never interrupted.

pub mod augment;
mod balance;
mod batch;
mod decode;
mod drawn;
pub mod erase;
mod error;
mod framing;
pub mod hash;
pub mod loader;
pub mod mix;
pub mod normalisation;
pub mod open;
pub mod operations;
pub mod policy;
pub(crate) mod random;
mod shard;
pub mod split_hashes;
mod stream;

pub use augment::{Crops, crop_flip, resized_crop, view_of};
pub use batch::{Batch, Portion};
pub use drawn::DrawSource;
pub use erase::Erasures;
pub use error::LoadError;
pub use framing::{Framing, VariedPart};
pub use loader::{Batches, Loader, LoaderOptions};
pub use mix::{MixSource, Mixes};
pub use shard::Shard;
