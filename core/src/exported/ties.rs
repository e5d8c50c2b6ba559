//! Tensors of a file that have elements in common.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::tensors::{StoredTensor, TensorRole};
use crate::checkpoint::error::shown;

/// Tensors that are named.
const MOST_NAMED: usize = 3;

/// The parameters and buffers that are an earlier one under another key: the indices of both. As PyTorch's, they have
/// the same memory, offset, shape and strides.
pub(super) fn ties(tensors: &[StoredTensor]) -> Vec<(usize, usize)> {
    let mut firsts = HashMap::new();
    let mut ties = Vec::new();
    let is_state = |stored: &StoredTensor| stored.role != TensorRole::Constant && stored.tensor.elements() > 0;
    for (index, stored) in tensors.iter().enumerate().filter(|(_, stored)| is_state(stored)) {
        let view = stored.tensor.view();
        let memory = (stored.file.as_str(), stored.tensor.dtype(), view.offset);
        let sizes = (view.shape.as_slice(), view.strides.as_slice());
        match firsts.entry((memory, sizes, stored.role, stored.trained)) {
            Entry::Occupied(first) => ties.push((index, *first.get())),
            Entry::Vacant(place) => {
                place.insert(index);
            }
        }
    }
    ties
}

/// The trained parameters that have elements in common with other tensors, or repeat their own, and are not the same
/// under another key. Trained on their own, they would come apart. A list of their names; `None` if there are none.
pub(super) fn overlapping(tensors: &[StoredTensor]) -> Option<String> {
    let is_own =
        |stored: &&StoredTensor| stored.tied_to.is_none() && !stored.is_computed() && stored.tensor.elements() > 0;
    let mut own: Vec<&StoredTensor> = tensors.iter().filter(is_own).collect();
    own.sort_by_key(|stored| (stored.file.as_str(), stored.tensor.stored_bytes().start));
    let mut found = Vec::new();
    // Of the tensors before in the same memory: those that reach furthest, of all and of the trained ones.
    let [mut furthest, mut furthest_trained]: [Option<&StoredTensor>; 2] = [None, None];
    for stored in own {
        let start = stored.tensor.stored_bytes().start;
        let other = if stored.trained { furthest } else { furthest_trained };
        let other = other.filter(|other| other.file == stored.file && start < other.tensor.stored_bytes().end);
        if let Some(other) = other {
            found.push(format!("{} and {}", shown(other.tensor.name()), shown(stored.tensor.name())));
        } else if stored.trained && repeats(stored) {
            found.push(format!("{} with itself", shown(stored.tensor.name())));
        }
        furthest = Some(further(furthest, stored));
        if stored.trained {
            furthest_trained = Some(further(furthest_trained, stored));
        }
    }
    let more = found.len().saturating_sub(MOST_NAMED);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    found.truncate(MOST_NAMED);
    (!found.is_empty()).then(|| format!("{}{more}", found.join(", ")))
}

/// Which of two tensors reaches further in the memory of the second.
fn further<'a>(before: Option<&'a StoredTensor>, stored: &'a StoredTensor) -> &'a StoredTensor {
    let end = |stored: &StoredTensor| stored.tensor.stored_bytes().end;
    before.filter(|before| before.file == stored.file && end(before) > end(stored)).unwrap_or(stored)
}

/// Whether several elements of a tensor are the same, as those of an expanded one.
fn repeats(stored: &StoredTensor) -> bool {
    let view = stored.tensor.view();
    let sizes = view.strides.iter().copied().zip(view.shape.iter().copied());
    let mut steps: Vec<(u64, u64)> = sizes.filter(|&(_, size)| size > 1).collect();
    steps.sort_unstable();
    let mut reached = 0_u64;
    steps.into_iter().any(|(stride, size)| {
        let is_reached = stride <= reached;
        reached = reached.saturating_add((size - 1).saturating_mul(stride));
        is_reached
    })
}
