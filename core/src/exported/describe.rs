//! What a user reads about an exported network.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::classifier::{self, ClassifierCost};
use super::graph::{Graph, Node};
use super::head::{Classifier, FeatureMap, MapLayout, Path};
use super::memory::{self, MemoryDescription};
use super::remarks;
use super::rules;
use super::stored::StoredTensor;
use super::subject::{DescriptionInput, Mode, name_in_pytorch};
use super::ties;
use crate::checkpoint::error::shown;

/// Operators of a head that are listed. Most heads have a few.
const MOST_IN_HEAD: usize = 100;

/// The format that a [`Description`] names.
const FORMAT: &str = "torch_export";

fn format() -> &'static str {
    FORMAT
}

/// An exported network as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExportedNetwork)]
pub struct Description {
    /// Always `torch_export`.
    #[serde(skip_deserializing, default = "format")]
    pub format: &'static str,
    /// Version of the file's schema: major and minor.
    pub schema: String,
    /// Version of the PyTorch that wrote the file, if it says so.
    pub torch: Option<String>,
    /// Channels, height and width of an image.
    pub input: [u64; 3],
    /// The numbers of images that the file allows in a batch; `None` for no limit.
    pub batch: [Option<u64>; 2],
    pub classes: u64,
    /// Number of trained parameters.
    pub parameters: u64,
    /// Tensors that training changes and that have some elements in common with others, or with themselves, without
    /// being the same under another key, as in "a and b, c with itself": a student cannot have them. `None` if there
    /// are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlapping: Option<String>,
    /// Multiply-accumulate operations per image of convolutions and products of matrices.
    pub macs: u64,
    /// Elements per image of its values.
    #[serde(default)]
    pub memory: MemoryDescription,
    pub mode: Mode,
    /// How often each operator occurs.
    pub operators: BTreeMap<String, usize>,
    /// `None` if the network does not average the positions of a map.
    pub feature_map: Option<MapDescription>,
    pub head: HeadDescription,
    /// What may not be as meant: sentences without a full stop.
    pub warnings: Vec<String>,
    /// What may not be as meant in a student, in the same form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub student_warnings: Vec<String>,
    /// What is good to know, and nothing to act on, in the same form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExportedMap)]
pub struct MapDescription {
    /// Channels, height and width.
    pub shape: [u64; 3],
    pub layout: MapLayout,
}

/// What comes after the feature map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExportedHead)]
pub struct HeadDescription {
    /// Name of the node that averages the positions, after which the head begins; `None` without a feature map.
    pub begins_after: Option<String>,
    /// The operators of the head, in order, up to a hundred; then how many more there are. Empty without a feature map.
    pub operators: Vec<String>,
    /// Whether the mean of several regions' logits is the logits of their mean.
    pub is_linear: Option<bool>,
    /// Key of the weight of the layer that gives the logits, if it is a linear layer or a 1×1 convolution.
    pub classifier: Option<String>,
    /// What the network costs with another number of classes; `None` if its classifier cannot be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_classifier: Option<ClassifierCost>,
    /// Why the classifier cannot be replaced by one of other classes: continues "because". `None` if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps_classifier: Option<String>,
}

impl Description {
    /// The warnings for a network that is trained, or for one that is not.
    pub fn warnings_of(&self, is_student: bool) -> impl Iterator<Item = &String> {
        self.warnings.iter().chain(self.student_warnings.iter().filter(move |_| is_student))
    }

    /// The network with a new classifier for `classes` classes, as far as this is known without its file.
    #[must_use]
    pub fn with_classes(mut self, classes: u64) -> Self {
        if let Some(cost) = &self.head.new_classifier {
            let of_classes = |each: u64, classes: u64| each.saturating_mul(classes);
            self.parameters = cost.other_parameters.saturating_add(of_classes(cost.parameters_per_class, classes));
            let others = self.macs.saturating_sub(of_classes(cost.macs_per_class, self.classes));
            self.macs = others.saturating_add(of_classes(cost.macs_per_class, classes));
        }
        self.classes = classes;
        self
    }
}

/// What is found out with a description.
pub(super) struct Described {
    pub(super) description: Description,
    pub(super) feature_map: Option<FeatureMap>,
    pub(super) classifier: Option<Classifier>,
}

pub(super) fn describe(subject: &DescriptionInput<'_>) -> Described {
    let DescriptionInput { graph, tensors, schema, .. } = subject;
    let path = Path::of(graph);
    let map = path.feature_map(graph);
    let classifier = path.classifier(graph, map.map_or(0, |map| map.pooled_by + 1));
    let size = |value: usize, dimension: usize| graph.values[value].shape[dimension].per_image();
    let mode = mode(graph);
    let bound = |bound: Option<i64>| bound.and_then(|bound| u64::try_from(bound).ok());
    let description = Description {
        format: FORMAT,
        schema: format!("{}.{}", schema.major, schema.minor),
        torch: subject.torch.map(shown),
        input: [1, 2, 3].map(|dimension| size(graph.images, dimension)),
        batch: [bound(subject.batch.min_val), bound(subject.batch.max_val)],
        classes: size(graph.logits, 1),
        parameters: parameters(tensors),
        overlapping: ties::overlapping(graph, tensors),
        macs: macs(graph),
        memory: memory::describe(graph),
        mode,
        operators: operators(graph),
        feature_map: map.map(|map| MapDescription { shape: [map.channels, map.height, map.width], layout: map.layout }),
        head: head(subject, &path, map.as_ref(), classifier),
        warnings: remarks::warnings(subject),
        student_warnings: remarks::student_warnings(subject, mode),
        notes: remarks::notes(subject, map.as_ref(), bound(subject.batch.max_val)),
    };
    Described { description, feature_map: map, classifier }
}

/// Corrects what depends on the number of classes.
pub(super) fn count_again(description: &mut Description, graph: &Graph, tensors: &[StoredTensor]) {
    description.classes = graph.values[graph.logits].shape[1].per_image();
    description.parameters = parameters(tensors);
    description.macs = macs(graph);
    description.memory = memory::describe(graph);
}

fn parameters(tensors: &[StoredTensor]) -> u64 {
    let trained = tensors.iter().filter(|stored| stored.trained && stored.tied_to.is_none());
    trained.fold(0_u64, |sum, stored| sum.saturating_add(stored.tensor.elements()))
}

fn operators(graph: &Graph) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for node in graph.nodes.iter().filter(|node| !node.operator.is_empty()) {
        *counts.entry(node.operator.clone()).or_default() += 1;
    }
    counts
}

fn macs(graph: &Graph) -> u64 {
    graph.nodes.iter().fold(0_u64, |sum, node| sum.saturating_add(rules::macs_of(graph, node)))
}

fn mode(graph: &Graph) -> Mode {
    // Dropout with probability 0 computes the same in both, but shows in which mode the network was.
    let flags: BTreeSet<bool> = graph.nodes.iter().filter_map(|node| node.op.training()).collect();
    match (flags.contains(&true), flags.contains(&false)) {
        (true, true) => Mode::Mixed,
        (true, false) => Mode::Training,
        (false, true) => Mode::Evaluation,
        (false, false) => Mode::Either,
    }
}

fn head(
    subject: &DescriptionInput<'_>,
    path: &Path,
    map: Option<&FeatureMap>,
    classifier: Option<Classifier>,
) -> HeadDescription {
    let graph = subject.graph;
    let first = map.map_or(0, |map| map.pooled_by + 1);
    let cost = classifier::cost(graph, subject.tensors, classifier);
    let nodes: Vec<&Node> = map.map(|_| path.nodes_from(graph, first).collect()).unwrap_or_default();
    HeadDescription {
        begins_after: map.map(|map| shown(name_in_pytorch(&graph.nodes[map.pooled_by]))),
        operators: listed(&nodes),
        is_linear: map.map(|_| nodes.iter().all(|node| node.op.is_affine())),
        classifier: classifier.map(|classifier| shown(subject.tensors[classifier.weight].tensor.name())),
        new_classifier: cost.as_ref().ok().copied(),
        keeps_classifier: cost.err(),
    }
}

/// The operators of nodes, without those that the reader added. Lists of checkpoints hold many descriptions.
fn listed(nodes: &[&Node]) -> Vec<String> {
    let operators: Vec<_> = nodes.iter().map(|node| &node.operator).filter(|operator| !operator.is_empty()).collect();
    let more = operators.len().saturating_sub(MOST_IN_HEAD);
    let more = (more > 0).then(|| format!("{more} more"));
    operators.into_iter().take(MOST_IN_HEAD).cloned().chain(more).collect()
}
