//! Finds out the format of a checkpoint from its first bytes, whatever its name (`.pth`, `.pt`, `.safetensors`).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{Error, Result};
use super::safetensors;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointFormat {
    /// Hugging Face's safetensors.
    Safetensors,
    /// torch.save since PyTorch 1.6.
    TorchZip,
    /// torch.save before PyTorch 1.6.
    TorchLegacy,
}

impl CheckpointFormat {
    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "torch_zip",
            Self::TorchLegacy => "torch_legacy",
        }
    }

    /// Detects the format from a file's first bytes. 16 bytes suffice.
    ///
    /// # Errors
    /// There are no bytes, or the format is unknown.
    pub fn detect(first: &[u8]) -> Result<Self> {
        let header = first.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let found = match first {
            [] => return Err(Error::Empty),
            // First, because the header's length can look like the first bytes of a pickle.
            [_, _, _, _, _, _, _, _, b'{', ..]
                if header.is_some_and(|length| length <= safetensors::LONGEST_HEADER) =>
            {
                return Ok(Self::Safetensors);
            }
            [b'P', b'K', 3 | 5, 4 | 6, ..] => return Ok(Self::TorchZip),
            // Instruction and version of a pickle's protocol.
            [0x80, 2..=5, ..] => return Ok(Self::TorchLegacy),
            [b'<', ..] => "it looks like a web page".to_owned(),
            _ if first.starts_with(b"version https:") => "it is a Git LFS pointer: download the file itself".to_owned(),
            _ if first.starts_with(&[0x1f, 0x8b]) => "it is compressed with gzip: unpack it".to_owned(),
            _ if first.starts_with(b"\x89HDF") => "it is an HDF5 file".to_owned(),
            _ => {
                let bytes: Vec<_> = first.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
                format!("it starts with the bytes {}", bytes.join(" "))
            }
        };
        Err(Error::NotACheckpoint { found })
    }
}
