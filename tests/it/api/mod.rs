//! The HTTP API.

mod amendments;
mod artifacts;
mod board;
mod checkpoints;
mod conformance;
mod datasets;
mod errors;
mod exports;
mod foresight;
mod idempotency;
mod jobs;
mod metrics;
mod network_jobs;
mod networks;
mod openapi;
mod posting;
mod predictions;
mod prometheus;
mod proxies;
mod recipes;
mod server;
mod stream;
mod summaries;
mod tokens;
mod uploads;
mod waiting;
