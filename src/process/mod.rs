//! Child processes, and the signals that stop this one.

mod child;
pub mod shutdown;

pub use distillery_core::exit_status::{describe, out_of_memory_kills, unexpected_end};

pub use child::{Child, command, privileged_command, spawn};
