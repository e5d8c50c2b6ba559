//! Reads the images of a folder.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::super::{Error, Frame, Images, memory, pixels};

/// Largest encoded image, in bytes.
const LARGEST_FILE: u64 = 256 << 20;

/// The images of a split.
#[derive(Debug)]
pub(super) struct FolderImages {
    pub files: Vec<PathBuf>,
    pub labels: Vec<u32>,
}

impl FolderImages {
    /// Hands over the encoded image. Until that is done, other large ones wait where memory is limited.
    fn with_encoded<T>(&self, index: usize, then: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
        let (path, mut encoded) = (&self.files[index], Vec::new());
        let file = File::open(path).map_err(Error::io(path))?;
        let _turn = memory::read(file.metadata().map_err(Error::io(path))?.len());
        file.take(LARGEST_FILE + 1).read_to_end(&mut encoded).map_err(Error::io(path))?;
        if encoded.len() as u64 > LARGEST_FILE {
            return Err(Error::invalid(path, "is larger than 256 MiB: replace it by a smaller copy"));
        }
        Ok(then(&encoded))
    }
}

impl Images for FolderImages {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), Error> {
        self.read_stored(index, frame, (side, planes), &mut |_| ())
    }

    fn stored(&self, index: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        self.with_encoded(index, take)
    }

    fn read_stored(
        &self,
        index: usize,
        frame: &Frame<'_>,
        (side, planes): (u32, &mut [u8]),
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Error> {
        let decoded = self.with_encoded(index, |encoded| {
            take(encoded);
            // As torchvision's ImageFolder, which does not turn images.
            pixels::decode(encoded, pixels::Orientation::AsStored, frame, side, planes).map(drop)
        });
        decoded?.map_err(|message| Error::invalid(&self.files[index], message))
    }
}
