//! The tests of what the server and the trainer both know: one program with one module per promise.
//! `cargo test --test it checkpoint::` runs one.

mod architecture;
mod checkpoint;
mod class_order;
mod dataset;
mod export;
mod exported;
mod predictions;
mod spec;
mod spec_losses;
mod spec_networks;
mod spec_pointers;
mod spec_table;
mod support;
mod sweep;
mod text;
