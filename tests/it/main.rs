//! The tests of the server package: one program with one module per promise. `cargo test --test it queue::` runs one.

mod api;
mod artifacts;
mod attempts;
mod backup;
mod client;
mod commands;
mod crash;
mod datasets;
mod deletions;
mod docs;
mod evidence;
mod examples;
mod export;
mod housekeeping;
mod jobs;
mod listen;
mod postgres;
mod prune;
mod queue;
mod shutdown;
mod storage_identity;
mod structure;
mod support;
mod sweeps;
mod webhooks;
mod worker;
