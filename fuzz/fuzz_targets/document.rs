//! JSON of a job, of a sweep or of `distillery train`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| distillery_fuzz::check_document(bytes));
