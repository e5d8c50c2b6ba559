//! An exported network as data: values, and the nodes that compute them.

use std::collections::HashSet;

use super::op::Op;
use super::size::Size;
use crate::checkpoint::Dtype;

/// The origin of values that are not in the graph.
pub(super) const NOWHERE: Origin = Origin::Node(usize::MAX);

/// Index of a value in [`Graph::values`].
pub type ValueId = usize;

/// A network from images to logits. Nothing in it overwrites anything.
#[derive(Debug, Clone)]
pub struct Graph {
    pub values: Vec<Value>,
    /// In topological order.
    pub nodes: Vec<Node>,
    /// [B, 3, H, W].
    pub images: ValueId,
    /// [B, classes].
    pub logits: ValueId,
}

impl Graph {
    /// Indices of the stored tensors that batch normalisation takes for variances, which are never negative.
    #[must_use]
    pub fn variances(&self) -> HashSet<usize> {
        let norms = self.nodes.iter().filter(|node| matches!(node.op, Op::BatchNorm { .. }));
        let origins = norms.map(|node| self.values[node.inputs[4]].origin);
        origins.filter_map(|origin| if let Origin::Stored(index) = origin { Some(index) } else { None }).collect()
    }
}

impl Graph {
    /// Which nodes a value is computed by.
    pub(super) fn sources(&self, value: ValueId) -> Vec<bool> {
        let (mut values, mut nodes) = (vec![false; self.values.len()], vec![false; self.nodes.len()]);
        values[value] = true;
        for (at, node) in self.nodes.iter().enumerate().rev() {
            nodes[at] = node.outputs.iter().any(|&output| values[output]);
            if nodes[at] {
                node.inputs.iter().for_each(|&input| values[input] = true);
            }
        }
        nodes
    }

    /// Indices of the stored tensors that a training step writes beside the parameters: running statistics, and
    /// counters of batches.
    pub(super) fn written(&self) -> HashSet<usize> {
        let written = self.nodes.iter().flat_map(|node| match node.op {
            Op::BatchNorm { training: true, .. } => &node.inputs[3..],
            Op::CountBatch => &node.inputs[..1],
            _ => &[],
        });
        let stored = |&value: &ValueId| match self.values[value].origin {
            Origin::Stored(index) => Some(index),
            // A counter that is counted again.
            Origin::Images | Origin::Node(_) => None,
        };
        written.filter_map(stored).collect()
    }
}

/// A tensor.
#[derive(Debug, Clone)]
pub struct Value {
    pub dtype: Dtype,
    pub shape: Vec<Size>,
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    Images,
    /// Index of a tensor in the file.
    Stored(usize),
    /// Index of a node.
    Node(usize),
}

/// An operation on values.
#[derive(Debug, Clone)]
pub struct Node {
    /// PyTorch's name, which is unique. Of several nodes that one of PyTorch's is read as, the last has its name, and
    /// the others have it with a dot and a number.
    pub name: String,
    /// PyTorch's operator, such as `aten.conv2d.default`. Of several nodes that one of PyTorch's is read as, all but
    /// the last have an empty one.
    pub operator: String,
    pub op: Op,
    /// Whether PyTorch computes it in float32 even where others are computed in fewer bits.
    pub full_precision: bool,
    /// In the order that the operation gives.
    pub inputs: Vec<ValueId>,
    /// One, except for operations that split.
    pub outputs: Vec<ValueId>,
}
