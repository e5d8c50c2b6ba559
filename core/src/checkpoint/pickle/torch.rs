//! What pickles of torch.save may build: tensors and plain containers. What any other name would make is passed over.

use super::tensors::{OtherTensor, StorageKind, StorageRef, TensorView};
use super::value::{HeapObject, PickleValue};
use super::{Machine, refused};
use crate::checkpoint::error::{Result, corrupt, shown};
use crate::checkpoint::tensor::{Dtype, StridedView};

/// Most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 16;

/// Builds the object that a call in the pickle would return, if it is known. Nothing is run: each known name is handled
/// by a few lines below, and of other calls only the name is kept.
pub(super) fn build<'a>(
    machine: &mut Machine<'a>,
    module: &'a str,
    name: &'a str,
    arguments: &[PickleValue<'a>],
) -> Result<PickleValue<'a>> {
    match (module, name) {
        ("collections", "OrderedDict") => ordered_dict(machine, arguments),
        ("collections", "defaultdict") => Ok(machine.create(HeapObject::Dict(Vec::new()))),
        ("collections", "Counter") => Ok(arguments.first().copied().unwrap_or(PickleValue::Opaque)),
        ("torch", "Size") => Ok(arguments.first().copied().unwrap_or(PickleValue::Opaque)),
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => tensor(machine, arguments),
        // Of the element types that came after the classes of storages.
        ("torch._utils", "_rebuild_tensor_v3") => typed_tensor(machine, arguments),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => match arguments.first() {
            Some(&data) => Ok(data),
            None => corrupt("a parameter has no tensor"),
        },
        // A tensor with attributes or of a subclass. Only the inner tensor matters.
        ("torch._tensor", "_rebuild_from_type_v2") => rebuild_from_type(machine, arguments),
        ("torch._utils", other) if other.starts_with("_rebuild_") => {
            Ok(machine.create(HeapObject::OtherTensor(OtherTensor::Rebuilt(other))))
        }
        // Before PyTorch 0.4.
        ("torch.nn.parameter", "Parameter") | ("torch.autograd.variable", "Variable")
            if let Some(&data) = arguments.first()
                && matches!(machine.object(data), Some(HeapObject::Tensor(_))) =>
        {
            Ok(data)
        }
        // Python's own ways to make an instance of a class.
        ("copyreg" | "copy_reg", "_reconstructor" | "__newobj__")
            if let Some((module, name)) = arguments.first().and_then(|&class| machine.global(class)) =>
        {
            Ok(machine.create_foreign(module, name))
        }
        _ if is_inert(module, name) => Ok(PickleValue::Opaque),
        _ => Ok(machine.create_foreign(module, name)),
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

fn ordered_dict<'a>(machine: &mut Machine<'a>, arguments: &[PickleValue<'a>]) -> Result<PickleValue<'a>> {
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
    Ok(machine.create(HeapObject::Dict(entries)))
}

fn rebuild_from_type<'a>(machine: &mut Machine<'a>, arguments: &[PickleValue<'a>]) -> Result<PickleValue<'a>> {
    let &[function, _, inner, ..] = arguments else { return corrupt("a tensor has too few arguments") };
    let Some((module, name)) = machine.global(function) else {
        return corrupt("a tensor is rebuilt by something that is not a function");
    };
    if module != "torch._utils" || name == "_rebuild_from_type_v2" {
        return Ok(machine.create_foreign(module, name));
    }
    let inner = machine.sequence(inner).unwrap_or_default().iter().copied().take(8).collect::<Vec<_>>();
    build(machine, module, name, &inner)
}

fn typed_tensor<'a>(machine: &mut Machine<'a>, arguments: &[PickleValue<'a>]) -> Result<PickleValue<'a>> {
    let dtype = arguments.get(6).and_then(|&dtype| machine.global(dtype)).filter(|(module, _)| *module == "torch");
    let Some((_, dtype)) = dtype else { return corrupt("a tensor has no type") };
    Ok(machine.create(HeapObject::OtherTensor(OtherTensor::Typed(dtype))))
}

fn tensor<'a>(machine: &mut Machine<'a>, arguments: &[PickleValue<'a>]) -> Result<PickleValue<'a>> {
    let &[storage, offset, shape, strides, ..] = arguments else {
        return corrupt("a tensor has too few arguments");
    };
    let Some(&HeapObject::Storage(storage)) = machine.object(storage) else {
        return corrupt("a tensor has no storage");
    };
    let (Some(offset), Some(shape), Some(strides)) = (count(offset), counts(machine, shape), counts(machine, strides))
    else {
        return corrupt("a tensor has a shape, strides or an offset that are not small non-negative numbers");
    };
    if shape.len() != strides.len() {
        return corrupt(format!("a tensor has {} dimensions and {} strides", shape.len(), strides.len()));
    }
    let dtype = match storage.kind {
        StorageKind::Known(dtype) => dtype,
        StorageKind::Other(class) => return Ok(machine.create(HeapObject::OtherTensor(OtherTensor::Stored(class)))),
    };
    let view = TensorView { storage, dtype, view: StridedView { offset, shape, strides } };
    Ok(machine.create(HeapObject::Tensor(view)))
}

fn count(value: PickleValue<'_>) -> Option<u64> {
    match value {
        PickleValue::Int(number) => u64::try_from(number).ok(),
        _ => None,
    }
}

fn counts<'a>(machine: &Machine<'a>, value: PickleValue<'a>) -> Option<Vec<u64>> {
    let members = machine.sequence(value).filter(|members| members.len() <= MOST_DIMENSIONS)?;
    members.iter().map(|&member| count(member)).collect()
}

/// What a persistent id stands for: a storage, or the class of a module that was saved whole.
pub(super) fn persistent<'a>(machine: &mut Machine<'a>, id: PickleValue<'a>) -> Result<PickleValue<'a>> {
    match machine.sequence(id) {
        // Before PyTorch 1.6, with the class's source code.
        Some(&[PickleValue::Str("module"), class, ..]) if machine.global(class).is_some() => Ok(class),
        _ => storage(machine, id),
    }
}

/// The storage for a persistent id: `("storage", class, key, location, elements[, part])`.
fn storage<'a>(machine: &mut Machine<'a>, id: PickleValue<'a>) -> Result<PickleValue<'a>> {
    let Some(&[PickleValue::Str("storage"), class, PickleValue::Str(key), _, elements, ref rest @ ..]) =
        machine.sequence(id)
    else {
        return corrupt("its pickle refers to something that is not a storage");
    };
    let Some((module, class)) = machine.global(class) else { return corrupt("a storage has no class") };
    let kind = match class {
        _ if !matches!(module, "torch" | "torch.cuda" | "torch.storage") => return Err(refused(module, class)),
        "DoubleStorage" => StorageKind::Known(Dtype::F64),
        "FloatStorage" => StorageKind::Known(Dtype::F32),
        "HalfStorage" => StorageKind::Known(Dtype::F16),
        "BFloat16Storage" => StorageKind::Known(Dtype::Bf16),
        "LongStorage" => StorageKind::Known(Dtype::I64),
        "IntStorage" => StorageKind::Known(Dtype::I32),
        "ShortStorage" => StorageKind::Known(Dtype::I16),
        "CharStorage" => StorageKind::Known(Dtype::I8),
        "ByteStorage" => StorageKind::Known(Dtype::U8),
        "BoolStorage" => StorageKind::Known(Dtype::Bool),
        other => StorageKind::Other(other),
    };
    let Some(elements) = count(elements) else { return corrupt(format!("storage {} has no size", shown(key))) };
    let part = match rest.first().copied() {
        None | Some(PickleValue::None) => None,
        Some(part) => match machine.sequence(part) {
            Some(&[_, offset, length]) if let (Some(offset), Some(length)) = (count(offset), count(length)) => {
                Some((offset, length))
            }
            _ => return corrupt(format!("storage {} is a part of unknown form", shown(key))),
        },
    };
    Ok(machine.create(HeapObject::Storage(StorageRef { key, kind, elements, part })))
}
