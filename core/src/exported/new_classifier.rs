//! Puts a classifier for other classes in the place of a network's own.

use std::collections::HashMap;

use super::classifier::{Recorded, Replacement, SizeChange};
use super::error::{OrFault, Result};
use super::schema::{GraphModule, InputSpec, ProgramRecord, SizeMeta};
use super::size::MOST_ELEMENTS;
use super::stored::StoredTensor;
use super::{ExportedNetwork, describe};
use crate::checkpoint::tensor::{StoredBytes, StridedView};
use crate::checkpoint::{Checkpoint, Dtype, Tensor};

/// The key, in the metadata of a student's file, of its number of classes.
const CLASSES: &str = "num_classes";

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
