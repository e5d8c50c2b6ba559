//! The distillation losses, and what the teacher says in the regions of an image.

pub mod region;
pub mod region_report;
pub mod sdd;
