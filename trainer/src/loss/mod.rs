//! The losses, and the report on what the teacher sees in the regions of an image.

pub mod clustering;
pub mod region;
pub mod region_report;
pub mod sdd;
pub mod target;
