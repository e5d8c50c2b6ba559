//! Numbers of rows, which a network takes from its file: that there are such rows is known before anything computes.

use super::builder::Builder;
use super::constants::{Constant, compute, of_bytes};
use super::error::OrFault;
use super::graph::{Graph, Node, Origin, Value, ValueId};
use super::op::Op;
use super::scope::{ValueScope, most_elements};
use crate::checkpoint::Dtype;
use crate::checkpoint::error::shown;

/// Most views between a tensor of the file and the numbers of rows that it has.
const MOST_VIEWS: usize = 64;
const NOT_IN_FILE: &str = "takes rows by numbers that are not in the file";
const TOO_LARGE: &str = "takes rows by numbers that are too large";

impl Builder<'_> {
    /// Checks the numbers by which a node takes rows of a table. Gives a value that has them as 64-bit integers.
    pub(super) fn row_numbers(&mut self, node: &str, table: ValueId, numbers: ValueId) -> OrFault<ValueId> {
        let mut constant = self.known_numbers(numbers)?;
        check(&self.scope, &constant, self.scope.value(table))?;
        if constant.dtype == Dtype::I64 {
            return Ok(numbers);
        }
        constant.dtype = Dtype::I64;
        self.place(node, &constant)
    }

    /// A tensor of the file, or a view of one.
    fn known_numbers(&self, id: ValueId) -> OrFault<Constant> {
        let value = |id: ValueId| self.scope.value(id);
        let Views { stored, value: first, views } = Views::of(&self.nodes, value, id).ok_or(NOT_IN_FILE)?;
        let own = self.tensors.list.get(stored);
        let added = || self.constants.get(stored - self.tensors.list.len());
        let tensor = &own.or_else(added).ok_or(NOT_IN_FILE)?.tensor;
        self.scope.spend(tensor.elements())?;
        let bytes = tensor.bytes(self.source).map_err(|error| error.to_string())?;
        let elements = of_bytes(tensor.dtype(), &bytes).ok_or(TOO_LARGE)?;
        through(&self.scope, value, &views, Constant::of_file(self.scope.value(first), elements))
    }
}

impl Graph {
    /// What is wrong with the numbers by which the network takes rows of tables, if tensors of its state dict have
    /// other elements than in its file: a sentence without a full stop. `elements` gives the bytes of the stored tensor
    /// with an index, in its own type and shape, or `None` where those of the file stay.
    ///
    /// # Errors
    /// Those of `elements`.
    pub fn fault_of_rows<E>(
        &self,
        mut elements: impl FnMut(usize) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Option<String>, E> {
        // More than a file may need that was read.
        let scope = ValueScope::new(most_elements(u64::MAX), 0);
        let value = |id: ValueId| &self.values[id];
        for node in self.nodes.iter().filter(|node| node.op == Op::Rows) {
            let Some(Views { stored, value: first, views }) = Views::of(&self.nodes, value, node.inputs[1]) else {
                continue;
            };
            let Some(bytes) = elements(stored)? else { continue };
            let known = of_bytes(value(first).dtype, &bytes).ok_or_else(|| TOO_LARGE.to_owned());
            let numbers =
                known.and_then(|elements| through(&scope, value, &views, Constant::of_file(value(first), elements)));
            let checked = numbers.and_then(|numbers| check(&scope, &numbers, value(node.inputs[0])));
            if let Err(what) = checked {
                return Ok(Some(format!("its node {} {what}", shown(&node.name))));
            }
        }
        Ok(None)
    }
}

/// As in PyTorch, negative numbers count from the end.
fn check(scope: &ValueScope, numbers: &Constant, table: &Value) -> OrFault<()> {
    let rows = table.shape[0].per_image() as f64;
    let (_, elements, _) = numbers.compact();
    scope.spend(elements.len() as u64)?;
    match elements.iter().find(|number| !(-rows..rows).contains(*number)) {
        Some(number) => Err(format!("takes row {number} of a table with {rows} rows")),
        None => Ok(()),
    }
}

/// How a value shows a tensor of the file.
struct Views<'a> {
    /// The tensor's index.
    stored: usize,
    /// Its value.
    value: ValueId,
    /// The views between them with what each one makes, the last one first.
    views: Vec<(&'a Node, ValueId)>,
}

impl<'a> Views<'a> {
    /// `None` if it shows none.
    fn of<'b>(nodes: &'a [Node], values: impl Fn(ValueId) -> &'b Value, id: ValueId) -> Option<Self> {
        let mut views = Vec::new();
        let mut value = id;
        loop {
            let node = match values(value).origin {
                Origin::Stored(stored) => return Some(Self { stored, value, views }),
                Origin::Node(index) => nodes.get(index).filter(|node| node.op.is_view()),
                Origin::Images => None,
            };
            let node = node.filter(|_| views.len() < MOST_VIEWS)?;
            views.push((node, value));
            value = node.inputs[0];
        }
    }
}

/// What views show of a tensor.
fn through<'b>(
    scope: &ValueScope,
    values: impl Fn(ValueId) -> &'b Value,
    views: &[(&Node, ValueId)],
    mut known: Constant,
) -> OrFault<Constant> {
    let dtype = known.dtype;
    for &(node, value) in views.iter().rev() {
        let shapes: Vec<_> = node.outputs.iter().map(|&output| values(output).shape.clone()).collect();
        let computed = compute(scope, &node.op, &[known], (&shapes, dtype))?;
        let output = node.outputs.iter().position(|&output| output == value);
        let found =
            computed.zip(output).and_then(|(mut computed, at)| (at < computed.len()).then(|| computed.swap_remove(at)));
        known = found.ok_or(NOT_IN_FILE)?;
    }
    Ok(known)
}
