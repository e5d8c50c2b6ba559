//! Finds the state dict in what a pickle of torch.save holds.

use std::collections::{BTreeSet, HashSet};

use super::error::{Error, Result, corrupt, shown};
use super::pickle::{HeapObject, Machine, PickleValue, StorageRef, TensorView, refused};
use super::tensor::{StoredBytes, Tensor};

/// Keys under which training scripts store the state dict, most likely first. Averaged weights come after the others.
const WRAPPERS: [&str; 12] = [
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "student",
    "teacher",
    "state_dict_ema",
    "ema_model",
    "model_ema",
    "ema_state_dict",
    "ema",
    "network",
];
/// Keys under which training scripts store the accuracy of the weights, most specific first.
const RECORDS: [&str; 10] = [
    "accuracy",
    "best_acc",
    "best_acc1",
    "best_accuracy",
    "best_prec1",
    "best_top1",
    "test_acc",
    "val_acc",
    "top1",
    "acc",
];
/// Names that a message lists.
const NAMED: usize = 5;

/// An entry of the state dict.
#[derive(Debug, Clone)]
pub(super) struct NamedTensor<'a> {
    pub(super) name: &'a str,
    pub(super) of: TensorView<'a>,
}

/// What is read of a file.
#[derive(Debug)]
pub(super) struct FoundStateDict<'a> {
    /// In the file's order.
    pub(super) tensors: Vec<NamedTensor<'a>>,
    /// What was passed over or chosen.
    pub(super) notes: Vec<String>,
    /// The accuracy that the training script stored beside it.
    pub(super) accuracy: Option<f64>,
    /// Whether it is the one under the key that was asked for.
    pub(super) is_wanted: bool,
}

/// The state dict of `root`: under the key `wanted`, if the file has it, else under the most likely one.
pub(super) fn find<'a>(
    machine: &Machine<'a>,
    root: PickleValue<'a>,
    wanted: Option<&str>,
) -> Result<FoundStateDict<'a>> {
    let named = wanted.and_then(|wanted| under(machine, root, wanted));
    let (dict, mut notes) = named.map_or_else(|| choose(machine, root), |dict| (dict, Vec::new()));
    let Some(entries) = machine.entries(dict) else {
        return Err(match machine.maker(dict) {
            Some((module, name)) => refused(module, name),
            None => Error::NoStateDict("it is not a dictionary".to_owned()),
        });
    };
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    let mut unread = Vec::new();
    for &(key, value) in entries {
        let PickleValue::Str(name) = key else { continue };
        match machine.object(value) {
            Some(HeapObject::Tensor(tensor)) => {
                if !names.insert(name) {
                    return corrupt(format!("it has two tensors named {}", shown(name)));
                }
                tensors.push(NamedTensor { name, of: tensor.clone() });
            }
            Some(HeapObject::OtherTensor(other)) => unread.push(format!("{} is {other}", shown(name))),
            _ => {}
        }
    }
    if tensors.is_empty() {
        return Err(nothing_in(machine, entries, &unread));
    }
    notes.extend(unread_note(&unread));
    notes.extend(foreign_note(machine));
    Ok(FoundStateDict { tensors, notes, accuracy: accuracy(machine, root), is_wanted: named.is_some() })
}

/// The dictionary that holds the tensors, with notes on the choice.
fn choose<'a>(machine: &Machine<'a>, root: PickleValue<'a>) -> (PickleValue<'a>, Vec<String>) {
    let mut dict = root;
    let mut chosen = None;
    // Wrappers can be nested.
    for _ in 0..4 {
        let Some((key, inner)) = wrapped(machine, dict) else { break };
        chosen = Some(key);
        dict = inner;
    }
    let others = others(machine, root, dict);
    match chosen {
        None if !has_tensors(machine, root) && others.len() == 1 => {
            let (key, only) = others[0];
            (only, vec![format!("the state dict is read from its key {}", shown(key))])
        }
        Some(chosen) if !others.is_empty() => {
            let listed = listed(others.iter().map(|(key, _)| shown(key)), others.len());
            let message = format!(
                "the state dict is read from its key {chosen}; it has others: {listed}. Choose one with state_dict=KEY \
                 at the upload, or with --state-dict KEY"
            );
            (dict, vec![message])
        }
        _ => (dict, Vec::new()),
    }
}

/// The dictionary under a key.
fn under<'a>(machine: &Machine<'a>, dict: PickleValue<'a>, key: &str) -> Option<PickleValue<'a>> {
    let (_, value) = machine.entries(dict)?.iter().find(|(other, _)| *other == PickleValue::Str(key))?;
    machine.entries(*value).filter(|inner| !inner.is_empty()).map(|_| *value)
}

/// The dictionary under the most likely key.
fn wrapped<'a>(machine: &Machine<'a>, dict: PickleValue<'a>) -> Option<(&'static str, PickleValue<'a>)> {
    WRAPPERS.into_iter().find_map(|wrapper| Some((wrapper, under(machine, dict, wrapper)?)))
}

fn has_tensors(machine: &Machine<'_>, dict: PickleValue<'_>) -> bool {
    let is_tensor = |value| matches!(machine.object(value), Some(HeapObject::Tensor(_)));
    machine.entries(dict).unwrap_or_default().iter().any(|&(_, value)| is_tensor(value))
}

/// The first dictionaries with tensors beside the chosen one.
fn others<'a>(
    machine: &Machine<'a>,
    root: PickleValue<'a>,
    chosen: PickleValue<'a>,
) -> Vec<(&'a str, PickleValue<'a>)> {
    let entries = machine.entries(root).unwrap_or_default().iter();
    let dicts = entries.filter_map(|&(key, value)| match key {
        PickleValue::Str(key) if value != chosen => Some((key, value)),
        _ => None,
    });
    // A file can refer to one large dictionary without tensors many times.
    dicts.take(1000).filter(|&(_, value)| starts_with_tensors(machine, value)).take(NAMED + 1).collect()
}

fn starts_with_tensors(machine: &Machine<'_>, dict: PickleValue<'_>) -> bool {
    let first = machine.entries(dict).unwrap_or_default().iter().take(1000);
    first.filter(|&&(_, value)| matches!(machine.object(value), Some(HeapObject::Tensor(_)))).count() > 0
}

/// Why there is nothing to read.
fn nothing_in(machine: &Machine<'_>, entries: &[(PickleValue<'_>, PickleValue<'_>)], unread: &[String]) -> Error {
    if !unread.is_empty() {
        let listed = listed(unread.iter().cloned(), unread.len());
        return Error::Unsupported(format!("{listed}; save dense floating-point or integer tensors"));
    }
    if let Some((module, name)) = entries.iter().find_map(|&(_, value)| machine.maker(value)) {
        return refused(module, name);
    }
    let keys =
        entries.iter().filter_map(|&(key, _)| if let PickleValue::Str(key) = key { Some(shown(key)) } else { None });
    let keys: Vec<_> = keys.take(8).collect();
    let found =
        if keys.is_empty() { "it is empty".to_owned() } else { format!("its keys include {}", keys.join(", ")) };
    Error::NoStateDict(found)
}

/// Says which tensors are not read.
pub(super) fn unread_note(unread: &[String]) -> Option<String> {
    let listed = listed(unread.iter().cloned(), unread.len());
    (!unread.is_empty()).then(|| format!("tensors of kinds that are not read are left out: {listed}"))
}

/// Says which objects are not read.
fn foreign_note(machine: &Machine<'_>) -> Option<String> {
    let names: BTreeSet<_> = machine.foreign().collect();
    let listed = listed(names.iter().map(|(module, name)| format!("{}.{}", shown(module), shown(name))), names.len());
    (!names.is_empty())
        .then(|| format!("objects beside the weights are left out, and nothing of them was run: {listed}"))
}

fn listed(names: impl Iterator<Item = String>, count: usize) -> String {
    let mut listed = names.take(NAMED).collect::<Vec<_>>().join(", ");
    if count > NAMED {
        listed += &format!(" and {} more", count - NAMED);
    }
    listed
}

fn accuracy(machine: &Machine<'_>, root: PickleValue<'_>) -> Option<f64> {
    let entries = machine.entries(root)?;
    let number = |key: &str| match entries.iter().find(|(other, _)| *other == PickleValue::Str(key))?.1 {
        PickleValue::Float(number) => Some(number),
        PickleValue::Int(number) => Some(number as f64),
        _ => None,
    };
    RECORDS.iter().find_map(|key| number(key))
}

/// Combines tensors with the bytes of their storages.
pub(super) fn tensors(
    named: Vec<NamedTensor<'_>>,
    big_endian: bool,
    mut bytes_of: impl FnMut(&StorageRef<'_>) -> Result<StoredBytes>,
) -> Result<Vec<Tensor>> {
    let join = |NamedTensor { name, of: TensorView { storage, dtype, mut view } }: NamedTensor<'_>| {
        let mut data = bytes_of(&storage)?;
        let needed = storage.elements.checked_mul(dtype.size()).filter(|&needed| needed <= data.len());
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
        Tensor::new(name.to_owned(), dtype, view, data, big_endian)
    };
    named.into_iter().map(join).collect()
}
