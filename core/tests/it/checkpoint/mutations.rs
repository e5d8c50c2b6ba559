//! Promise: no change of a few bytes makes a reader panic.

use std::fs;
use std::path::Path;

use distillery_core::checkpoint::Checkpoint;

/// A generator with a fixed seed, so that failures can be reproduced.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Changes, removes, repeats or inserts a few bytes.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        if bytes.len() < 2 {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = [0, 0xff, 0x7f, 0x80, b'(', b't', b'R', b'.'][random.below(8)],
            3 => drop(bytes.drain(at..(at + 1 + random.below(8)).min(bytes.len()))),
            4 => {
                let piece = bytes[at..(at + 1 + random.below(16)).min(bytes.len())].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => bytes.truncate(at),
        }
    }
}

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
