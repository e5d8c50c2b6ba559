//! A valid length and a header, so that the fuzzer spends its time on the header's content.
#![no_main]

libfuzzer_sys::fuzz_target!(|parts: (&str, &[u8])| {
    let (header, data) = parts;
    let length = (header.len() as u64).to_le_bytes();
    distillery_fuzz::check(&[&length, header.as_bytes(), data].concat());
});
