//! Training, on libtorch: the only package that knows tensors. It takes a specification and writes files; it knows
//! neither SQL nor HTTP.
//!
//! [`run`] goes through the epochs, [`step`] does one optimisation step and [`steps`] has it done: [`data`] makes a batch, [`models`] turns it
//! into feature maps, [`sdd`] splits those into regions and weighs their [`losses`], [`optim`] changes the weights.
//! [`setup`] loads what a run needs, its data by [`source`], [`resume`] keeps what is needed to go on after an
//! interruption, [`evaluate`] measures accuracy, [`report`] and [`control`] talk to the outside. [`teacher`] is
//! evaluated first; [`teacher_cache`] keeps what it said, in the files of [`cache`]. On several devices [`ranks`] has a
//! process for each.

pub mod cache;
pub mod commands;
pub mod data;
pub mod device;
pub mod error;
pub mod launch;
pub mod loss;
pub mod models;
pub mod ranks;
pub mod run;
pub mod settings;
pub mod verify;
pub mod worker_link;
