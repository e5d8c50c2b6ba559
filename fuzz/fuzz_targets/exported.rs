//! An archive, or a program, weights and a storage with a byte 0 between them, so that the fuzzer spends its time on
//! what they say. Good corpora are files from `torch.export.save` and the documents in them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if bytes.starts_with(b"PK") {
        return distillery_fuzz::check_exported(bytes);
    }
    let mut parts = bytes.splitn(3, |&byte| byte == 0);
    let [program, weights, storage] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    distillery_fuzz::check_exported(&distillery_fuzz::exported(program, weights, storage));
});
