//! Child processes, and the signals that stop this one.

mod child;
pub mod shutdown;

pub use child::{Child, command, describe, out_of_memory_kills, privileged_command, spawn};
