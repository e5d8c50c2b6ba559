//! Static quantisation to int8: which values are quantised, and how numbers become integers.
//!
//! Weights have a scale for each output and are symmetric around 0. Activations have one scale and one zero point for
//! each value, from the smallest and the largest element that calibration images give it. Batch norms are folded into
//! the convolutions before them. The logits stay float32.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::evaluation::EvaluatedGraph;
use super::{Result, Student, refused};
use crate::checkpoint::Dtype;
use crate::exported::{Activation, Arithmetic, Graph, Node, Op, Operand, Origin, ValueId};

/// The smallest and the largest element of activations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ranges(BTreeMap<ValueId, [f32; 2]>);

impl Ranges {
    /// Widens the range of a value.
    ///
    /// # Errors
    /// An element is not finite.
    pub fn observe(&mut self, value: ValueId, low: f32, high: f32) -> Result<()> {
        if !low.is_finite() || !high.is_finite() {
            return refused(
                "the calibration images give activations that are not finite: the student cannot be quantised",
            );
        }
        let range = self.0.entry(value).or_insert([low, high]);
        *range = [range[0].min(low), range[1].max(high)];
        Ok(())
    }

    /// Scale and zero point of a value.
    pub(super) fn scale(&self, value: ValueId) -> Result<(f32, i8)> {
        let Some([low, high]) = self.0.get(&value) else {
            return refused(format!("calibration has not seen value {value} of the network"));
        };
        // 0 must have a form of its own: padding is 0.
        let (low, high) = (f64::from(low.min(0.0)), f64::from(high.max(0.0)));
        let scale = ((high - low) / 255.0).max(f64::from(f32::MIN_POSITIVE));
        let scale = if high > low { scale } else { 1.0 };
        let zero = (-128.0 - low / scale).round().clamp(-128.0, 127.0);
        Ok((scale as f32, zero as i8))
    }
}

/// The names of the outputs that tell a value's smallest and largest element.
#[must_use]
pub fn outputs(value: ValueId) -> [String; 2] {
    [format!("min_{value}"), format!("max_{value}")]
}

/// The values whose ranges must be known.
#[must_use]
pub fn watched(student: &Student) -> Vec<ValueId> {
    Layers::of(student).values.into_iter().collect()
}

/// What is quantised of a network.
#[derive(Debug)]
pub(super) struct Layers {
    /// Convolutions and linear layers with stored weights, by index, with the batch norm that is folded into each.
    pub(super) nodes: HashMap<usize, Option<usize>>,
    /// Activations.
    pub(super) values: BTreeSet<ValueId>,
}

impl Layers {
    pub(super) fn of(student: &Student) -> Self {
        let graph = student.graph();
        let evaluation = EvaluatedGraph::of(graph);
        let consumers = consumers(graph, &evaluation);
        let only_consumer = |value: ValueId| match consumers[value].as_slice() {
            [only] if value != evaluation.root(graph.logits) => Some(*only),
            _ => None,
        };
        let mut layers = Self { nodes: HashMap::new(), values: BTreeSet::new() };
        let logits = evaluation.root(graph.logits);
        for (index, node) in graph.nodes.iter().enumerate().filter(|(index, _)| evaluation.needed[*index]) {
            let root = |at: usize| evaluation.root(node.inputs[at]);
            if is_layer(graph, node) {
                let norm = only_consumer(node.outputs[0]).filter(|&norm| {
                    matches!(node.op, Op::Convolution { .. }) && is_norm(graph, &graph.nodes[norm], node.outputs[0])
                });
                let mut result = norm.map_or(node.outputs[0], |norm| graph.nodes[norm].outputs[0]);
                // An activation that only cuts off leaves nothing of what lies beyond.
                if let Some(next) = only_consumer(result).filter(|&next| cuts_off(&graph.nodes[next])) {
                    result = graph.nodes[next].outputs[0];
                }
                layers.nodes.insert(index, norm);
                layers.values.extend([root(0), result]);
            } else if joins(&node.op) && (0..node.inputs.len()).all(|at| layers.values.contains(&root(at))) {
                layers.values.insert(node.outputs[0]);
            }
        }
        let is_activation = |value: &ValueId| !matches!(graph.values[*value].origin, Origin::Stored(_));
        layers.values.retain(|value| *value != logits && is_activation(value));
        layers
    }
}

/// For each value, the nodes that use it, under any of its names.
fn consumers(graph: &Graph, evaluation: &EvaluatedGraph) -> Vec<Vec<usize>> {
    let mut consumers = vec![Vec::new(); graph.values.len()];
    for (index, node) in graph.nodes.iter().enumerate().filter(|(index, _)| evaluation.needed[*index]) {
        let is_name = node.outputs.iter().all(|&output| evaluation.root(output) != output);
        for &input in node.inputs.iter().filter(|_| !is_name) {
            consumers[evaluation.root(input)].push(index);
        }
    }
    consumers
}

fn is_stored(graph: &Graph, value: ValueId) -> bool {
    let value = &graph.values[value];
    value.dtype == Dtype::F32 && matches!(value.origin, Origin::Stored(_))
}

/// Whether a node is a layer whose weights are known.
fn is_layer(graph: &Graph, node: &Node) -> bool {
    matches!(node.op, Op::Convolution { .. } | Op::Linear { .. })
        && node.inputs[1..].iter().all(|&input| is_stored(graph, input))
}

/// Whether a node is a batch norm of `value` with known statistics.
fn is_norm(graph: &Graph, node: &Node, value: ValueId) -> bool {
    matches!(node.op, Op::BatchNorm { .. })
        && node.inputs[0] == value
        && node.inputs[1..].iter().all(|&input| is_stored(graph, input))
}

fn cuts_off(node: &Node) -> bool {
    matches!(node.op, Op::Activation(Activation::Relu | Activation::Clamp { .. }))
}

/// Operations that runtimes compute with integers if all their inputs are.
fn joins(op: &Op) -> bool {
    matches!(
        op,
        Op::Arithmetic { kind: Arithmetic::Add, other: Operand::Tensor }
            | Op::Concat { .. }
            | Op::MaxPool(_)
            | Op::AveragePool { .. }
            | Op::AdaptiveAveragePool { .. }
    )
}

/// What a batch norm makes of the weights before it: a factor for each output.
#[derive(Debug, Clone)]
pub(super) struct BatchNormScale(pub(super) Vec<f32>);

impl BatchNormScale {
    /// Multiplies the weights of each output, which lie one after another.
    pub(super) fn apply(&self, weights: &mut [f32]) {
        let each = weights.len() / self.0.len().max(1);
        for (weights, factor) in weights.chunks_mut(each.max(1)).zip(&self.0) {
            weights.iter_mut().for_each(|weight| *weight *= factor);
        }
    }
}

/// The scale of each output's weights.
#[derive(Debug, Clone)]
pub(super) struct Scales(pub(super) Vec<f32>);

impl Scales {
    /// Scales with which the largest weight of each output becomes 127.
    pub(super) fn of(weights: &[f32], outputs: usize) -> Self {
        let each = (weights.len() / outputs.max(1)).max(1);
        let scale = |weights: &[f32]| {
            let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
            let scale = largest / 127.0;
            if scale > 0.0 && scale.is_finite() { scale } else { 1.0 }
        };
        Self(weights.chunks(each).map(scale).collect())
    }

    /// The weights as int8.
    pub(super) fn quantise(&self, weights: &[f32]) -> Vec<u8> {
        let each = (weights.len() / self.0.len().max(1)).max(1);
        let quantised = |(weights, scale): (&[f32], &f32)| {
            let scale = *scale;
            weights
                .iter()
                .map(move |weight| (weight / scale).round().clamp(-127.0, 127.0) as i8 as u8)
                .collect::<Vec<_>>()
        };
        weights.chunks(each).zip(&self.0).flat_map(quantised).collect()
    }
}
