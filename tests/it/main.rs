//! The tests of the server package: one program with one module per promise. `cargo test --test it queue::` runs one.

mod api;
mod architecture;
mod artifacts;
mod attempts;
mod checkpoint;
mod crash;
mod dataset;
mod docs;
mod examples;
mod housekeeping;
mod jobs;
mod postgres;
mod prune;
mod queue;
mod spec;
mod spec_table;
mod support;
mod worker;
