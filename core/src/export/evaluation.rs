//! What the nodes of a graph come to in evaluation, where dropout and stochastic depth do nothing.

use crate::exported::{Arithmetic, Graph, Node, Op, Operand, ValueId, makes_up_for};

#[derive(Debug)]
pub(super) struct EvaluatedGraph {
    /// Whether the logits depend on a node.
    pub(super) needed: Vec<bool>,
    /// Values whose elements are all 1: masks of stochastic depth, with the share of branches that training keeps, by
    /// which it still has to be divided.
    ones: Vec<Option<f64>>,
    /// The value that each value is another name for; its own id for most.
    roots: Vec<ValueId>,
}

impl EvaluatedGraph {
    pub(super) fn of(graph: &Graph) -> Self {
        let mut ones = vec![None; graph.values.len()];
        let mut roots: Vec<ValueId> = (0..graph.values.len()).collect();
        let mut passes = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            let kept = match &node.op {
                Op::Bernoulli { probability } => Some(*probability),
                Op::Arithmetic { kind: Arithmetic::Divide, other: Operand::Number(number) } => {
                    ones[node.inputs[0]].filter(|&kept| makes_up_for(*number, kept)).map(|_| 1.0)
                }
                op if op.is_view() => ones[node.inputs[0]],
                _ => None,
            };
            node.outputs.iter().for_each(|&output| ones[output] = kept);
            let passed = passed_on(graph, node, &ones);
            if let Some(input) = passed {
                roots[node.outputs[0]] = roots[input];
            }
            passes.push(passed);
        }
        let mut values = vec![false; graph.values.len()];
        values[graph.logits] = true;
        let mut needed = vec![false; graph.nodes.len()];
        for (index, node) in graph.nodes.iter().enumerate().rev() {
            needed[index] = node.outputs.iter().any(|&output| values[output]);
            if needed[index] {
                let inputs = passes[index].as_ref().map_or(node.inputs.as_slice(), std::slice::from_ref);
                inputs.iter().for_each(|&input| values[input] = true);
            }
        }
        Self { needed, ones, roots }
    }

    /// Whether all elements of a value are 1.
    pub(super) fn is_one(&self, value: ValueId) -> bool {
        self.ones[value].is_some()
    }

    /// The value that this one is another name for.
    pub(super) fn root(&self, value: ValueId) -> ValueId {
        self.roots[value]
    }
}

/// The input that a node's result is equal to.
fn passed_on(graph: &Graph, node: &Node, ones: &[Option<f64>]) -> Option<ValueId> {
    match node.op {
        Op::Identity | Op::Dropout { .. } => Some(node.inputs[0]),
        Op::Arithmetic { kind: Arithmetic::Multiply, other: Operand::Tensor } => {
            let [one, two] = [0, 1].map(|input| node.inputs[input]);
            let shape = |value: ValueId| &graph.values[value].shape;
            let passed = if ones[two].is_some() { one } else { Some(two).filter(|_| ones[one].is_some())? };
            (shape(passed) == shape(node.outputs[0])).then_some(passed)
        }
        _ => None,
    }
}
