//! Where a network pools its feature map, and where its head begins.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::graph::{Graph, Node, Origin, ValueId};
use super::op::Op;
use super::size::Size;

/// The order of a feature map's dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MapLayout {
    /// [B, C, H, W].
    ChannelsFirst,
    /// [B, H, W, C].
    ChannelsLast,
    /// [B, H·W, C].
    Tokens,
}

/// The last map that everything the network knows of an image passes, before it loses its positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureMap {
    pub value: ValueId,
    pub layout: MapLayout,
    pub channels: u64,
    pub height: u64,
    pub width: u64,
    /// Index of the node that averages the positions. What comes after it is the head.
    pub pooled_by: usize,
}

/// The layer that gives the logits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Classifier {
    /// Index of its node.
    pub(super) node: usize,
    /// Index of its stored weight [classes, …].
    pub(super) weight: usize,
}

/// Which nodes the logits depend on the images through.
pub(super) struct Path {
    /// Whether a node is on it.
    nodes: Vec<bool>,
    /// Whether all paths from the images to the logits lead through a node.
    dominates: Vec<bool>,
}

impl Path {
    pub(super) fn of(graph: &Graph) -> Self {
        let count = graph.nodes.len();
        let mut depends = vec![false; graph.values.len()];
        depends[graph.images] = true;
        for node in &graph.nodes {
            if node.inputs.iter().any(|&input| depends[input]) {
                node.outputs.iter().for_each(|&output| depends[output] = true);
            }
        }
        let mut needed = vec![false; graph.values.len()];
        needed[graph.logits] = true;
        // The last node on the path that uses each value; `count` stands for the end.
        let mut last_use = vec![0; graph.values.len()];
        last_use[graph.logits] = count;
        let mut nodes = vec![false; count];
        for (index, node) in graph.nodes.iter().enumerate().rev() {
            nodes[index] = node.outputs.iter().any(|&output| needed[output] && depends[output]);
            if nodes[index] {
                for &input in node.inputs.iter().filter(|&&input| depends[input]) {
                    needed[input] = true;
                    last_use[input] = last_use[input].max(index);
                }
            }
        }
        // No edge may lead past a node that dominates.
        let mut furthest = last_use[graph.images];
        let mut dominates = vec![false; count];
        for (index, node) in graph.nodes.iter().enumerate().filter(|(index, _)| nodes[*index]) {
            dominates[index] = furthest <= index;
            let outputs = node.outputs.iter().filter(|&&output| needed[output]);
            furthest = outputs.fold(furthest, |furthest, &output| furthest.max(last_use[output]));
        }
        Self { nodes, dominates }
    }

    /// The nodes on the path from an index on.
    pub(super) fn nodes_from<'a>(&'a self, graph: &'a Graph, first: usize) -> impl Iterator<Item = &'a Node> {
        let on_path = graph.nodes.iter().zip(&self.nodes).skip(first).filter(|(_, on_path)| **on_path);
        on_path.map(|(node, _)| node)
    }

    /// The feature map, if the network has one: of those with more than one position the last.
    pub(super) fn feature_map(&self, graph: &Graph) -> Option<FeatureMap> {
        let dominating = (0..graph.nodes.len()).rev().filter(|&index| self.dominates[index]);
        let maps: Vec<FeatureMap> = dominating.filter_map(|index| pooled(graph, index)).collect();
        maps.iter().find(|map| map.height * map.width > 1).or(maps.first()).copied()
    }

    /// The last linear layer or 1×1 convolution from an index on, if that is the classifier.
    pub(super) fn classifier(&self, graph: &Graph, first: usize) -> Option<Classifier> {
        let is_layer = |node: &Node| match &node.op {
            Op::Linear { .. } => true,
            Op::Convolution { .. } => graph.values[node.inputs[1]].shape[2..] == [Size::Fixed(1); 2],
            _ => false,
        };
        let mut nodes = (first..graph.nodes.len()).rev();
        let node = nodes.find(|&index| self.nodes[index] && is_layer(&graph.nodes[index]))?;
        let weight = &graph.values[graph.nodes[node].inputs[1]];
        let classes = graph.values[graph.logits].shape[1];
        match weight.origin {
            Origin::Stored(index) if weight.shape[0] == classes => Some(Classifier { node, weight: index }),
            _ => None,
        }
    }
}

/// The map that a node pools, if it leaves no positions.
fn pooled(graph: &Graph, index: usize) -> Option<FeatureMap> {
    use MapLayout::{ChannelsFirst, ChannelsLast, Tokens};
    let node = &graph.nodes[index];
    let value = *node.inputs.first()?;
    let shape = graph.values[value].shape.as_slice();
    let [Size::Batch(1), inner @ ..] = shape else { return None };
    let inner: Vec<u64> = inner.iter().map(|size| size.fixed()).collect::<Option<_>>()?;
    let (layout, [channels, height, width]) = match (&node.op, inner.as_slice()) {
        (Op::AdaptiveAveragePool { size: [1, 1] }, &[_, 1, positions]) if positions > 1 => {
            return in_one_row(graph, value, index);
        }
        (Op::Mean { dimensions, .. }, &[_, _]) if dimensions == &[2] => return flattened(graph, value, index),
        (Op::AdaptiveAveragePool { size: [1, 1] }, &[channels, height, width]) => {
            (ChannelsFirst, [channels, height, width])
        }
        (Op::AveragePool { window, .. }, &[channels, height, width])
            if window.size == [height, width] && window.padding == [0, 0] =>
        {
            (ChannelsFirst, [channels, height, width])
        }
        (Op::Mean { dimensions, .. }, &[channels, height, width]) if dimensions == &[2, 3] => {
            (ChannelsFirst, [channels, height, width])
        }
        (Op::Mean { dimensions, .. }, &[height, width, channels]) if dimensions == &[1, 2] => {
            (ChannelsLast, [channels, height, width])
        }
        (Op::Mean { dimensions, .. }, &[tokens, channels]) if dimensions == &[1] => {
            let side = tokens.isqrt();
            (side * side == tokens).then_some((Tokens, [channels, side, side]))?
        }
        _ => return None,
    };
    Some(FeatureMap { value, layout, channels, height, width, pooled_by: index })
}

/// The node that makes a value, and its first input.
fn made_by(graph: &Graph, value: ValueId) -> Option<(&Op, ValueId)> {
    match graph.values[value].origin {
        Origin::Node(index) => Some((&graph.nodes[index].op, *graph.nodes[index].inputs.first()?)),
        _ => None,
    }
}

/// The map whose positions are in one row [B, C, 1, N].
fn in_one_row(graph: &Graph, value: ValueId, pooled_by: usize) -> Option<FeatureMap> {
    match made_by(graph, value) {
        Some((Op::Reshape { .. }, before)) if graph.values[before].shape.len() == 3 => {
            flattened(graph, before, pooled_by)
        }
        _ => {
            let [_, Size::Fixed(channels), _, Size::Fixed(width)] = graph.values[value].shape[..] else { return None };
            Some(FeatureMap { value, layout: MapLayout::ChannelsFirst, channels, height: 1, width, pooled_by })
        }
    }
}

/// The map whose positions are the last dimension of [B, C, N].
fn flattened(graph: &Graph, value: ValueId, pooled_by: usize) -> Option<FeatureMap> {
    let (op, before) = made_by(graph, value)?;
    let [Size::Batch(1), channels, Size::Fixed(positions)] = graph.values[value].shape[..] else { return None };
    let (value, channels) = (before, channels.fixed()?);
    let map = |layout, height, width| FeatureMap { value, layout, channels, height, width, pooled_by };
    match (op, graph.values[before].shape.as_slice()) {
        (Op::Reshape { .. }, &[Size::Batch(1), Size::Fixed(same), Size::Fixed(height), Size::Fixed(width)])
            if same == channels && height.checked_mul(width) == Some(positions) =>
        {
            Some(map(MapLayout::ChannelsFirst, height, width))
        }
        (Op::Permute { order }, _) if order == &[0, 2, 1] => {
            let side = positions.isqrt();
            (side * side == positions).then(|| map(MapLayout::Tokens, side, side))
        }
        _ => None,
    }
}
