//! Any bytes. The first ones decide the format: zip, tar, or tar behind gzip or zstd.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| distillery_fuzz::check_archive(bytes));
