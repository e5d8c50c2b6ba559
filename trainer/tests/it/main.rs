//! The trainer's promises, one module each; `support` is the harness they share. `cargo test -p distillery-trainer
//! --test it losses::` runs one of them.
//!
//! All tests run in one process. What libtorch keeps per process is set in one place, `support::torch`: no test sets
//! the number of threads, a flag or the global random generator itself. Whatever needs another environment starts a
//! process.

mod support;

mod architectures;
mod augmentation;
mod bundle;
mod checkpoints;
mod classifiers;
mod command_line;
mod cuda_stub;
mod data_cache;
mod doctor;
mod doubts;
mod exported;
mod gpu;
mod kernels;
mod loader;
mod local_spec;
mod losses;
mod networks;
mod optim;
mod output;
mod predictions;
mod ranks;
mod recipe;
mod regions;
mod resume;
mod rows;
mod samples;
mod selection;
mod steps;
mod teacher_cache;
mod teacher_fit;
mod trace;
mod verify;
