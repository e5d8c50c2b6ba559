//! Networks that torch.export.save wrote.

mod archives;
pub mod classifier;
mod constants;
mod faults;
pub mod fixtures;
mod meaning;
mod mutations;
mod operators;
pub mod programs;
mod sizes;
mod traces;
