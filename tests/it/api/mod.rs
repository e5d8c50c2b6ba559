//! The HTTP API.

mod artifacts;
mod checkpoints;
mod conformance;
mod datasets;
mod errors;
mod foresight;
mod idempotency;
mod jobs;
mod metrics;
mod openapi;
mod posting;
mod prometheus;
mod server;
mod stream;
mod summaries;
mod tokens;
