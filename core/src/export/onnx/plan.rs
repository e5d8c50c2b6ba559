//! Which layers and activations become int8.

use crate::export::Student;
use crate::export::int8::{Layers, Ranges};

/// What is quantised, and how.
pub(super) struct QuantisationPlan<'a> {
    pub(super) ranges: &'a Ranges,
    pub(super) layers: Layers,
}

impl<'a> QuantisationPlan<'a> {
    pub(super) fn new(student: &Student, ranges: &'a Ranges) -> Self {
        Self { ranges, layers: Layers::of(student) }
    }

    /// Whether a node is a normalisation that a layer before it takes in.
    pub(super) fn is_folded(&self, index: usize) -> bool {
        self.layers.nodes.values().any(|norm| *norm == Some(index))
    }
}
