//! Training, on libtorch: the only module that knows tensors.
//!
//! [`run`] goes through the epochs, [`step`] does one optimisation step: [`data`] makes a batch, [`models`] turns it
//! into feature maps, [`sdd`] splits those into regions and weighs their [`losses`], [`optim`] changes the weights.
//! [`resume`] keeps what is needed to go on after an interruption, [`evaluate`] measures accuracy.

pub mod data;
pub mod losses;
pub mod models;
pub mod optim;
pub mod sdd;
