//! How much memory the values of an exported network take, for estimates.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::graph::{Graph, Origin, ValueId};
use super::op::Op;

/// Numbers of elements per image, each of at most four bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryDescription {
    /// Of the values that a training step keeps for its gradients.
    pub kept_elements: u64,
    /// Of the values that a forward pass without gradients holds at a time, at most.
    pub peak_elements: u64,
}

pub(super) fn describe(graph: &Graph) -> MemoryDescription {
    let buffers = Buffers::of(graph);
    MemoryDescription { kept_elements: buffers.kept(graph), peak_elements: buffers.peak(graph) }
}

/// Which values share memory: views share that of what they show.
struct Buffers {
    /// By value: the value whose memory it shows.
    owner: Vec<ValueId>,
}

impl Buffers {
    fn of(graph: &Graph) -> Self {
        let mut owner: Vec<ValueId> = (0..graph.values.len()).collect();
        for node in graph.nodes.iter().filter(|node| node.op.is_view()) {
            let Some(&input) = node.inputs.first() else { continue };
            // A repeated tensor has to be copied. Others seldom have to be, which an estimate may ignore.
            let is_copied = |output: ValueId| {
                matches!(node.op, Op::Reshape { .. }) && elements(graph, output) > elements(graph, owner[input])
            };
            let outputs: Vec<ValueId> = node.outputs.iter().copied().filter(|&output| !is_copied(output)).collect();
            outputs.into_iter().for_each(|output| owner[output] = owner[input]);
        }
        Self { owner }
    }

    fn kept(&self, graph: &Graph) -> u64 {
        let mut is_kept = vec![false; graph.values.len()];
        for node in graph.nodes.iter().filter(|node| needs_inputs(&node.op)) {
            node.inputs.iter().for_each(|&input| is_kept[self.owner[input]] = true);
        }
        let kept = (0..graph.values.len()).filter(|&value| is_kept[value] && is_computed(graph, value));
        kept.fold(0_u64, |sum, value| sum.saturating_add(elements(graph, value)))
    }

    fn peak(&self, graph: &Graph) -> u64 {
        let mut last_use = vec![0; graph.values.len()];
        for (index, node) in graph.nodes.iter().enumerate() {
            node.inputs.iter().chain(&node.outputs).for_each(|&value| last_use[self.owner[value]] = index);
        }
        let mut ends: Vec<Vec<ValueId>> = vec![Vec::new(); graph.nodes.len()];
        let is_passing = |value: ValueId| value == graph.images || is_computed(graph, value);
        for value in (0..graph.values.len()).filter(|&value| self.owner[value] == value && is_passing(value)) {
            if let Some(ends) = ends.get_mut(last_use[value]) {
                ends.push(value);
            }
        }
        let (mut live, mut peak) = (elements(graph, graph.images), 0_u64);
        for (node, ends) in graph.nodes.iter().zip(ends) {
            let new = node.outputs.iter().filter(|&&output| self.owner[output] == output);
            live = new.fold(live, |live, &output| live.saturating_add(elements(graph, output)));
            peak = peak.max(live);
            live = ends.into_iter().fold(live, |live, value| live.saturating_sub(elements(graph, value)));
        }
        peak
    }
}

/// Whether the gradients of an operation depend on its inputs' values.
fn needs_inputs(op: &Op) -> bool {
    use super::op::{Arithmetic, Operand};
    match op {
        Op::Arithmetic { kind: Arithmetic::Add | Arithmetic::Subtract, .. }
        | Op::Arithmetic { other: Operand::Number(_), .. }
        | Op::Concat { .. }
        | Op::AveragePool { .. }
        | Op::AdaptiveAveragePool { .. }
        | Op::Mean { .. }
        | Op::CumulativeSum { .. }
        | Op::Pad { .. }
        | Op::Roll { .. }
        | Op::Compare { .. }
        | Op::Empty { .. }
        | Op::Bernoulli { .. }
        | Op::CountBatch => false,
        op => !op.is_view(),
    }
}

fn is_computed(graph: &Graph, value: ValueId) -> bool {
    matches!(graph.values[value].origin, Origin::Node(_))
}

fn elements(graph: &Graph, value: ValueId) -> u64 {
    graph.values[value].shape.iter().fold(1_u64, |product, size| product.saturating_mul(size.per_image()))
}
