//! What the server and the trainer both know: job specifications, networks, checkpoints, data sets, and what worker and
//! trainer say to each other. No I/O but the files that the readers are given, no SQL, no HTTP and no libtorch.
//!
//! It is a package of its own so that the trainer, which links libtorch, and the server, which must not, build side by
//! side, and so that a change of the server does not build the trainer again.
//!
//! # Doc comments
//!
//! A doc comment says what the name and the type do not: shapes, units, valid ranges, errors, reasons. An item whose
//! name says it all has none, so `missing_docs` is allowed. Fields of the API and flags are the exception: their
//! comments become the descriptions in `/openapi.json` and the text of `--help`.
#![allow(missing_docs, reason = "see above: names that say it all need no comment")]

pub mod architecture;
mod byte_source;
pub mod checkpoint;
pub mod class_order;
pub mod dataset;
pub mod device_fault;
pub mod exit_status;
pub mod export;
pub mod exported;
pub mod file_kind;
pub mod ids;
pub mod output;
pub mod predictions;
pub mod protocol;
pub mod removed_if_empty;
pub mod snippets;
pub mod spec;
pub mod sweep;
pub mod text;
pub mod trainer_flags;
