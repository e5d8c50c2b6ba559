//! The tensors of an exported network: its state dict, and constants beside it.

use std::collections::HashMap;

use super::archive::{NetworkArchive, damaged, limit};
use super::arguments::MOST_DIMENSIONS;
use super::error::{Error, NetworkFaults, OrFault, Result};
use super::schema::{Payload, Payloads, SizeMeta, TensorMeta};
use super::stored::{StoredTensor, TensorRole};
use super::ties;
use crate::byte_source::ByteSource;
use crate::checkpoint::error::shown;
use crate::checkpoint::tensor::{StoredBytes, StridedView};
use crate::checkpoint::{self, Dtype, MOST_SHARING, Tensor};

/// The weights as PyTorch 2.8 writes them. Its program is one that is read.
const PICKLED_WEIGHTS: &str = "data/weights/model.pt";

/// PyTorch's number of the layout of ordinary tensors.
const STRIDED: u64 = 7;

#[derive(Debug, Default)]
pub(super) struct Tensors {
    pub(super) list: Vec<StoredTensor>,
    /// Indices of parameters and buffers by key.
    pub(super) state: HashMap<String, usize>,
    /// Indices of constants, and of buffers outside the state dict, by name.
    pub(super) constants: HashMap<String, usize>,
}

impl Tensors {
    /// Reads where the tensors are. Faults of single tensors are added to `faults`, and the tensors left out.
    pub(super) fn read(archive: &NetworkArchive<'_>, source: &ByteSource, faults: &mut NetworkFaults) -> Result<Self> {
        let big_endian = match archive.word("byteorder")?.as_deref() {
            None | Some("little") => false,
            Some("big") => true,
            Some(other) => return Err(damaged(format!("its byte order is {}", shown(other)))),
        };
        let mut tensors = Self::default();
        for (folder, document) in
            [("weights", "model_weights_config.json"), ("constants", "model_constants_config.json")]
        {
            let is_state = folder == "weights";
            let name = format!("data/{folder}/{document}");
            if !is_state && archive.range(&name).is_none() {
                continue;
            }
            if archive.range(&name).is_none() && archive.range(PICKLED_WEIGHTS).is_some() {
                return Err(Error::Version("its weights in a pickle, as PyTorch 2.8 writes them".to_owned()));
            }
            let Payloads { config } = archive.json(&name)?;
            for (key, payload) in config.0 {
                let file = format!("data/{folder}/{}", payload.path_name);
                match tensor(archive, &key, &file, &payload, big_endian) {
                    Ok(tensor) => {
                        let is_frozen = payload.tensor_meta.is_some_and(|meta| meta.requires_grad == Some(false));
                        tensors.add(key, tensor, file, is_state, payload.is_param.then_some(is_frozen));
                    }
                    Err(fault) => faults.add(format!("tensor {}", shown(&key)), fault),
                }
            }
        }
        for (index, first) in ties::ties(&tensors.list) {
            tensors.list[index].tied_to = Some(first);
        }
        let cost = tensors.list.iter().fold(0_u64, |sum, stored| sum.saturating_add(stored.tensor.cost()));
        if cost > source.len().saturating_mul(MOST_SHARING).saturating_add(1 << 20) {
            let message = format!("its tensors would take {cost} bytes, but it has only {} bytes", source.len());
            return Err(limit(message));
        }
        Ok(tensors)
    }

    /// `frozen`: whether a parameter is frozen; `None` for what is none.
    fn add(&mut self, key: String, tensor: Tensor, file: String, is_state: bool, frozen: Option<bool>) {
        let role = match (is_state, frozen) {
            (true, Some(_)) => TensorRole::Parameter,
            (true, None) => TensorRole::Buffer,
            (false, _) => TensorRole::Constant,
        };
        let trained = role == TensorRole::Parameter && frozen == Some(false);
        let keys = if is_state { &mut self.state } else { &mut self.constants };
        keys.insert(key, self.list.len());
        self.list.push(StoredTensor { tensor, role, trained, tied_to: None, file });
    }
}

fn tensor(archive: &NetworkArchive<'_>, key: &str, file: &str, payload: &Payload, big_endian: bool) -> OrFault<Tensor> {
    if payload.use_pickle {
        return Err("is stored as a pickle, which is not read".to_owned());
    }
    let Some(meta) = &payload.tensor_meta else { return Err("is not a tensor".to_owned()) };
    let numbers = |sizes: &[SizeMeta]| sizes.iter().map(number).collect::<Option<Vec<u64>>>();
    let (Some(shape), Some(strides), Some(offset)) =
        (numbers(&meta.sizes), numbers(&meta.strides), number(&meta.storage_offset))
    else {
        return Err("has a shape, strides or an offset that are not small non-negative numbers".to_owned());
    };
    if shape.len() != strides.len() || shape.len() > MOST_DIMENSIONS {
        return Err(format!("has {} dimensions and {} strides", shape.len(), strides.len()));
    }
    let dtype = dtype(meta)?;
    let Some(range) = archive.range(file) else {
        return Err(format!("has its bytes in {}, which is missing from the archive", shown(file)));
    };
    let data = StoredBytes::Range { offset: range.start, length: range.end - range.start };
    let view = StridedView { offset, shape, strides };
    Tensor::new(key.to_owned(), dtype, view, data, big_endian).map_err(|error| match error {
        checkpoint::Error::Corrupt(message) => message,
        other => other.to_string(),
    })
}

fn number(size: &SizeMeta) -> Option<u64> {
    match size {
        SizeMeta::Int(size) => u64::try_from(*size).ok(),
        SizeMeta::Expression(_) => None,
    }
}

/// The element type of a recorded tensor.
pub(super) fn dtype(meta: &TensorMeta) -> OrFault<Dtype> {
    if meta.layout != STRIDED {
        return Err("is sparse, or in another layout that is not read".to_owned());
    }
    element_type(meta.dtype)
}

/// The element type with PyTorch's number.
pub(super) fn element_type(number: u64) -> OrFault<Dtype> {
    Ok(match number {
        1 => Dtype::U8,
        2 => Dtype::I8,
        3 => Dtype::I16,
        4 => Dtype::I32,
        5 => Dtype::I64,
        6 => Dtype::F16,
        7 => Dtype::F32,
        8 => Dtype::F64,
        12 => Dtype::Bool,
        13 => Dtype::Bf16,
        9..=11 => return Err("has complex elements, which are not read".to_owned()),
        other => return Err(format!("has elements of PyTorch's type number {other}, which are not read")),
    })
}
