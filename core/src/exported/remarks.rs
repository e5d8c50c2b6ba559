//! Sentences about an exported network: what may not be as meant, and what is good to know.

use std::collections::HashSet;

use super::graph::{Graph, Node, Origin};
use super::head::FeatureMap;
use super::op::{Activation, Arithmetic, Op, Operand};
use super::stored::{StoredTensor, TensorRole};
use super::subject::{DescriptionInput, Mode, name_in_pytorch};
use super::ties;
use crate::checkpoint::error::shown;
use crate::text::counted;

/// The newest minor version of the schema that was tried.
const NEWEST_MINOR: u64 = 17;
/// The largest batch of networks that are exported as this program recommends.
const USUAL_BATCH: u64 = 65_536;
/// Names that a warning lists.
const MOST_NAMED: usize = 3;

pub(super) fn warnings(subject: &DescriptionInput<'_>) -> Vec<String> {
    let DescriptionInput { graph, schema, .. } = subject;
    let mut warnings = Vec::new();
    if schema.minor > NEWEST_MINOR {
        warnings
            .push(format!("the file has schema 8.{}, and the newest that was tried is 8.{NEWEST_MINOR}", schema.minor));
    }
    let [height, width] = [2, 3].map(|dimension| graph.values[graph.images].shape[dimension]);
    if height != width {
        warnings.push(format!("images are {height}×{width}, and not square"));
    }
    warnings.extend(last_function(graph).map(|(function, node)| {
        format!(
            "the network ends in {function} ({}), so it returns no logits. Losses take a softmax of their own, and what \
             they make of probabilities is nearly the same for all images: export the network without it",
            shown(name_in_pytorch(node))
        )
    }));
    warnings
}

/// The function that makes probabilities of the logits, if a network ends in one. The logarithm of a softmax does as
/// logits.
fn last_function(graph: &Graph) -> Option<(&'static str, &Node)> {
    let mut value = graph.logits;
    for node in graph.nodes.iter().rev().filter(|node| !node.inputs.is_empty()) {
        if !node.outputs.contains(&value) {
            continue;
        }
        match node.op {
            Op::Softmax { .. } => return Some(("softmax", node)),
            Op::Activation(Activation::Sigmoid) => return Some(("sigmoid", node)),
            _ if node.op.is_view() => value = node.inputs[0],
            _ => return None,
        }
    }
    None
}

pub(super) fn student_warnings(subject: &DescriptionInput<'_>, mode: Mode) -> Vec<String> {
    let mixed = (mode == Mode::Mixed).then(|| mixed(subject.graph));
    let overlapping = ties::overlapping(subject.graph, subject.tensors).map(|which| {
        format!(
            "tensors share memory without being the same, as transposed or sliced ones do: {which}. A student cannot \
             have them, because they would be trained apart, and PyTorch trains them as one"
        )
    });
    [mixed, unused(subject), frozen(subject), overlapping].into_iter().flatten().collect()
}

pub(super) fn notes(
    subject: &DescriptionInput<'_>,
    map: Option<&FeatureMap>,
    largest_batch: Option<u64>,
) -> Vec<String> {
    let of_map = match map {
        None => Some(
            "no operator averages the positions of a map on every path from images to logits, so the network has no \
             feature map for scale-decoupled methods; with timm, create it with global_pool=\"avg\"",
        ),
        Some(FeatureMap { height: 1, width: 1, .. }) => {
            Some("the feature map has one position only, which cannot be divided into regions")
        }
        Some(_) => None,
    };
    let of_batch = largest_batch.filter(|&most| most < USUAL_BATCH).map(|most| {
        format!(
            "the network was exported for batches of at most {most} images: it computes larger ones all the same, but the \
             .pt2 of a student takes no larger ones"
        )
    });
    let of_map = of_map.map(str::to_owned);
    [of_map, of_batch, normalising(subject), tied(subject), following(subject)].into_iter().flatten().collect()
}

/// What to do about a network that normalises its images itself, for which a job does so once more: one whose first
/// operations on them are sums or products with numbers, or with tensors that are not trained.
fn normalising(subject: &DescriptionInput<'_>) -> Option<String> {
    let graph = subject.graph;
    let is_fixed = |input: &usize| match graph.values[*input].origin {
        Origin::Stored(index) => subject.tensors.get(index).is_some_and(|stored| stored.role != TensorRole::Parameter),
        Origin::Images | Origin::Node(_) => false,
    };
    let (mut images, mut first) = (graph.images, None);
    for node in &graph.nodes {
        if !node.inputs.contains(&images) {
            continue;
        }
        let scales = match node.op {
            Op::Identity => false,
            Op::Arithmetic {
                kind: Arithmetic::Add | Arithmetic::Subtract | Arithmetic::Multiply | Arithmetic::Divide,
                other,
            } if other != Operand::Tensor || node.inputs.iter().any(is_fixed) => true,
            _ => break,
        };
        first = first.or(scales.then_some(node));
        let Some(&scaled) = node.outputs.first() else { break };
        images = scaled;
    }
    first.map(|node| {
        format!(
            "the network scales its images itself ({}): where it takes pixels from 0 to 1, give it those, with a mean of \
             [0, 0, 0] and a std of [1, 1, 1] in teacher or dataset",
            shown(name_in_pytorch(node))
        )
    })
}

fn mixed(graph: &Graph) -> String {
    let (training, evaluation): (Vec<&Node>, Vec<&Node>) = graph
        .nodes
        .iter()
        .filter(|node| node.op.training().is_some())
        .partition(|node| node.op.training() == Some(true));
    let name = |nodes: &[&Node]| nodes.first().map(|node| shown(&node.name)).unwrap_or_default();
    format!(
        "{} operators compute as in training (such as {}) and {} as in evaluation (such as {}): call model.train() or \
         model.eval() before exporting, unless layers are frozen on purpose",
        training.len(),
        name(&training),
        evaluation.len(),
        name(&evaluation)
    )
}

/// Tensors that nothing is computed with.
fn unused(subject: &DescriptionInput<'_>) -> Option<String> {
    let used: HashSet<usize> = subject
        .graph
        .nodes
        .iter()
        .flat_map(|node| &node.inputs)
        .filter_map(|&input| match subject.graph.values[input].origin {
            Origin::Stored(index) => Some(index),
            _ => None,
        })
        .collect();
    let unused: Vec<&StoredTensor> = subject
        .tensors
        .iter()
        .enumerate()
        .filter(|(index, stored)| stored.role == TensorRole::Parameter && !used.contains(index))
        .map(|(_, stored)| stored)
        .filter(|stored| stored.tied_to.is_none())
        .collect();
    let named = named(unused.iter().map(|stored| stored.tensor.name()))?;
    Some(format!("{} not used: {named}", counted(unused.len() as u64, "parameter is", "parameters are")))
}

/// Parameters that stay as they are.
fn frozen(subject: &DescriptionInput<'_>) -> Option<String> {
    let parameters = subject.tensors.iter().filter(|stored| stored.role == TensorRole::Parameter);
    let frozen: Vec<&StoredTensor> = parameters.filter(|stored| !stored.trained).collect();
    let named = named(frozen.iter().map(|stored| stored.tensor.name()))?;
    Some(format!("{} parameters are frozen by requires_grad_(False), and training leaves them: {named}", frozen.len()))
}

/// Keys of parameters that are the same as another's. Their elements stay equal.
fn tied(subject: &DescriptionInput<'_>) -> Option<String> {
    let tied = subject.tensors.iter().filter(|stored| stored.role == TensorRole::Parameter && stored.tied_to.is_some());
    let tied: Vec<&StoredTensor> = tied.collect();
    let named = named(tied.iter().map(|stored| stored.tensor.name()))?;
    let are = counted(tied.len() as u64, "key is that of", "keys are those of");
    Some(format!("{are} a parameter with an earlier key, too, and both stay equal in training: {named}"))
}

/// Buffers in the memory of trained parameters.
fn following(subject: &DescriptionInput<'_>) -> Option<String> {
    let buffers = subject.tensors.iter().filter(|stored| stored.follows_a_parameter(subject.tensors));
    let buffers: Vec<&StoredTensor> = buffers.collect();
    let named = named(buffers.iter().map(|stored| stored.tensor.name()))?;
    let share = counted(buffers.len() as u64, "buffer shares", "buffers share");
    Some(format!("{share} the memory of a trained parameter, and training keeps both equal: {named}"))
}

/// The first of some names. `None` if there are none.
fn named<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<String> = names.take(MOST_NAMED + 1).map(shown).collect();
    let more = if names.len() > MOST_NAMED { ", …" } else { "" };
    (!names.is_empty()).then(|| format!("{}{more}", names[..names.len().min(MOST_NAMED)].join(", ")))
}
