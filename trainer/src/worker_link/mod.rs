//! What the trainer exchanges with the worker that started it, or with a person: events, metrics and stop requests.

pub mod control;
pub mod metrics_file;
pub mod report;
