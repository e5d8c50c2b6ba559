//! A byte that chooses the layout of a data set, and its files.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| distillery_fuzz::check_dataset(bytes));
