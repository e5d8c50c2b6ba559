//! What the trainer exchanges with the worker that supervises it, or with the person who started it.

pub mod control;
pub mod metrics_file;
pub mod report;
