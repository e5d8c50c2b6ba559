//! The decoded images of a split, for later runs.
//!
//! ```text
//! magic and key, zeros up to 4096 bytes; SHA-256 of what follows; SHA-256 of the data set's files, in hexadecimal;
//! mean and standard deviation of the pixels (6 float64); images (u64); labels (int64); pixels, three planes per image
//! ```
//!
//! The key holds paths, sizes and times of the data set's files, which are cheap to check. Whether their content is
//! still the one that was decoded is checked while training goes on, by its SHA-256. A file is read, not mapped: if
//! somebody truncates it, reading fails, whereas a mapping would kill the process.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::{Cache, remove};
use distillery_core::dataset::{MeanStd, plane_bytes};

const MAGIC: &[u8] = b"distillery images 1\n";
const HEAD: usize = 4096;
const HASH: usize = 32;
/// SHA-256 of the files, mean and standard deviation, number of images.
const FACTS: usize = 64 + 6 * 8 + 8;
/// Bytes of the parts that are hashed in parallel.
const PART: usize = 1 << 20;

/// The images of a split, on the CPU.
#[derive(Debug)]
pub struct DecodedSplit {
    /// [N, 3, S, S] bytes.
    pub pixels: Tensor,
    /// `[N]` int64.
    pub labels: Tensor,
    pub mean_std: MeanStd,
}

/// A file of a cache for the images of one split.
#[derive(Debug, Clone)]
pub struct ImageFile {
    cache: Cache,
    key: String,
    path: PathBuf,
    side: u32,
}

impl ImageFile {
    /// `key` names everything that the images depend on. They have `side`×`side` pixels.
    #[must_use]
    pub fn new(cache: &Cache, key: String, side: u32) -> Self {
        Self { cache: cache.clone(), path: cache.path("images", &key), key, side }
    }

    /// For messages.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    fn head(&self) -> Option<[u8; HEAD]> {
        let text = [MAGIC, self.key.as_bytes()].concat();
        let mut head = [0; HEAD];
        head.get_mut(..text.len())?.copy_from_slice(&text);
        Some(head)
    }

    /// Loads the images and the SHA-256 of the files that they were decoded from; `None` if they are not cached.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn load(&self) -> io::Result<Option<(DecodedSplit, String)>> {
        let Some(file) = Cache::find(&self.path)? else { return Ok(None) };
        self.read(file).map(Some)
    }

    fn read(&self, mut file: File) -> io::Result<(DecodedSplit, String)> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the file is damaged");
        let length = file.metadata()?.len();
        let mut start = [0; HEAD + HASH + FACTS];
        file.read_exact(&mut start)?;
        let (head, rest) = start.split_at(HEAD);
        let (hash, facts) = rest.split_at(HASH);
        let count = u64::from_le_bytes(facts[FACTS - 8..].try_into().expect("eight bytes"));
        let image = plane_bytes(self.side) as u64;
        // Checked before memory is allocated for what the file claims.
        let expected = count.checked_mul(8 + image).and_then(|bytes| bytes.checked_add(start.len() as u64));
        if self.head().is_none_or(|wanted| wanted != head) || count == 0 || expected != Some(length) {
            return Err(damaged());
        }
        let (mut labels, mut pixels) = (vec![0; count as usize * 8], vec![0; (count * image) as usize]);
        file.read_exact(&mut labels)?;
        file.read_exact(&mut pixels)?;
        if content_hash(facts, &labels, &pixels) != hash {
            return Err(damaged());
        }
        let side = i64::from(self.side);
        let labels = Tensor::from_data_size(&labels, &[count as i64], Kind::Int64);
        let pixels = Tensor::from_data_size(&pixels, &[count as i64, 3, side, side], Kind::Uint8);
        let sha256 = String::from_utf8(facts[..64].to_vec()).map_err(|_| damaged())?;
        let number = |index: usize| f64::from_le_bytes(facts[64 + 8 * index..][..8].try_into().expect("eight bytes"));
        let mean_std = MeanStd { mean: [0, 1, 2].map(number), std: [3, 4, 5].map(number) };
        Ok((DecodedSplit { pixels, labels, mean_std }, sha256))
    }

    /// Stores images. `sha256` is that of the files that they were decoded from.
    ///
    /// # Errors
    /// They cannot be written, or exceed the limit of the cache.
    pub fn store(&self, images: &DecodedSplit, sha256: &str) -> io::Result<()> {
        let head = self.head().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the key is too long"))?;
        let (labels, pixels) = (bytes_of(&images.labels), bytes_of(&images.pixels));
        let mut facts = sha256.as_bytes().to_vec();
        let MeanStd { mean, std } = images.mean_std;
        facts.extend(mean.iter().chain(&std).flat_map(|number| number.to_le_bytes()));
        facts.extend((images.labels.numel() as u64).to_le_bytes());
        let length = (HEAD + HASH + FACTS + labels.len() + pixels.len()) as u64;
        self.cache
            .put(&self.path, length, |file| {
                let hash = content_hash(&facts, &labels, &pixels);
                [&head[..], &hash, &facts, &labels, &pixels].into_iter().try_for_each(|part| file.write_all(part))
            })
            .map(drop)
    }

    /// Removes the images from the cache.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }
}

/// A tensor's content in row-major order.
fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.contiguous().copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

/// SHA-256 of the hashes of parts, which all cores compute.
fn content_hash(facts: &[u8], labels: &[u8], pixels: &[u8]) -> [u8; HASH] {
    let parts = |bytes: &[u8]| bytes.par_chunks(PART).map(Sha256::digest).collect::<Vec<_>>();
    let mut hash = Sha256::new();
    hash.update(facts);
    parts(labels).iter().chain(&parts(pixels)).for_each(|part| hash.update(part));
    hash.finalize().into()
}
