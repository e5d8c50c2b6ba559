//! What pickles of torch.save may build: tensors and plain containers. Every other name is refused.

use std::collections::HashSet;

use super::error::{Error, Result, corrupt, shown};
use super::pickle::{Machine, Object, Value, refused};
use super::tensor::{Dtype, StoredBytes, StridedView, Tensor};

/// Most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 16;
/// Keys under which training scripts store the state dict, most likely first.
const WRAPPERS: [&str; 6] = ["state_dict", "model", "model_state_dict", "net", "student", "teacher"];

/// A storage as described by a pickle. Its bytes are elsewhere in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct StorageRef<'a> {
    pub(super) key: &'a str,
    pub(super) dtype: Dtype,
    /// Size of the whole storage.
    pub(super) elements: u64,
    /// Offset and number of elements, if this is a part of the storage with that key (before PyTorch 0.4).
    pub(super) part: Option<(u64, u64)>,
}

/// A tensor as described by a pickle.
#[derive(Debug, Clone)]
pub(super) struct TensorView<'a> {
    storage: StorageRef<'a>,
    view: StridedView,
}

/// An entry of the state dict.
#[derive(Debug, Clone)]
pub(super) struct NamedTensor<'a> {
    pub(super) name: &'a str,
    pub(super) storage: StorageRef<'a>,
    pub(super) view: StridedView,
}

/// Builds the object that a call in the pickle would return, if it is harmless. Nothing is run: each known name is
/// handled by a few lines below.
pub(super) fn build<'a>(
    machine: &mut Machine<'a>,
    module: &'a str,
    name: &'a str,
    arguments: &[Value<'a>],
) -> Result<Value<'a>> {
    match (module, name) {
        ("collections", "OrderedDict") => ordered_dict(machine, arguments),
        ("collections", "defaultdict") => Ok(machine.create(Object::Dict(Vec::new()))),
        ("collections", "Counter") => Ok(arguments.first().copied().unwrap_or(Value::Opaque)),
        ("torch", "Size") => Ok(arguments.first().copied().unwrap_or(Value::Opaque)),
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => tensor(machine, arguments),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => match arguments.first() {
            Some(&data) => Ok(data),
            None => corrupt("a parameter has no tensor"),
        },
        // A tensor with attributes or of a subclass. Only the inner tensor matters.
        ("torch._tensor", "_rebuild_from_type_v2") => rebuild_from_type(machine, arguments),
        ("torch._utils", other) if other.starts_with("_rebuild_") => {
            let message = format!("it contains tensors rebuilt by torch._utils.{}; save dense tensors", shown(other));
            Err(Error::Unsupported(message))
        }
        _ if is_inert(module, name) => Ok(Value::Opaque),
        _ => Err(refused(module, name)),
    }
}

/// Classes of plain values that training scripts store beside the weights. They are ignored.
fn is_inert(module: &str, name: &str) -> bool {
    match module {
        "argparse" => name == "Namespace",
        "_codecs" => name == "encode",
        "builtins" | "__builtin__" => {
            matches!(name, "set" | "frozenset" | "bytearray" | "complex" | "range" | "slice" | "int" | "long")
        }
        "numpy" => matches!(name, "dtype" | "ndarray"),
        "numpy.core.multiarray" | "numpy._core.multiarray" => matches!(name, "scalar" | "_reconstruct"),
        "torch" => name == "device",
        "torch.serialization" => name == "_get_layout",
        "pathlib" | "pathlib._local" => name.ends_with("Path"),
        "datetime" => matches!(name, "datetime" | "date" | "time" | "timedelta" | "timezone"),
        _ => false,
    }
}

fn ordered_dict<'a>(machine: &mut Machine<'a>, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let mut entries = Vec::new();
    // Python 2 passes the entries as a list of pairs. They are copied, and a file can refer to the same list many
    // times, so the copies count as instructions.
    let pairs = arguments.first().and_then(|&pairs| machine.sequence(pairs)).unwrap_or_default();
    let copied = pairs.len();
    for &pair in pairs {
        match machine.sequence(pair) {
            Some(&[key, value]) => entries.push((key, value)),
            _ => return corrupt("an OrderedDict has an entry that is not a pair"),
        }
    }
    machine.spend(copied)?;
    Ok(machine.create(Object::Dict(entries)))
}

fn rebuild_from_type<'a>(machine: &mut Machine<'a>, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let &[function, _, inner, ..] = arguments else { return corrupt("a tensor has too few arguments") };
    match machine.global(function) {
        Some(("torch._utils", "_rebuild_tensor_v2")) => {
            let inner = machine.sequence(inner).unwrap_or_default().iter().copied().take(8).collect::<Vec<_>>();
            tensor(machine, &inner)
        }
        Some((module, name)) => Err(refused(module, name)),
        None => corrupt("a tensor is rebuilt by something that is not a function"),
    }
}

fn tensor<'a>(machine: &mut Machine<'a>, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let &[storage, offset, shape, strides, ..] = arguments else {
        return corrupt("a tensor has too few arguments");
    };
    let Some(&Object::Storage(storage)) = machine.object(storage) else {
        return corrupt("a tensor has no storage");
    };
    let (Some(offset), Some(shape), Some(strides)) = (count(offset), counts(machine, shape), counts(machine, strides))
    else {
        return corrupt("a tensor has a shape, strides or an offset that are not small non-negative numbers");
    };
    if shape.len() != strides.len() {
        return corrupt(format!("a tensor has {} dimensions and {} strides", shape.len(), strides.len()));
    }
    let view = TensorView { storage, view: StridedView { offset, shape, strides } };
    Ok(machine.create(Object::Tensor(view)))
}

fn count(value: Value<'_>) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(number).ok(),
        _ => None,
    }
}

fn counts<'a>(machine: &Machine<'a>, value: Value<'a>) -> Option<Vec<u64>> {
    let members = machine.sequence(value).filter(|members| members.len() <= MOST_DIMENSIONS)?;
    members.iter().map(|&member| count(member)).collect()
}

/// The storage for a persistent id: `("storage", class, key, location, elements[, part])`.
pub(super) fn storage<'a>(machine: &mut Machine<'a>, id: Value<'a>) -> Result<Value<'a>> {
    let Some(&[Value::Str("storage"), class, Value::Str(key), _, elements, ref rest @ ..]) = machine.sequence(id)
    else {
        return corrupt("its pickle refers to something that is not a storage");
    };
    let Some((module, class)) = machine.global(class) else { return corrupt("a storage has no class") };
    let dtype = match class {
        _ if !matches!(module, "torch" | "torch.cuda" | "torch.storage") => return Err(refused(module, class)),
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::Bf16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::Bool,
        other => {
            let message = format!(
                "it contains a {}.{}; save real floating-point or integer tensors",
                shown(module),
                shown(other)
            );
            return Err(Error::Unsupported(message));
        }
    };
    let Some(elements) = count(elements) else { return corrupt(format!("storage {} has no size", shown(key))) };
    let part = match rest.first().copied() {
        None | Some(Value::None) => None,
        Some(part) => match machine.sequence(part) {
            Some(&[_, offset, length]) if let (Some(offset), Some(length)) = (count(offset), count(length)) => {
                Some((offset, length))
            }
            _ => return corrupt(format!("storage {} is a part of unknown form", shown(key))),
        },
    };
    Ok(machine.create(Object::Storage(StorageRef { key, dtype, elements, part })))
}

/// The tensors of the state dict, in its order.
pub(super) fn state_dict<'a>(machine: &Machine<'a>, root: Value<'a>) -> Result<Vec<NamedTensor<'a>>> {
    let mut dict = root;
    // Wrappers can be nested.
    for _ in 0..4 {
        let Some(inner) = wrapped(machine, dict) else { break };
        dict = inner;
    }
    let Some(entries) = machine.entries(dict) else {
        return Err(Error::NoStateDict("it is not a dictionary".to_owned()));
    };
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    for &(key, value) in entries {
        let (Value::Str(name), Some(Object::Tensor(tensor))) = (key, machine.object(value)) else { continue };
        if !names.insert(name) {
            return corrupt(format!("it has two tensors named {}", shown(name)));
        }
        tensors.push(NamedTensor { name, storage: tensor.storage, view: tensor.view.clone() });
    }
    if tensors.is_empty() {
        let keys =
            entries.iter().filter_map(|&(key, _)| if let Value::Str(key) = key { Some(shown(key)) } else { None });
        let keys: Vec<_> = keys.take(8).collect();
        let found =
            if keys.is_empty() { "it is empty".to_owned() } else { format!("its keys include {}", keys.join(", ")) };
        return Err(Error::NoStateDict(found));
    }
    Ok(tensors)
}

/// The dictionary under the most likely key.
fn wrapped<'a>(machine: &Machine<'a>, dict: Value<'a>) -> Option<Value<'a>> {
    let entries = machine.entries(dict)?;
    let under = |wrapper: &str| {
        let (_, value) = entries.iter().find(|(key, _)| *key == Value::Str(wrapper))?;
        machine.entries(*value).filter(|inner| !inner.is_empty()).map(|_| *value)
    };
    WRAPPERS.iter().find_map(|wrapper| under(wrapper))
}

/// Combines tensors with the bytes of their storages.
pub(super) fn tensors(
    named: Vec<NamedTensor<'_>>,
    big_endian: bool,
    mut bytes_of: impl FnMut(&StorageRef<'_>) -> Result<StoredBytes>,
) -> Result<Vec<Tensor>> {
    let join = |NamedTensor { name, storage, mut view }: NamedTensor<'_>| {
        let mut data = bytes_of(&storage)?;
        let needed = storage.elements.checked_mul(storage.dtype.size()).filter(|&needed| needed <= data.len());
        let Some(needed) = needed else {
            let (key, elements, stored) = (shown(storage.key), storage.elements, data.len());
            return corrupt(format!("storage {key} has {stored} bytes, too few for {elements} elements"));
        };
        if let Some((offset, length)) = storage.part {
            let end = offset.checked_add(length).filter(|&end| end <= storage.elements);
            let Some(moved) = end.and_then(|_| view.offset.checked_add(offset)) else {
                return corrupt(format!("storage {} has a part outside of it", shown(storage.key)));
            };
            view.offset = moved;
        }
        if let StoredBytes::Range { length, .. } = &mut data {
            *length = needed;
        }
        Tensor::new(name.to_owned(), storage.dtype, view, data, big_endian)
    };
    named.into_iter().map(join).collect()
}
