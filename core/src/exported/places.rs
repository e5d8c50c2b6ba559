//! Where the images of a batch lie in each value, so that no node moves elements from image to image.
//!
//! A dimension of size n·B is [outer, B, inner] in row-major order, with outer·inner = n. Its size does not say which
//! of its elements are whose: `inner` does.

use std::collections::HashMap;

use super::graph::{Node, Value, ValueId};
use super::op::Op;
use super::size::Size;

const RESHAPES: &str = "moves elements from image to image, so an image's logits would depend on the others: move the \
                        batch to the first dimension (permute or movedim) before a reshape";
const COMBINES: &str = "combines different images of the batch, so an image's logits would depend on the others: \
                        repeat the batch in the same order in all tensors";

/// The first node that mixes the images of a batch, by a reshape or by joining what is repeated in different orders,
/// and what is wrong with it. Those after it follow.
pub(super) fn first_fault<'a>(nodes: &[Node], value: impl Fn(ValueId) -> &'a Value) -> Option<(String, &'static str)> {
    // Of values that depend on images and whose batch is repeated.
    let mut known: HashMap<ValueId, u64> = HashMap::new();
    for node in nodes {
        // Of several nodes that one of PyTorch's is read as, all have its name.
        let name = || node.name.split('.').next().unwrap_or_default().to_owned();
        let mut inner = None;
        for &input in &node.inputs {
            let own = match batch(&value(input).shape) {
                Some((_, 1)) => Some(1),
                _ => known.get(&input).copied(),
            };
            if inner.is_some() && own.is_some() && inner != own {
                return Some((name(), COMBINES));
            }
            inner = inner.or(own);
        }
        let Some(inner) = inner else { continue };
        for &output in &node.outputs {
            let own = match node.op {
                Op::Reshape { .. } => reshaped(&value(node.inputs[0]).shape, inner, &value(output).shape),
                _ => Some(inner),
            };
            match own {
                Some(own) => known.insert(output, own),
                None => return Some((name(), RESHAPES)),
            };
        }
    }
    None
}

/// The dimension that has the batch, and how often it has it.
fn batch(shape: &[Size]) -> Option<(usize, u64)> {
    shape.iter().enumerate().find_map(|(at, size)| match size {
        Size::Batch(times) => Some((at, *times)),
        Size::Fixed(_) => None,
    })
}

/// The elements behind one image's place in the dimension of the batch, after a reshape. `None` if it would have those
/// of several images in one place.
fn reshaped(from: &[Size], inner: u64, to: &[Size]) -> Option<u64> {
    let behind = |shape: &[Size], at: usize| {
        shape[at + 1..].iter().try_fold(1_u64, |all, size| all.checked_mul(size.per_image()))
    };
    let ((before, _), (after, times)) = (batch(from)?, batch(to)?);
    let (all, rest) = (inner.checked_mul(behind(from, before)?)?, behind(to, after)?);
    let inner = all.checked_div(rest)?;
    (inner.checked_mul(rest)? == all && times.checked_rem(inner)? == 0).then_some(inner)
}
