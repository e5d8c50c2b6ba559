//! Networks that torch.export.save wrote.

mod archives;
mod faults;
pub mod fixtures;
mod meaning;
mod mutations;
pub mod programs;
