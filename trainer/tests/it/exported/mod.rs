//! Exported networks compute, train and distil as in PyTorch.

mod classifiers;
mod comparisons;
mod fixtures;
mod functions;
mod heads;
mod layers;
mod matrices;
mod networks;
mod norms_and_shapes;
mod operators;
mod precision;
mod randomness;
mod refusals;
mod rows;
mod runs;
mod sums;
mod ties;
mod transposed;

#[allow(dead_code, reason = "the tests of the reader use the rest")]
#[path = "../../../../core/tests/it/exported/programs.rs"]
mod programs;
