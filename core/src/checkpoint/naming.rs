//! From the keys in a file to those of a network: removes the prefixes that wrappers add, chooses one of several
//! networks, and reads a known network under other names.

use std::collections::{BTreeMap, HashSet};

use super::error::{Error, Result, shown};
use super::tensor::Tensor;
use crate::architecture::{self, Shapes, is_counter};
use crate::text::counted;

/// Prefixes that wrappers add to every key: `DataParallel`, `torch.compile`, Lightning, averaged models, distillers.
/// Where a file has several networks, those named first are preferred.
const WRAPPERS: [&str; 13] = [
    "module",
    "_orig_mod",
    "model",
    "net",
    "network",
    "student",
    "teacher",
    "backbone",
    "ema_model",
    "model_ema",
    "ema",
    "averaged_model",
    "_forward_module",
];
/// Wrappers can be wrapped.
const DEEPEST: usize = 6;
/// Most networks that a file is searched for.
const MOST_NETWORKS: usize = 16;

/// Gives the tensors a network's keys as far as that is unambiguous, and notes what was done. `wanted` is the prefix of
/// the network to choose.
pub(super) fn settle(mut tensors: Vec<Tensor>, wanted: Option<&str>, notes: &mut Vec<String>) -> Result<Vec<Tensor>> {
    rename(&mut tensors, wanted, notes)?;
    // Without their prefixes, counters of a wrapper and of what it wraps may have the same key.
    let mut names = HashSet::new();
    tensors.retain(|tensor| names.insert(tensor.name().to_owned()));
    Ok(tensors)
}

fn rename(tensors: &mut Vec<Tensor>, wanted: Option<&str>, notes: &mut Vec<String>) -> Result<()> {
    unwrap(tensors, wanted, notes);
    if let Some(wanted) = wanted {
        if !component_groups(tensors).contains_key(wanted) {
            return Err(Error::NoStateDict(format!("nothing in it is under the key {}", shown(wanted))));
        }
        keep_group(tensors, wanted);
        unwrap(tensors, None, notes);
    }
    if fits(tensors) {
        return Ok(());
    }
    if wanted.is_none() {
        choose_network(tensors, notes);
    }
    if !fits(tensors) {
        rename_by_order(tensors, notes);
    }
    Ok(())
}

fn shapes(tensors: &[Tensor]) -> Shapes {
    tensors.iter().map(|tensor| (tensor.name().to_owned(), tensor.shape().to_vec())).collect()
}

fn fits(tensors: &[Tensor]) -> bool {
    !architecture::fits(&shapes(tensors)).is_empty()
}

/// Removes what all keys begin with: known wrappers, or any prefix without which the tensors fit a network.
fn unwrap(tensors: &mut [Tensor], wanted: Option<&str>, notes: &mut Vec<String>) {
    let mut removed = String::new();
    for _ in 0..DEEPEST {
        let Some(prefix) = shared_component(tensors) else { break };
        if wanted == Some(prefix.as_str()) {
            break;
        }
        let is_known = WRAPPERS.contains(&prefix.as_str());
        if !is_known && !fits_without(tensors, &prefix) {
            break;
        }
        remove(tensors, &prefix);
        // What DataParallel adds is in most files, and nobody misses it.
        if prefix != "module" {
            removed += &format!("{}.", shown(&prefix));
        }
    }
    if !removed.is_empty() {
        notes.push(format!("every key begins with {removed}, which is left out"));
    }
}

/// The first component of all keys, if it is the same. A layer's own name is no prefix: more than the name of a tensor
/// must follow somewhere, except after that of DataParallel.
fn shared_component(tensors: &[Tensor]) -> Option<String> {
    let mut names = tensors.iter().map(Tensor::name).filter(|name| !is_counter(name));
    let (prefix, _) = names.next()?.split_once('.')?;
    let mut is_deep = false;
    for tensor in tensors.iter().filter(|tensor| !is_counter(tensor.name())) {
        let (first, rest) = tensor.name().split_once('.')?;
        if first != prefix || rest.is_empty() {
            return None;
        }
        is_deep |= rest.contains('.');
    }
    (is_deep || prefix == "module").then(|| prefix.to_owned())
}

fn fits_without(tensors: &[Tensor], prefix: &str) -> bool {
    let without = |tensor: &Tensor| Some((stripped(tensor.name(), prefix)?.to_owned(), tensor.shape().to_vec()));
    !architecture::fits(&tensors.iter().filter_map(without).collect()).is_empty()
}

fn stripped<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix)?.strip_prefix('.')
}

fn remove(tensors: &mut [Tensor], prefix: &str) {
    for tensor in tensors {
        if let Some(rest) = stripped(tensor.name(), prefix).map(str::to_owned) {
            tensor.set_name(rest);
        }
    }
}

/// The number of tensors by the first component of their keys.
fn component_groups(tensors: &[Tensor]) -> BTreeMap<String, usize> {
    let mut groups = BTreeMap::new();
    for tensor in tensors.iter().filter(|tensor| !is_counter(tensor.name())) {
        if let Some((first, _)) = tensor.name().split_once('.') {
            *groups.entry(first.to_owned()).or_default() += 1;
        }
    }
    groups
}

fn keep_group(tensors: &mut Vec<Tensor>, prefix: &str) {
    tensors.retain(|tensor| stripped(tensor.name(), prefix).is_some());
    remove(tensors, prefix);
}

/// Where the keys under one prefix fit a network, leaves out the others: a file of a distiller holds student and
/// teacher, others hold the parameters of a loss beside the network.
fn choose_network(tensors: &mut Vec<Tensor>, notes: &mut Vec<String>) {
    let groups = component_groups(tensors);
    let place = |name: &String| WRAPPERS.iter().position(|wrapper| wrapper == name).unwrap_or(usize::MAX);
    let mut large: Vec<_> = groups.iter().filter(|(_, count)| **count >= 8).map(|(name, _)| name.clone()).collect();
    if large.len() > MOST_NETWORKS {
        return;
    }
    large.sort_by_key(place);
    let fitting: Vec<_> = large.into_iter().filter(|name| fits_without(tensors, name)).collect();
    let Some(chosen) = fitting.first() else { return };
    let before = tensors.iter().filter(|tensor| !is_counter(tensor.name())).count();
    keep_group(tensors, chosen);
    let left_out = before.saturating_sub(groups[chosen]);
    let others = counted(left_out as u64, "other is", "others are");
    let mut note = format!("only the keys that begin with {}. are read; {others} left out", shown(chosen));
    if let Some(other) = fitting.get(1) {
        note += &format!(
            ". Another network is under {other}: choose it with state_dict={other} at the upload, or with --state-dict \
             {other}",
            other = shown(other)
        );
    }
    notes.push(note);
}

/// Reads a known network whose code gives its layers other names.
fn rename_by_order(tensors: &mut [Tensor], notes: &mut Vec<String>) {
    let weights: Vec<usize> = (0..tensors.len()).filter(|&index| !is_counter(tensors[index].name())).collect();
    let written: Vec<(&str, &[u64])> =
        weights.iter().map(|&index| (tensors[index].name(), tensors[index].shape())).collect();
    let Some((architecture, keys)) = architecture::match_by_order(&written) else { return };
    let layer = |key: &str| key.rsplit_once('.').map_or("", |(layer, _)| layer).to_owned();
    let layers: BTreeMap<String, String> =
        written.iter().zip(&keys).map(|((name, _), key)| (layer(name), layer(key))).collect();
    let changed: Vec<_> = written.iter().zip(&keys).filter(|((name, _), key)| name != key).collect();
    let examples: Vec<_> = changed.iter().take(2).map(|((name, _), key)| format!("{} as {key}", shown(name))).collect();
    notes.push(format!(
        "its keys are not those of {}, but their order and shapes are: {}, and so on. Compare the accuracy that is \
         measured with the one that you know",
        architecture.name,
        examples.join(", ")
    ));
    for (index, key) in weights.into_iter().zip(keys) {
        tensors[index].set_name(key);
    }
    for tensor in tensors.iter_mut().filter(|tensor| is_counter(tensor.name())) {
        if let Some((old, counter)) = tensor.name().rsplit_once('.')
            && let Some(new) = layers.get(old)
        {
            let renamed = format!("{new}.{counter}");
            tensor.set_name(renamed);
        }
    }
}
