//! What a network is with a classifier for other classes.
//!
//! The classifier is the last linear layer or 1×1 convolution of the head. The shapes after it follow, where the
//! operators have no sizes of their own: what cannot follow is named.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::OrFault;
use super::graph::{Graph, Node, Origin, Value, ValueId};
use super::head::Classifier;
use super::op::Op;
use super::rules;
use super::size::{MOST_ELEMENTS, Size, product, shown_shape};
use super::stored::{StoredTensor, TensorRole};
use crate::checkpoint::Dtype;
use crate::checkpoint::error::shown;

/// Operators that are read as a reshape, and whose shape follows from their input's.
const WITHOUT_SIZES: [&str; 5] = [
    "aten.flatten.using_ints",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
];

/// What a classifier with other classes costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClassifierCost {
    /// Trained parameters of the network without the classifier.
    pub other_parameters: u64,
    /// Parameters of the classifier for each class.
    pub parameters_per_class: u64,
    /// Multiply-accumulate operations per image for each class.
    pub macs_per_class: u64,
}

/// Which recorded value has another size, in which dimension.
#[derive(Debug, Clone)]
pub(super) struct SizeChange {
    pub(super) value: Recorded,
    pub(super) dimension: usize,
    pub(super) size: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Recorded {
    /// By its key.
    Parameter(String),
    /// The result of the node with this name.
    Result(String),
}

/// What a classifier with other classes costs, or why there can be none.
pub(super) fn cost(graph: &Graph, tensors: &[StoredTensor], classifier: Option<Classifier>) -> OrFault<ClassifierCost> {
    let classes = graph.values[graph.logits].shape[1].per_image();
    let Replacement { parameters, .. } = Replacement::of(graph, tensors, classifier, classes.saturating_add(1))?;
    let elements = |index: usize| tensors[index].tensor.elements();
    let counts = |stored: &StoredTensor| stored.trained && stored.tied_to.is_none();
    let trained = tensors.iter().enumerate().filter(|(index, stored)| counts(stored) && !parameters.contains(index));
    let macs = classifier.map_or(0, |classifier| rules::macs_of(graph, &graph.nodes[classifier.node]));
    Ok(ClassifierCost {
        other_parameters: trained.fold(0, |sum: u64, (index, _)| sum.saturating_add(elements(index))),
        parameters_per_class: parameters.iter().map(|&index| elements(index) / classes).sum(),
        macs_per_class: macs / classes,
    })
}

/// A graph with another classifier.
pub(super) struct Replacement {
    pub(super) graph: Graph,
    /// Indices of the stored tensors of the classifier.
    pub(super) parameters: Vec<usize>,
    pub(super) changes: Vec<SizeChange>,
}

impl Replacement {
    pub(super) fn of(
        graph: &Graph,
        tensors: &[StoredTensor],
        classifier: Option<Classifier>,
        classes: u64,
    ) -> OrFault<Self> {
        let Some(classifier) = classifier else {
            return Err("its logits are not those of a linear layer or a 1×1 convolution of the head".to_owned());
        };
        let parameters = parameters(graph, tensors, classifier)?;
        let of_two = |why: String| two_outputs(graph, tensors, classifier).unwrap_or(why);
        let mut graph = graph.clone();
        let before = follow(&mut graph, classifier, &parameters, classes).map_err(of_two)?;
        let expected = [Size::Batch(1), Size::Fixed(classes)];
        let logits = &graph.values[graph.logits].shape;
        if *logits != expected {
            let (found, expected) = (shown_shape(logits), shown_shape(&expected));
            return Err(of_two(format!("its logits would be {found} rather than {expected}")));
        }
        let mut changes = Vec::new();
        for (id, shape) in before {
            changes.extend(change(&graph, tensors, id, &shape)?);
        }
        Ok(Self { graph, parameters, changes })
    }
}

/// The stored tensors of the classifier, which nothing else may use.
fn parameters(graph: &Graph, tensors: &[StoredTensor], classifier: Classifier) -> OrFault<Vec<usize>> {
    let node = &graph.nodes[classifier.node];
    if let Op::Convolution { groups, .. } = node.op
        && groups != 1
    {
        return Err(format!("its classifier {} is a convolution of {groups} groups", called(node)));
    }
    let mut found = Vec::new();
    for &input in &node.inputs[1..] {
        let Origin::Stored(index) = graph.values[input].origin else {
            return Err(format!("the bias of its classifier {} is computed", called(node)));
        };
        let stored = &tensors[index];
        let key = shown(stored.tensor.name());
        if stored.role != TensorRole::Parameter || stored.tensor.dtype() != Dtype::F32 {
            return Err(format!("{key} of its classifier {} is no parameter", called(node)));
        }
        let uses = |other: &Node| other.inputs.iter().any(|&input| graph.values[input].origin == Origin::Stored(index));
        let mut others = graph.nodes.iter().enumerate().filter(|(at, _)| *at != classifier.node);
        if let Some((_, other)) = others.find(|(_, other)| uses(other)) {
            return Err(format!("{key} of its classifier is used by {}, too", called(other)));
        }
        let mut twins = tensors.iter().enumerate().filter(|(at, other)| *at != index && other.file == stored.file);
        if let Some((_, twin)) = twins.next() {
            return Err(format!("{key} of its classifier shares its elements with {}", shown(twin.tensor.name())));
        }
        found.push(index);
    }
    Ok(found)
}

/// That the logits come from the classifier and from another layer with as many outputs, if they do.
fn two_outputs(graph: &Graph, tensors: &[StoredTensor], classifier: Classifier) -> Option<String> {
    let before = graph.sources(graph.nodes[classifier.node].outputs[0]);
    let of_logits = graph.sources(graph.logits);
    let classes = tensors[classifier.weight].tensor.shape()[0];
    let weight = |node: &Node| match (&node.op, graph.values[*node.inputs.get(1)?].origin) {
        (Op::Linear { .. } | Op::Convolution { .. }, Origin::Stored(index)) => Some(&tensors[index].tensor),
        _ => None,
    };
    let beside = (0..graph.nodes.len()).filter(|&at| of_logits[at] && !before[at]);
    let mut weights = beside.filter_map(|at| weight(&graph.nodes[at]));
    let other = shown(weights.find(|weight| weight.shape().first() == Some(&classes))?.name());
    let own = shown(tensors[classifier.weight].tensor.name());
    Some(format!(
        "its logits come from two outputs, those of {other} and of {own}, and a new classifier is one layer: let forward \
         return one of both only"
    ))
}

/// Gives every value after the classifier its shape. Returns the shapes before of those that have another.
fn follow(
    graph: &mut Graph,
    classifier: Classifier,
    parameters: &[usize],
    classes: u64,
) -> OrFault<Vec<(ValueId, Vec<Size>)>> {
    let mut before: HashMap<ValueId, Vec<Size>> = HashMap::new();
    let mut order = Vec::new();
    for (id, value) in graph.values.iter_mut().enumerate() {
        if matches!(value.origin, Origin::Stored(index) if parameters.contains(&index)) {
            before.insert(id, value.shape.clone());
            order.push(id);
            value.shape[0] = Size::Fixed(classes);
        }
    }
    for at in classifier.node..graph.nodes.len() {
        let node = &graph.nodes[at];
        if !node.inputs.iter().any(|input| before.contains_key(input)) {
            continue;
        }
        let op = followed(graph, node, &before)?;
        let inputs: Vec<&Value> = node.inputs.iter().map(|&input| &graph.values[input]).collect();
        let shapes = rules::infer(&op, &inputs).map_err(|why| format!("{} {why}", called(node)))?;
        let is_small = |shape: &Vec<Size>| product(shape).is_some_and(|all| all.per_image() <= MOST_ELEMENTS);
        if !shapes.iter().all(is_small) {
            return Err(format!("{classes} classes are too many"));
        }
        let outputs = node.outputs.clone();
        graph.nodes[at].op = op;
        for (output, shape) in outputs.into_iter().zip(shapes) {
            if graph.values[output].shape != shape {
                before.insert(output, std::mem::replace(&mut graph.values[output].shape, shape));
                order.push(output);
            }
        }
    }
    Ok(order.into_iter().filter_map(|id| Some((id, before.remove(&id)?))).collect())
}

/// The operation of a node whose inputs have other shapes. `before` has those that they had.
fn followed(graph: &Graph, node: &Node, before: &HashMap<ValueId, Vec<Size>>) -> OrFault<Op> {
    let now = &graph.values[node.inputs[0]].shape;
    let old = before.get(&node.inputs[0]).unwrap_or(now);
    let changed = (0..now.len()).find(|&dimension| old[dimension] != now[dimension]);
    let changes = |dimension: usize| changed == Some(dimension);
    let has_sizes = match &node.op {
        Op::Reshape { shape } if changed.is_some() => {
            let followed = changed.and_then(|changed| reshaped(node, [old, now], changed, shape));
            return followed.map(|shape| Op::Reshape { shape }).ok_or_else(|| {
                format!("{} has sizes of its own, which cannot follow the classes: use flatten(1) there", called(node))
            });
        }
        Op::Expand { .. } | Op::Split { .. } | Op::Unbind { .. } | Op::Rows => true,
        Op::Slice { dimension, .. } | Op::Select { dimension, .. } => changes(*dimension),
        Op::Pad { amounts, .. } => {
            let padded = changed.and_then(|changed| changed.checked_sub(now.len() - amounts.len()));
            padded.is_some_and(|padded| amounts[padded] != [0, 0])
        }
        Op::Roll { dimensions, .. } => dimensions.iter().any(|&dimension| changes(dimension)),
        Op::LayerNorm { dimensions, .. } => changed.is_some_and(|changed| changed >= now.len() - dimensions),
        Op::GroupNorm { .. } => changes(1),
        _ => false,
    };
    match has_sizes {
        true => Err(format!("{} has sizes of its own, which cannot follow the classes", called(node))),
        false => Ok(node.op.clone()),
    }
}

/// The shape that an operator without sizes gives an input whose size in one dimension has changed. `None` if that is
/// not certain.
fn reshaped(node: &Node, [old, now]: [&[Size]; 2], changed: usize, shape: &[Size]) -> Option<Vec<Size>> {
    let (before, after) = (old[changed].fixed()?, now[changed].fixed()?);
    let drops_ones = node.operator.starts_with("aten.squeeze") && (before == 1 || after == 1);
    if !WITHOUT_SIZES.contains(&node.operator.as_str()) || drops_ones {
        return None;
    }
    let wanted = product(now)?;
    let with_new = |at: usize| {
        let size = shape[at].fixed()?;
        let mut shape = shape.to_vec();
        shape[at] = Size::Fixed((size / before).checked_mul(after)?);
        (size % before == 0 && product(&shape) == Some(wanted)).then_some(shape)
    };
    let mut candidates = (0..shape.len()).filter_map(with_new);
    candidates.next().filter(|_| candidates.next().is_none())
}

/// What is to be changed in the file's program for a value that had another shape.
fn change(graph: &Graph, tensors: &[StoredTensor], id: ValueId, before: &[Size]) -> OrFault<Option<SizeChange>> {
    let Value { shape, origin, .. } = &graph.values[id];
    let value = match *origin {
        Origin::Stored(index) => Recorded::Parameter(tensors[index].tensor.name().to_owned()),
        // Of one that the reader added there is no record.
        Origin::Node(index) if graph.nodes[index].operator.is_empty() => return Ok(None),
        Origin::Node(index) => Recorded::Result(graph.nodes[index].name.clone()),
        Origin::Images => return Ok(None),
    };
    let mut changed = (0..shape.len()).filter(|&dimension| before.get(dimension) != Some(&shape[dimension]));
    match (changed.next(), changed.next()) {
        (None, _) => Ok(None),
        (Some(dimension), None) if before.len() == shape.len() => {
            Ok(Some(SizeChange { value, dimension, size: shape[dimension].per_image() }))
        }
        _ => Err(format!("a value {} would become {}", shown_shape(before), shown_shape(shape))),
    }
}

/// A node for people.
fn called(node: &Node) -> String {
    match node.operator.is_empty() {
        true => shown(&node.name),
        false => format!("{} ({})", shown(&node.name), shown(&node.operator)),
    }
}
