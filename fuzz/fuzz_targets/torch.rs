//! Whatever comes first decides the format: zip, pickle or safetensors. The corpus is what `torch.save` wrote.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| distillery_fuzz::check(bytes));
