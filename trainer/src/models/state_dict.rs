//! State dicts: a network's tensors by name, in memory and in files.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::Network;
use crate::error::{Error, Result};
use distillery_core::architecture::{self, Architecture};
use distillery_core::checkpoint::{self, Checkpoint, Dtype, NewTensor, Soundness};
use distillery_core::protocol::ErrorClass;

/// Copies of a network's tensors on the CPU, by name, in PyTorch's order.
pub type StateDict = Vec<(String, Tensor)>;

/// The element types of state dicts.
const KINDS: [(Kind, Dtype); 10] = [
    (Kind::Float, Dtype::F32),
    (Kind::Int64, Dtype::I64),
    (Kind::Double, Dtype::F64),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::Bf16),
    (Kind::Int, Dtype::I32),
    (Kind::Int16, Dtype::I16),
    (Kind::Int8, Dtype::I8),
    (Kind::Uint8, Dtype::U8),
    (Kind::Bool, Dtype::Bool),
];

/// libtorch's name of an element type.
pub(crate) fn kind(dtype: Dtype) -> Kind {
    let known = KINDS.iter().find(|(_, known)| *known == dtype);
    known.map(|(kind, _)| *kind).expect("every element type has a kind")
}

/// Opens a user's checkpoint, of several state dicts in it the one under a key. Returns it with the number of classes
/// of its classifier.
///
/// # Errors
/// The file cannot be read, or does not fit the architecture.
pub fn open(path: &Path, architecture: &Architecture, state_dict: Option<&str>) -> Result<(Checkpoint, u32)> {
    let checkpoint = Checkpoint::open_state_dict(path, state_dict).map_err(|error| unreadable(path, &error))?;
    let shapes = checkpoint.shapes();
    if let Some(mismatch) = architecture::mismatch(architecture, &shapes, None) {
        let notes: String = checkpoint.notes().iter().map(|note| format!("; {note}")).collect();
        return Err(Error::user(format!("checkpoint {} {mismatch}{notes}", path.display())));
    }
    let fits = architecture::fits(&shapes);
    let fit = fits.iter().find(|fit| fit.architecture.name == architecture.name);
    let fit = fit.ok_or_else(|| Error::internal(format!("{} fits and does not fit", path.display())))?;
    Ok((checkpoint, fit.classes))
}

/// Checks that a checkpoint has as many classes as the data set. `name` begins the message: "the teacher's checkpoint".
///
/// # Errors
/// The numbers differ.
pub fn check_classes(name: &str, path: &Path, classes: u32, (dataset, expected): (&Path, u32)) -> Result<()> {
    let (network, dataset) = (format!("{name} {}", path.display()), format!("data set {}", dataset.display()));
    architecture::class_mismatch(&network, classes, &dataset, expected).map_or(Ok(()), |error| Err(Error::user(error)))
}

/// Converts an error of the checkpoint reader.
pub fn unreadable(path: &Path, error: &checkpoint::Error) -> Error {
    match error {
        checkpoint::Error::Io(io) if io.kind() == std::io::ErrorKind::NotFound => {
            Error::user(format!("checkpoint {} does not exist", path.display()))
        }
        _ => {
            let class = if error.is_users() { ErrorClass::User } else { ErrorClass::Storage };
            Error { class, message: format!("checkpoint {}: {error}", path.display()) }
        }
    }
}

/// Copies a checkpoint that [`open`] accepted into the network, but for the tensors with the indices `kept`: those of a
/// new classifier. Returns what is doubtful about the weights.
///
/// # Errors
/// The file cannot be read, or holds weights that make every output NaN.
pub fn load(network: &Network, checkpoint: &Checkpoint, path: &Path, kept: &[usize]) -> Result<Option<String>> {
    let architecture =
        network.architecture().ok_or_else(|| Error::internal(format!("{network:?} has no architecture")))?;
    let soundness = checkpoint.soundness(architecture, network.classes()).map_err(|error| unreadable(path, &error))?;
    let doubt = match soundness {
        Soundness::Sound => None,
        Soundness::Doubtful(doubt) => Some(doubt),
        Soundness::Unsound(unsound) => {
            return Err(Error::user(format!("checkpoint {} {unsound}", path.display())));
        }
    };
    let found: BTreeMap<&str, &checkpoint::Tensor> = checkpoint
        .tensors()
        .iter()
        .filter_map(|tensor| Some((architecture.canonical_key(tensor.name())?, tensor)))
        .collect();
    for (index, weight) in network.weights().iter().enumerate().filter(|(index, _)| !kept.contains(index)) {
        let tensor = found
            .get(weight.name.as_str())
            .ok_or_else(|| Error::internal(format!("{} has no {}", path.display(), weight.name)))?;
        let values = checkpoint.floats(tensor).map_err(|error| unreadable(path, &error))?;
        network.set(index, &Tensor::f_from_slice(&values)?.f_view(weight.tensor.size().as_slice())?);
    }
    Ok(doubt)
}

/// Copies the network's current weights.
///
/// # Errors
/// They do not fit into memory.
pub fn copy_of(network: &Network) -> Result<StateDict> {
    network.weights().iter().map(|weight| Ok((weight.name.clone(), to_cpu(&weight.tensor)?))).collect()
}

/// A contiguous copy on the CPU.
///
/// # Errors
/// It does not fit into memory.
pub fn to_cpu(tensor: &Tensor) -> Result<Tensor> {
    let mut copy = Tensor::f_empty(tensor.size(), (tensor.kind(), Device::Cpu))?;
    copy.f_copy_(&tensor.detach())?;
    Ok(copy)
}

/// Adds the entries of a network of the zoo that only PyTorch's batch normalisation has: the number of batches that it
/// has seen.
#[must_use]
pub fn with_batches_tracked(state: &[(String, Tensor)], batches: u64) -> StateDict {
    let batches = i64::try_from(batches).unwrap_or(i64::MAX);
    let mut all = Vec::with_capacity(state.len());
    for (name, tensor) in state {
        all.push((name.clone(), tensor.shallow_clone()));
        if let Some(layer) = name.strip_suffix(".running_var") {
            let count = Tensor::from_slice(&[batches]).view([] as [i64; 0]);
            all.push((format!("{layer}.num_batches_tracked"), count));
        }
    }
    all
}

/// Writes contiguous CPU tensors as safetensors. The file is replaced as a whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut stored = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let kind = tensor.kind();
        let dtype = KINDS.iter().find(|(of_kind, _)| *of_kind == kind).map(|(_, dtype)| *dtype);
        let dtype = dtype.ok_or_else(|| Error::internal(format!("{name} is {kind:?}, which cannot be written")))?;
        let mut bytes = vec![0; tensor.numel() * dtype.size() as usize];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        let shape: Vec<u64> = tensor.size().into_iter().map(i64::unsigned_abs).collect();
        stored.push((name, dtype, shape, bytes));
    }
    let views: Vec<_> =
        stored.iter().map(|(name, dtype, shape, bytes)| NewTensor { name, dtype: *dtype, shape, bytes }).collect();
    checkpoint::write(path, &views, metadata).map_err(|error| match error {
        checkpoint::Error::Io(io) => Error::storage(path)(io),
        other => Error::internal(format!("{}: {other}", path.display())),
    })
}
