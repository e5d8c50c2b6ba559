//! Networks that torch.export.save wrote.

mod archives;
mod faults;
mod fixtures;
mod meaning;
mod mutations;
mod programs;
mod traces;
