//! Networks that torch.export.save wrote.

mod archives;
mod constants;
mod faults;
mod fixtures;
mod meaning;
mod mutations;
mod operators;
mod programs;
mod sizes;
mod traces;
