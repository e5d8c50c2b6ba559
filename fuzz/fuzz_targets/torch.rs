//! Any bytes. The first ones decide the format: zip, pickle or safetensors. A good corpus is files from `torch.save`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| distillery_fuzz::check(bytes));
