//! Replaces the classifier of a network by one for other classes.
//!
//! The classifier is the last linear layer or 1×1 convolution of the head. The shapes after it follow, where the
//! operators have no sizes of their own: what cannot follow is named.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::arguments::OrFault;
use super::builder::MOST_ELEMENTS;
use super::error::Result;
use super::graph::{Graph, Node, Origin, Value, ValueId};
use super::op::Op;
use super::schema::{GraphModule, InputSpec, ProgramRecord, SizeMeta};
use super::size::{Size, product, shown_shape};
use super::tensors::{StoredTensor, TensorRole};
use super::{ExportedNetwork, describe, rules};
use crate::checkpoint::error::shown;
use crate::checkpoint::tensor::{StoredBytes, StridedView};
use crate::checkpoint::{Checkpoint, Dtype, Tensor};

/// The key, in the metadata of a student's file, of its number of classes.
const CLASSES: &str = "num_classes";
/// Operators that are read as a reshape, and whose shape follows from their input's.
const WITHOUT_SIZES: [&str; 5] = [
    "aten.flatten.using_ints",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
];

/// The layer that gives the logits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Classifier {
    /// Index of its node.
    pub(super) node: usize,
    /// Index of its stored weight [classes, …].
    pub(super) weight: usize,
}

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

/// A classifier that was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewClassifier {
    /// Indices, among the network's tensors, of its weight [classes, inputs…] and, if it has one, its bias `[classes]`.
    pub tensors: Vec<usize>,
    /// The classes that the network had.
    pub before: u64,
}

/// A size that a file records, and that is another one with the new classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resized {
    pub(crate) dimension: usize,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Which recorded value has another size, in which dimension.
#[derive(Debug, Clone)]
pub(super) struct SizeChange {
    value: Recorded,
    dimension: usize,
    size: u64,
}

#[derive(Debug, Clone)]
enum Recorded {
    /// By its key.
    Parameter(String),
    /// The result of the node with this name.
    Result(String),
}

impl ExportedNetwork {
    /// Replaces the classifier by one for `classes` classes. Its weights are zeros, and trained, until somebody sets
    /// them. After an error the network is as before.
    ///
    /// # Errors
    /// There is no classifier that could be replaced, or something after it cannot follow: a sentence without a full
    /// stop.
    pub fn replace_classifier(&mut self, classes: u64) -> std::result::Result<NewClassifier, String> {
        let before = self.description.classes;
        if classes == before {
            // What else the logits come from shows only if the number differs.
            Replacement::of(&self.graph, &self.tensors, self.classifier, before.saturating_add(1))?;
        }
        let Replacement { graph, parameters, changes } =
            Replacement::of(&self.graph, &self.tensors, self.classifier, classes)?;
        let new = parameters.iter().map(|&index| zeros(&self.tensors[index], classes)).collect::<OrFault<Vec<_>>>()?;
        for (&index, tensor) in parameters.iter().zip(new) {
            let stored = &mut self.tensors[index];
            (stored.tensor, stored.trained) = (tensor, true);
        }
        self.graph = graph;
        if classes != before {
            self.changes = changes;
        }
        describe::count_again(&mut self.description, &self.graph, &self.tensors);
        Ok(NewClassifier { tensors: parameters, before })
    }

    /// Gives the classifier as many classes as it has in the file of a student that was trained with a new one. Where
    /// that cannot be, the weights do not fit, which whoever loads them finds.
    pub fn fit_classifier(&mut self, student: &Checkpoint) {
        let Some(classifier) = self.classifier else { return };
        let key = self.tensors[classifier.weight].tensor.name();
        let stored = student.get(key).and_then(|weight| weight.shape().first().copied());
        let named = student.metadata().get(CLASSES).and_then(|classes| classes.parse().ok());
        if let Some(classes) = stored.filter(|&classes| named == Some(classes) && classes != self.description.classes) {
            let _ = self.replace_classifier(classes);
        }
    }

    /// The sizes in the file's program that a new classifier changes, by the names of the values.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn resized(&self) -> Result<Vec<(String, Resized)>> {
        if self.changes.is_empty() {
            return Ok(Vec::new());
        }
        let program: ProgramRecord = self.archive()?.program()?;
        let GraphModule { graph, signature } = program.graph_module;
        let specs = signature.input_specs.iter();
        let names: HashMap<&str, &str> = specs
            .filter_map(|spec| match spec {
                InputSpec::Parameter { value, key } => Some((key.as_str(), value.as_str())),
                _ => None,
            })
            .collect();
        let values = graph.tensor_values.0.iter();
        let recorded: HashMap<&str, &[SizeMeta]> =
            values.map(|(name, meta)| (name.as_str(), meta.sizes.as_slice())).collect();
        let resized = self.changes.iter().map(|SizeChange { value, dimension, size }| {
            let name = match value {
                Recorded::Parameter(key) => names.get(key.as_str()).copied().unwrap_or(key),
                Recorded::Result(name) => name.as_str(),
            };
            let from = match recorded.get(name).and_then(|sizes| sizes.get(*dimension)) {
                Some(SizeMeta::Int(from)) => from.unsigned_abs(),
                // Whoever changes the program does not find it there, either.
                Some(SizeMeta::Expression(_)) | None => 0,
            };
            (name.to_owned(), Resized { dimension: *dimension, from, to: *size })
        });
        Ok(resized.collect())
    }
}

/// A tensor like another, with zeros for this many classes. They take no memory before they are read.
fn zeros(stored: &StoredTensor, classes: u64) -> OrFault<Tensor> {
    let mut shape = stored.tensor.shape().to_vec();
    shape[0] = classes;
    if shape.iter().try_fold(1_u64, |all, &size| all.checked_mul(size)).is_none_or(|all| all > MOST_ELEMENTS) {
        return Err(format!("{classes} classes are too many"));
    }
    let view = StridedView { offset: 0, strides: vec![0; shape.len()], shape };
    let zero = StoredBytes::Unpacked(vec![0_u8; 4].into());
    Tensor::new(stored.tensor.name().to_owned(), Dtype::F32, view, zero, false).map_err(|error| error.to_string())
}

/// What a classifier with other classes costs, or why there can be none.
pub(super) fn cost(graph: &Graph, tensors: &[StoredTensor], classifier: Option<Classifier>) -> OrFault<ClassifierCost> {
    let classes = graph.values[graph.logits].shape[1].per_image();
    let Replacement { parameters, .. } = Replacement::of(graph, tensors, classifier, classes.saturating_add(1))?;
    let elements = |index: usize| tensors[index].tensor.elements();
    let counts = |stored: &StoredTensor| stored.trained && stored.tied_to.is_none();
    let trained = tensors.iter().enumerate().filter(|(index, stored)| counts(stored) && !parameters.contains(index));
    let macs = classifier.map_or(0, |classifier| describe::macs_of(graph, &graph.nodes[classifier.node]));
    Ok(ClassifierCost {
        other_parameters: trained.fold(0, |sum: u64, (index, _)| sum.saturating_add(elements(index))),
        parameters_per_class: parameters.iter().map(|&index| elements(index) / classes).sum(),
        macs_per_class: macs / classes,
    })
}

/// A graph with another classifier.
struct Replacement {
    graph: Graph,
    /// Indices of the stored tensors of the classifier.
    parameters: Vec<usize>,
    changes: Vec<SizeChange>,
}

impl Replacement {
    fn of(graph: &Graph, tensors: &[StoredTensor], classifier: Option<Classifier>, classes: u64) -> OrFault<Self> {
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
