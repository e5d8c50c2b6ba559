//! Numbers of rows, which a network takes from its file: that there are such rows is known before anything computes.

use super::arguments::Outcome;
use super::builder::Builder;
use super::constants::{Constant, compute, of_bytes};
use super::graph::{Origin, ValueId};
use crate::checkpoint::Dtype;

/// Most views between a tensor of the file and the numbers of rows that it has.
const MOST_VIEWS: usize = 64;

impl Builder<'_> {
    /// Checks the numbers by which a node takes rows of a table. Gives a value that has them as 64-bit integers.
    pub(super) fn row_numbers(&mut self, node: &str, table: ValueId, numbers: ValueId) -> Outcome<ValueId> {
        let rows = self.scope.value(table).shape[0].per_image() as f64;
        let mut constant = self.known_numbers(numbers)?;
        let (_, elements, _) = constant.compact();
        self.scope.spend(elements.len() as u64)?;
        // As in PyTorch, negative numbers count from the end.
        if let Some(number) = elements.iter().find(|number| !(-rows..rows).contains(*number)) {
            return Err(format!("takes row {number} of a table with {rows} rows"));
        }
        if constant.dtype == Dtype::I64 {
            return Ok(numbers);
        }
        constant.dtype = Dtype::I64;
        self.place(node, &constant)
    }

    /// A tensor of the file, or a view of one.
    fn known_numbers(&self, id: ValueId) -> Outcome<Constant> {
        let mut views = Vec::new();
        let mut value = id;
        let stored = loop {
            let node = match self.scope.value(value).origin {
                Origin::Stored(index) => break index,
                Origin::Node(index) => self.nodes.get(index).filter(|node| node.op.is_view()),
                Origin::Images => None,
            };
            let node = node.filter(|_| views.len() < MOST_VIEWS);
            let node = node.ok_or("takes rows by numbers that are not in the file")?;
            views.push((node, value));
            value = node.inputs[0];
        };
        let own = self.tensors.list.get(stored);
        let added = || self.constants.get(stored - self.tensors.list.len());
        let tensor = &own.or_else(added).ok_or("takes rows by numbers that are not in the file")?.tensor;
        self.scope.spend(tensor.elements())?;
        let bytes = tensor.bytes(self.source).map_err(|error| error.to_string())?;
        let elements = of_bytes(tensor.dtype(), &bytes).ok_or("takes rows by numbers that are too large")?;
        let mut known = Constant::of_file(self.scope.value(value), elements);
        for (node, value) in views.into_iter().rev() {
            let shapes: Vec<_> = node.outputs.iter().map(|&output| self.scope.value(output).shape.clone()).collect();
            let computed = compute(&self.scope, &node.op, &[known], (&shapes, tensor.dtype()))?;
            let output = node.outputs.iter().position(|&output| output == value);
            let found = computed
                .zip(output)
                .and_then(|(mut computed, at)| (at < computed.len()).then(|| computed.swap_remove(at)));
            known = found.ok_or("takes rows by numbers that are not in the file")?;
        }
        Ok(known)
    }
}
