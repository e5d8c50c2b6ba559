//! Reads checkpoints into named tensors, and writes them as safetensors, without libtorch.
//!
//! A checkpoint can come from anybody and is not trusted: the first bytes decide the format, pickles are read by a
//! machine that cannot run anything (`pickle`), and memory is allocated only for bytes that exist.

pub(crate) mod archive;
mod detect;
pub(crate) mod error;
mod legacy;
mod metadata;
mod naming;
mod pickle;
mod pieces;
mod reader;
mod safetensors;
mod soundness;
mod state_dict;
pub(crate) mod tensor;
mod zip;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::Path;

pub use detect::CheckpointFormat;
pub use error::Error;
pub use metadata::{EXPORTED, NETWORK};
pub(crate) use safetensors::write_each;
pub use safetensors::{NewTensor, write};
pub use soundness::Soundness;
pub use tensor::{Dtype, Tensor};

use crate::architecture::{self, Shapes};
use crate::byte_source::ByteSource;
use crate::file_kind::irregular;

/// Largest pickle, in bytes. A pickle contains names and shapes, but no weights.
const LONGEST_PICKLE: u64 = 64 << 20;
/// Tensors may share storages, but all of them together may have at most this many times the size of the file.
pub(crate) const MOST_SHARING: u64 = 4;

/// What a format's reader finds.
#[derive(Debug)]
struct FileContents {
    /// In the file's order.
    tensors: Vec<Tensor>,
    metadata: BTreeMap<String, String>,
    /// What was passed over or chosen, in sentences without a full stop.
    notes: Vec<String>,
    /// Whether these are the tensors under the key that was asked for.
    is_wanted: bool,
}

impl FileContents {
    fn of_pickle(
        found: state_dict::FoundStateDict<'_>,
        big_endian: bool,
        bytes_of: impl FnMut(&pickle::StorageRef<'_>) -> Result<tensor::StoredBytes, Error>,
    ) -> Result<Self, Error> {
        let state_dict::FoundStateDict { tensors, notes, accuracy, is_wanted } = found;
        let tensors = state_dict::tensors(tensors, big_endian, bytes_of)?;
        let metadata = accuracy.map(|accuracy| (ACCURACY.to_owned(), accuracy.to_string())).into_iter().collect();
        Ok(Self { tensors, metadata, notes, is_wanted })
    }
}

/// The key of the network's accuracy in the metadata.
pub const ACCURACY: &str = "accuracy";

/// A state dict on disk. Elements are read on demand.
#[derive(Debug)]
pub struct Checkpoint {
    source: ByteSource,
    format: CheckpointFormat,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
    notes: Vec<String>,
}

/// How the names in a file become keys of a state dict.
#[derive(Debug, Clone, Copy)]
enum Keys<'a> {
    /// As they are.
    AsWritten,
    /// Without the prefixes of wrappers, or as a known network's keys in the same order. Of several state dicts, the
    /// one under this key or prefix, if it is given.
    OfNetwork(Option<&'a str>),
}

/// Opens a file to read, and nothing else: a pipe may never say anything, and a device never end.
pub(crate) fn open_regular(path: &Path) -> Result<ByteSource, Error> {
    if let Some(kind) = irregular(fs::metadata(path)?.file_type()) {
        return Err(Error::Irregular(kind));
    }
    Ok(ByteSource::from_file(File::open(path)?)?)
}

impl Checkpoint {
    /// Reads everything but the elements. Prefixes of wrappers are removed from the keys, and what is passed over is in
    /// the [`notes`](Self::notes).
    ///
    /// # Errors
    /// The file is not a checkpoint, is damaged or hostile, contains no state dict, or cannot be read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_state_dict(path, None)
    }

    /// Like [`Checkpoint::open`], for the state dict under a key of the file, or of the tensors whose keys begin with
    /// it. `None` chooses the most likely one.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`], or the file has no such state dict.
    pub fn open_state_dict(path: &Path, key: Option<&str>) -> Result<Self, Error> {
        Self::new(open_regular(path)?, Keys::OfNetwork(key))
    }

    /// Like [`Checkpoint::open`], with the keys as they are in the file.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`].
    pub fn open_as_written(path: &Path) -> Result<Self, Error> {
        Self::new(open_regular(path)?, Keys::AsWritten)
    }

    /// Like [`Checkpoint::open`], for a file in memory: tests and the fuzzer read thousands.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, Error> {
        Self::new(ByteSource::Memory(bytes), Keys::OfNetwork(None))
    }

    fn new(source: ByteSource, keys: Keys<'_>) -> Result<Self, Error> {
        let format = CheckpointFormat::detect(&source.read(0, source.len().min(16))?)?;
        let wanted = if let Keys::OfNetwork(wanted) = keys { wanted } else { None };
        let FileContents { tensors, metadata, mut notes, is_wanted } = match format {
            CheckpointFormat::Safetensors => safetensors::read(&source)?,
            CheckpointFormat::TorchZip => zip::read(&source, wanted)?,
            CheckpointFormat::TorchLegacy => legacy::read(&source, wanted)?,
        };
        if tensors.is_empty() {
            return Err(Error::NoStateDict("it is empty".to_owned()));
        }
        let cost = tensors.iter().fold(0_u64, |sum, tensor| sum.saturating_add(tensor.cost()));
        let unpacked = tensor::unpacked(&tensors);
        let most = source.len().saturating_add(unpacked).saturating_mul(MOST_SHARING).saturating_add(1 << 20);
        if cost > most {
            let message = format!("its tensors would take {cost} bytes, but it has only {} bytes", source.len());
            return Err(Error::Limit(message));
        }
        let tensors = match keys {
            Keys::AsWritten => tensors,
            Keys::OfNetwork(wanted) => naming::settle(tensors, wanted.filter(|_| !is_wanted), &mut notes)?,
        };
        let index = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name().to_owned(), at)).collect();
        let mut checkpoint = Self { source, format, tensors, index, metadata, notes };
        if format == CheckpointFormat::Safetensors {
            let doubts = checkpoint.doubts_of_metadata();
            checkpoint.notes.extend(doubts);
        }
        Ok(checkpoint)
    }

    #[must_use]
    pub fn format(&self) -> CheckpointFormat {
        self.format
    }

    /// In the file's order.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&at| &self.tensors[at])
    }

    /// Keys and shapes, which identify the network.
    #[must_use]
    pub fn shapes(&self) -> Shapes {
        self.tensors.iter().map(|tensor| (tensor.name().to_owned(), tensor.shape().to_vec())).collect()
    }

    /// Metadata of a safetensors file. The other formats have [`ACCURACY`] at most.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// What was passed over, chosen or read under another name, for the user: sentences without a full stop.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The accuracy in percent that the file names for its network. A number up to 1 is a fraction.
    #[must_use]
    pub fn recorded_accuracy(&self) -> Option<f64> {
        let accuracy: f64 = self.metadata.get(ACCURACY)?.trim().trim_end_matches('%').trim_end().parse().ok()?;
        let percent = if accuracy <= 1.0 { 100.0 * accuracy } else { accuracy };
        (0.0..=100.0).contains(&percent).then_some(percent)
    }

    /// Number of trained parameters: floating-point elements other than running statistics and counters.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let statistics = |name: &str| {
            name.ends_with("running_mean") || name.ends_with("running_var") || architecture::is_counter(name)
        };
        let trained = self.tensors.iter().filter(|tensor| tensor.dtype().is_float() && !statistics(tensor.name()));
        trained.map(Tensor::elements).sum()
    }

    /// A tensor's elements in its own type, in row-major order and little-endian.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn bytes(&self, tensor: &Tensor) -> Result<Vec<u8>, Error> {
        tensor.bytes(&self.source)
    }

    /// The elements of `count` entries of a tensor's first dimension from `first` on, as by [`bytes`](Self::bytes).
    /// Only these are read from a safetensors file.
    ///
    /// # Errors
    /// The file cannot be read.
    ///
    /// # Panics
    /// The tensor has fewer entries.
    pub fn rows(&self, tensor: &Tensor, first: u64, count: u64) -> Result<Vec<u8>, Error> {
        tensor.rows(&self.source, first, count)
    }

    /// A tensor's elements converted to single precision, in row-major order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn floats(&self, tensor: &Tensor) -> Result<Vec<f32>, Error> {
        Ok(tensor::to_f32(tensor.dtype(), &self.bytes(tensor)?))
    }

    /// Writes the state dict as safetensors, with the metadata that other readers expect. The output may replace the
    /// file.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn convert(&self, output: &Path) -> Result<(), Error> {
        let mut metadata = self.metadata.clone();
        // transformers and other readers expect this of weights from PyTorch.
        metadata.entry("format".to_owned()).or_insert_with(|| "pt".to_owned());
        self.write_safetensors(output, &metadata)
    }

    /// Writes the state dict as safetensors, with unchanged element types.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn write_safetensors(&self, path: &Path, metadata: &BTreeMap<String, String>) -> Result<(), Error> {
        let tensors: Vec<_> =
            self.tensors.iter().map(|tensor| (tensor.name(), tensor.dtype(), tensor.shape())).collect();
        write_each(path, &tensors, metadata, |index| self.bytes(&self.tensors[index]))
    }
}

/// Converts a checkpoint to safetensors, and returns the input. The output may replace the input.
///
/// # Errors
/// The input is not a checkpoint, or a file cannot be read or written.
pub fn convert(input: &Path, output: &Path) -> Result<Checkpoint, Error> {
    let checkpoint = Checkpoint::open(input)?;
    checkpoint.convert(output)?;
    Ok(checkpoint)
}
