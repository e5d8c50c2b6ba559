//! Computes nodes that depend on constants only, and puts the results where others need them.

use super::arguments::Arguments;
use super::builder::{Builder, first_tensor, results};
use super::constants::{Constant, Creation, compute, creation, of_bytes};
use super::error::OrFault;
use super::graph::{NOWHERE, Origin, Value, ValueId};
use super::lowering::{LoweringPlan, Source};
use super::op::Op;
use super::operators;
use super::schema::{self, Argument};
use super::scope::ValueMemory;
use super::size::Size;
use super::stored::TensorRole;
use super::tensors::dtype;
use crate::checkpoint::Dtype;

/// Operators of which a tensor gives shape or type alone.
const TAKE_SHAPE: [&str; 6] = [
    "new_zeros.default",
    "new_ones.default",
    "new_full.default",
    "zeros_like.default",
    "ones_like.default",
    "full_like.default",
];

impl Builder<'_> {
    /// Computes a node from constants. `None` if it depends on anything else, or on nothing in a way that is not read
    /// here.
    pub(super) fn fold(&mut self, node: &schema::NodeRecord, name: &str, overwrites: bool) -> Option<OrFault<()>> {
        let takes_shape = TAKE_SHAPE.contains(&name);
        let matters = |argument: &&schema::NamedArgument| match argument.name.as_str() {
            "self" => !takes_shape,
            "other" => !matches!(name, "type_as.default" | "to.other"),
            _ => true,
        };
        let inputs = node.inputs.iter().filter(matters).flat_map(|argument| tensors(&argument.arg));
        let ids: Vec<ValueId> = inputs.map(|name| self.scope.resolve(name).ok()).collect::<Option<_>>()?;
        if !ids.iter().all(|&id| self.can_be_constant(id)) || !ids.iter().all(|&id| self.load(id)) {
            return None;
        }
        let computed = self.computed(node, name)?;
        Some(computed.and_then(|constants| self.define_constants(node, constants, overwrites)))
    }

    fn can_be_constant(&self, id: ValueId) -> bool {
        match self.scope.value(id).origin {
            Origin::Stored(index) => {
                self.tensors.list.get(index).is_some_and(|stored| stored.role == TensorRole::Constant)
            }
            _ => self.scope.constant(id).is_some(),
        }
    }

    /// Makes sure that the elements of a constant are known.
    fn load(&mut self, id: ValueId) -> bool {
        if self.scope.constant(id).is_some() {
            return true;
        }
        let value = self.scope.value(id).clone();
        let Origin::Stored(index) = value.origin else { return false };
        let tensor = &self.tensors.list[index].tensor;
        if self.scope.spend(tensor.elements()).is_err() {
            return false;
        }
        let elements = tensor.bytes(self.source).ok().and_then(|bytes| of_bytes(tensor.dtype(), &bytes));
        let Some(elements) = elements else { return false };
        let constant = Constant::of_file(&value, elements);
        self.scope.settle(id, constant.version(), id);
        self.scope.set_constant(id, constant);
        true
    }

    fn computed(&self, node: &schema::NodeRecord, name: &str) -> Option<OrFault<Vec<Constant>>> {
        let dtype = dtype(self.recorded.get(results(node).ok()?[0])?).ok()?;
        let mut arguments = Arguments::folding(&self.scope, &node.inputs);
        if let Some(create) = creation(name) {
            let made = create(&mut Creation { arguments: &mut arguments, dtype });
            return Some(made.and_then(|constant| arguments.finish().map(|_| vec![constant])));
        }
        match operators::read(name, arguments)? {
            Ok(plan) => self.run(&plan, dtype).transpose(),
            Err(message) => Some(Err(message)),
        }
    }

    /// Computes a plan's results. `None` if it has an operation that is not computed here.
    fn run(&self, plan: &LoweringPlan, dtype: Dtype) -> OrFault<Option<Vec<Constant>>> {
        let mut steps: Vec<Vec<Constant>> = Vec::new();
        for step in &plan.steps {
            let inputs: Option<Vec<Constant>> =
                step.inputs.iter().map(|&input| self.constant(input, plan, &steps)).collect();
            let Some(inputs) = inputs else { return Ok(None) };
            if matches!(step.op, Op::Empty { .. }) || inputs.is_empty() {
                return Ok(None);
            }
            let shapes: Vec<Vec<Size>> = step.outputs.iter().map(|output| output.shape.clone()).collect();
            match compute(&self.scope, &step.op, &inputs, (&shapes, dtype))? {
                Some(outputs) => steps.push(outputs),
                None => return Ok(None),
            }
        }
        Ok(plan.results.iter().map(|&result| self.constant(result, plan, &steps)).collect())
    }

    fn constant(&self, source: Source, plan: &LoweringPlan, steps: &[Vec<Constant>]) -> Option<Constant> {
        match source {
            Source::Value(id) => self.scope.constant(id).cloned(),
            Source::Step { step, output } => steps.get(step)?.get(output).cloned(),
            Source::Constant(index) => {
                let literal = plan.literals.get(index)?;
                Some(Constant::new(literal.value.dtype, literal.value.shape.clone(), literal.elements.clone()))
            }
        }
    }

    fn define_constants(
        &mut self,
        node: &schema::NodeRecord,
        constants: Vec<Constant>,
        overwrites: bool,
    ) -> OrFault<()> {
        let names = results(node)?;
        if names.len() != constants.len() {
            return Err(format!("has {} results, and should have {}", names.len(), constants.len()));
        }
        let first = first_tensor(node);
        let overwritten = first.and_then(|first| self.scope.constant(self.scope.resolve(first).ok()?)).cloned();
        for (name, constant) in names.into_iter().zip(constants) {
            let value = Value { dtype: constant.dtype, shape: constant.shape.clone(), origin: NOWHERE };
            self.compare(name, &value)?;
            let shared = overwritten.as_ref().filter(|other| overwrites || constant.shares_memory(other));
            match (first, shared) {
                (Some(first), Some(other)) if overwrites => {
                    if other.shape != constant.shape {
                        return Err("overwrites its input with a result of another shape".to_owned());
                    }
                    self.scope.spend(constant.count())?;
                    other.overwrite(&constant.elements())?;
                    self.scope.rename(name, first)?;
                }
                _ if overwrites => return Err("overwrites nothing".to_owned()),
                (first, shared) => {
                    let memory = match first.zip(shared) {
                        Some((first, _)) => ValueMemory::Shared(first),
                        None => ValueMemory::Own,
                    };
                    let id = self.scope.define(name, value, &memory)?;
                    self.scope.set_constant(id, constant);
                }
            }
        }
        Ok(())
    }

    /// Puts the constants among a node's arguments into the graph.
    pub(super) fn settle_arguments(&mut self, node: &schema::NodeRecord) -> OrFault<()> {
        for name in node.inputs.iter().flat_map(|argument| tensors(&argument.arg)) {
            if let Ok(id) = self.scope.resolve(name) {
                self.settle(node.name(), id)?;
            }
        }
        Ok(())
    }

    fn settle(&mut self, node: &str, id: ValueId) -> OrFault<()> {
        let Some(constant) = self.scope.constant(id).cloned() else { return Ok(()) };
        if self.scope.is_settled(id, constant.version()) {
            return Ok(());
        }
        let settled = self.place(node, &constant)?;
        self.scope.settle(id, constant.version(), settled);
        Ok(())
    }

    /// Puts a constant into the graph.
    pub(super) fn place(&mut self, node: &str, constant: &Constant) -> OrFault<ValueId> {
        let (sizes, elements, expanded) = constant.compact();
        self.scope.spend(elements.len() as u64)?;
        let stored: Vec<Size> = sizes.iter().map(|&size| Size::Fixed(size)).collect();
        let index = self.add_constant(node, constant.dtype, sizes, &elements)?;
        let value = Value { dtype: constant.dtype, shape: stored.clone(), origin: Origin::Stored(index) };
        let mut placed = self.scope.add_value(value);
        if expanded != stored {
            placed = self.add_node(node, Op::Expand { shape: expanded.clone() }, placed, expanded.clone());
        }
        if expanded != constant.shape {
            let shape = constant.shape.clone();
            placed = self.add_node(node, Op::Reshape { shape: shape.clone() }, placed, shape);
        }
        Ok(placed)
    }
}

/// The tensors that an argument names.
fn tensors(argument: &Argument) -> Vec<&str> {
    match argument {
        Argument::Tensor(name) => vec![name],
        Argument::Tensors(names) => names.iter().map(String::as_str).collect(),
        Argument::OptionalTensors(names) => names.iter().flatten().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}
