//! Random numbers that follow from the seed and the place in the run alone.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Random numbers of one use (`purpose`) at one place of a run. The arguments are the key itself, so that different
/// ones give unrelated numbers.
pub(super) fn random(purpose: &[u8; 8], seed: u64, epoch: u32, batch: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(purpose);
    key[8..16].copy_from_slice(&seed.to_le_bytes());
    key[16..24].copy_from_slice(&batch.to_le_bytes());
    key[24..28].copy_from_slice(&epoch.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}
