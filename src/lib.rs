//! distillery: a job server for Scale Decoupled Distillation.
//!
//! ```text
//!  curl, dashboard ──► http ──► jobs (PostgreSQL) ──► worker ──► trainer process ──► artifacts ──► http ──► download
//! ```
//!
//! The modules below are in the order in which a job meets them; `CONTRIBUTING.md` says where things go.

pub mod architecture;
pub mod artifacts;
pub mod checkpoint;
pub mod config;
pub mod dataset;
pub mod jobs;
pub mod postgres;
pub mod process;
pub mod protocol;
pub mod spec;
#[cfg(feature = "trainer")]
pub mod trainer;
