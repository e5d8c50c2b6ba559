//! distillery: a job server for Scale Decoupled Distillation.
//!
//! ```text
//!  curl, dashboard ──► http ──► jobs (PostgreSQL) ──► worker ──► trainer process ──► artifacts ──► http ──► download
//! ```
//!
//! The modules below are in the order in which a job meets them; `CONTRIBUTING.md` says where things go.

pub mod config;
pub mod database;
pub mod prune;
pub mod telemetry;
pub mod token;

pub mod architecture;
pub mod checkpoint;
pub mod dataset;
pub mod spec;

pub mod housekeeping;
pub mod http;
pub mod serve;

pub mod artifacts;
pub mod jobs;

pub mod protocol;
pub mod worker;

pub mod postgres;
pub mod process;
pub mod stop;
