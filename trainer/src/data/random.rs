//! Random generators that depend on the seed and the place in the run alone.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// A generator for one purpose at one place of a run. The arguments form its key, so that different arguments give
/// independent streams.
pub(crate) fn generator(purpose: &[u8; 8], seed: u64, epoch: u32, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(purpose);
    key[8..16].copy_from_slice(&seed.to_le_bytes());
    key[16..24].copy_from_slice(&index.to_le_bytes());
    key[24..28].copy_from_slice(&epoch.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}
