//! The HTTP API.

mod artifacts;
mod checkpoints;
mod conformance;
mod errors;
mod jobs;
mod metrics;
mod server;
mod stream;
mod summaries;
mod tokens;
