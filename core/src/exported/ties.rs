//! Tensors of a file that have elements in common.

use std::collections::HashMap;

use super::archive::NetworkArchive;
use super::error::Result;
use super::graph::Graph;
use super::stored::{StoredTensor, TensorRole};
use crate::byte_source::ByteSource;
use crate::checkpoint::error::shown;

/// Tensors that are named.
const MOST_NAMED: usize = 3;

/// The parameters and buffers that are another one under another key: the indices of both. As PyTorch's, they have the
/// same memory, offset, shape and strides. A buffer in the memory of a trained parameter belongs to that.
pub(super) fn ties(tensors: &[StoredTensor]) -> Vec<(usize, usize)> {
    let mut groups: HashMap<_, Vec<usize>> = HashMap::new();
    let is_state = |stored: &StoredTensor| stored.role != TensorRole::Constant && stored.tensor.elements() > 0;
    for (index, stored) in tensors.iter().enumerate().filter(|(_, stored)| is_state(stored)) {
        let view = stored.tensor.view();
        let memory = (stored.file.as_str(), stored.tensor.dtype(), view.offset);
        let sizes = (view.shape.as_slice(), view.strides.as_slice());
        groups.entry((memory, sizes)).or_default().push(index);
    }
    let mut ties = Vec::new();
    for group in groups.into_values().filter(|group| group.len() > 1) {
        let kind = |index: usize| (tensors[index].role, tensors[index].trained);
        let kinds = [(TensorRole::Parameter, true), (TensorRole::Parameter, false), (TensorRole::Buffer, false)];
        let [trained, frozen, buffer] = kinds.map(|wanted| group.iter().copied().find(|&index| kind(index) == wanted));
        for &index in &group {
            let first = match kind(index) {
                (TensorRole::Parameter, true) => trained,
                (TensorRole::Parameter, false) => frozen,
                _ => trained.or(buffer),
            };
            ties.extend(first.filter(|&first| first != index).map(|first| (index, first)));
        }
    }
    ties
}

/// The tensors that training changes and that share memory with others, or repeat their own elements, without being the
/// same under another key. Trained on their own, they would come apart. A list of their names; `None` if there are
/// none.
pub(super) fn overlapping(graph: &Graph, tensors: &[StoredTensor]) -> Option<String> {
    let written = graph.written();
    let changes = |index: usize| tensors[index].trained || written.contains(&index);
    let is_own = |&index: &usize| {
        let stored = &tensors[index];
        stored.tied_to.is_none() && !stored.is_computed() && stored.tensor.elements() > 0
    };
    let mut own: Vec<usize> = (0..tensors.len()).filter(is_own).collect();
    own.sort_by_key(|&index| (tensors[index].file.as_str(), tensors[index].tensor.stored_bytes().start));
    let name = |stored: &StoredTensor| shown(stored.tensor.name());
    // What is trained by its gradient cannot be statistics, too.
    let both = |index: usize| tensors[index].tied_to.filter(|_| written.contains(&index)).map(|first| [first, index]);
    let both = (0..tensors.len()).filter_map(both);
    let mut found: Vec<String> = both.map(|both| both.map(|index| name(&tensors[index])).join(" and ")).collect();
    // Of the tensors before in the same memory: those that reach furthest, of all and of those that change.
    let [mut furthest, mut furthest_changing]: [Option<&StoredTensor>; 2] = [None, None];
    for index in own {
        let stored = &tensors[index];
        let start = stored.tensor.stored_bytes().start;
        let other = if changes(index) { furthest } else { furthest_changing };
        let other = other.filter(|other| other.file == stored.file && start < other.tensor.stored_bytes().end);
        if let Some(other) = other {
            found.push(format!("{} and {}", name(other), name(stored)));
        } else if changes(index) && repeats(stored) {
            found.push(format!("{} with itself", name(stored)));
        }
        furthest = Some(further(furthest, stored));
        if changes(index) {
            furthest_changing = Some(further(furthest_changing, stored));
        }
    }
    listed(found)
}

/// A warning on tensors outside the state dict that may be parameters: PyTorch writes those apart, so that the file
/// does not say what they share. Only what the checksums of the bytes show is looked at.
pub(super) fn alike(
    archive: &NetworkArchive<'_>,
    source: &ByteSource,
    tensors: &[StoredTensor],
) -> Result<Option<String>> {
    let fingerprint = |stored: &StoredTensor| {
        let view = stored.tensor.view().clone();
        let bytes = archive.fingerprint(&stored.file)?;
        Some((bytes, stored.tensor.dtype(), view.offset, view.shape, view.strides))
    };
    let parameters = tensors.iter().filter(|stored| stored.trained && stored.tied_to.is_none());
    let parameters: HashMap<_, &StoredTensor> =
        parameters.filter_map(|stored| Some((fingerprint(stored)?, stored))).collect();
    let mut found = Vec::new();
    for stored in tensors.iter().filter(|stored| stored.role == TensorRole::Constant && !stored.is_computed()) {
        if let Some(parameter) = fingerprint(stored).and_then(|print| parameters.get(&print))
            && varies(stored, source)?
        {
            found.push(format!("{} those of {}", shown(stored.tensor.name()), shown(parameter.tensor.name())));
        }
    }
    Ok(listed(found).map(|which| {
        format!(
            "tensors outside the state dict have the elements of trained parameters: {which}. If they share memory in \
             PyTorch, a student trains differently here, where they stay as they are: a file does not say so. Register \
             such a buffer with persistent=True, or take the parameter itself in forward"
        )
    }))
}

/// Whether the elements differ. Constants of ones are like the first weights of a norm by chance.
fn varies(stored: &StoredTensor, source: &ByteSource) -> Result<bool> {
    let size = usize::try_from(stored.tensor.dtype().size()).unwrap_or(1);
    let (mut first, mut varies) = (None, false);
    stored.tensor.pieces(source, |piece| {
        let first: &Vec<u8> = first.get_or_insert_with(|| piece[..size].to_vec());
        varies |= piece.chunks_exact(size).any(|element| element != first.as_slice());
    })?;
    Ok(varies)
}

/// The first of some descriptions. `None` if there are none.
fn listed(mut found: Vec<String>) -> Option<String> {
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
