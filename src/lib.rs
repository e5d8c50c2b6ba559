//! distillery: a job server for Scale Decoupled Distillation.
//!
//! ```text
//!  curl, dashboard ──► http ──► db (PostgreSQL) ──► worker ──► trainer process ──► artifacts ──► http ──► download
//! ```
//!
//! `docs/architecture.md` says what each module holds and what it may know.
//!
//! # Doc comments
//!
//! A doc comment says what the name and the type do not: shapes, units, valid ranges, errors, reasons. An item whose
//! name says it all has none, so `missing_docs` is allowed. Fields of the API and flags are the exception: their
//! comments become the descriptions in `/openapi.json` and the text of `--help`. A function that returns
//! [`sqlx::Result`] fails when the database does, and does not repeat that.
#![allow(missing_docs, reason = "see above: names that say it all need no comment")]

pub mod archive;
pub mod artifacts;
pub mod cli;
pub mod client;
pub mod commands;
pub mod dataset_cache;
pub mod db;
pub mod http;
pub mod onnx_runtime;
pub mod private_file;
pub mod process;
pub mod removals;
pub mod storage_check;
pub mod telemetry;
pub mod webhooks;
pub mod worker;

pub use distillery_core::{
    architecture, checkpoint, class_order, dataset, exported, ids, predictions, protocol, spec, sweep, text,
};
