//! Networks that torch.export.save wrote.

mod amplification;
mod archives;
mod batches;
pub mod classifier;
mod constants;
mod faults;
pub mod fixtures;
mod foreign;
mod layers;
mod meaning;
mod mutations;
mod names;
mod operators;
mod precision;
pub mod programs;
mod resizing;
mod rows;
mod sizes;
mod ties;
mod traces;
