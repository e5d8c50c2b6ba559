//! Promise: no change of a few bytes makes a reader panic.

use std::fs;
use std::path::Path;

use distillery_core::checkpoint::Checkpoint;

use crate::support::random::{Random, mutate};

#[test]
fn random_changes_never_panic() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints");
    let mut random = Random(0x5eed);
    let mut sound = 0;
    let small = Checkpoint::open(&fixtures.join("views.pth")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("views.safetensors");
    small.write_safetensors(&path, &[("a".to_owned(), "b".to_owned())].into()).unwrap();
    let names =
        ["zip.pth", "nested.pth", "views.pth", "deflated.pth", "big_endian.pth", "legacy.th", "legacy_nested.pth"];
    let names = names.iter().chain(&["legacy_views.pth", "legacy_protocol4.pt", "legacy_dtypes.pth"]);
    let mut files: Vec<_> = names.map(|name| fs::read(fixtures.join(name)).unwrap()).collect();
    files.push(fs::read(path).unwrap());
    for round in 0..6_600 {
        let mut bytes = files[round % files.len()].clone();
        mutate(&mut bytes, &mut random);
        if let Ok(checkpoint) = Checkpoint::from_bytes(bytes) {
            sound += 1;
            for tensor in checkpoint.tensors() {
                assert_eq!(checkpoint.floats(tensor).unwrap().len() as u64, tensor.elements());
            }
        }
    }
    // Some changes hit only the weights. If none did, the test would prove nothing.
    assert!((100..6_000).contains(&sound), "{sound}");
}
