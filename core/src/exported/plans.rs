//! Puts what a node is read as into the graph.

use super::builder::{Builder, first_tensor, results};
use super::constants;
use super::error::OrFault;
use super::graph::{Node, Origin, Value, ValueId};
use super::lowering::{ConstantTensor, LoweringPlan, Source};
use super::op::Op;
use super::schema;
use super::scope::ValueMemory;
use super::size::Size;
use super::stored::{StoredTensor, TensorRole};
use crate::checkpoint::error::shown;
use crate::checkpoint::tensor::{StoredBytes, StridedView};
use crate::checkpoint::{Dtype, Tensor};

impl Builder<'_> {
    pub(super) fn add_plan(&mut self, node: &schema::NodeRecord, plan: LoweringPlan, overwrites: bool) -> OrFault<()> {
        let names = results(node)?;
        let wanted = plan.results.len();
        if names.len() != wanted && (plan.left_out.is_none() || names.len() < wanted) {
            return Err(format!("has {} results, and should have {wanted}", names.len()));
        }
        let LoweringPlan { steps, literals, results, left_out, is_view } = plan;
        let first = first_tensor(node);
        let only = if let [only] = steps.as_slice() { Some(&only.op) } else { None };
        if !overwrites && matches!(only, Some(Op::CountBatch | Op::Bernoulli { .. })) {
            return Err("must overwrite its input".to_owned());
        }
        let shares = is_view || only.is_some_and(Op::is_view);
        let literals =
            literals.iter().map(|literal| self.add_literal(node.name(), literal)).collect::<OrFault<Vec<_>>>()?;
        let last = steps.len().saturating_sub(1);
        let mut values: Vec<Vec<ValueId>> = Vec::new();
        for (at, step) in steps.into_iter().enumerate() {
            let mut inputs: Vec<ValueId> = step.inputs.iter().map(|&input| id(input, &values, &literals)).collect();
            // Numbers that the plan has itself are right.
            if matches!((&step.op, step.inputs.get(1)), (Op::Rows, Some(Source::Value(_) | Source::Step { .. }))) {
                inputs[1] = self.row_numbers(node.name(), inputs[0], inputs[1])?;
            }
            self.check_statistics(&step.op, &inputs)?;
            let origin = Origin::Node(self.nodes.len());
            let mut outputs = Vec::new();
            for (output, value) in step.outputs.into_iter().enumerate() {
                let value = Value { origin, ..value };
                let place = results.iter().position(|result| *result == Source::Step { step: at, output });
                outputs.push(match place {
                    Some(place) => {
                        let memory = match first {
                            Some(first) if overwrites => {
                                self.check_overwriting(first, &step.op, &value)?;
                                ValueMemory::Overwritten(first)
                            }
                            Some(first) if shares => ValueMemory::Shared(first),
                            _ => ValueMemory::Own,
                        };
                        self.compare(names[place], &value)?;
                        self.scope.define(names[place], value, &memory)?
                    }
                    None => self.scope.define(&format!("{}.{at}.{output}", node.name()), value, &ValueMemory::Own)?,
                });
            }
            let is_last = at == last;
            let name = if is_last { node.name().to_owned() } else { format!("{}.{at}", node.name()) };
            let operator =
                if is_last { node.target.trim_start_matches("torch.ops.").to_owned() } else { String::new() };
            let full_precision = self.is_full_precision(node, &step.op, &inputs, &outputs);
            self.nodes.push(Node { name, operator, op: step.op, full_precision, inputs, outputs: outputs.clone() });
            values.push(outputs);
        }
        for name in names.iter().skip(wanted) {
            self.scope.refuse(name, left_out.unwrap_or_default());
        }
        Ok(())
    }

    /// Adds a tensor that is not in the file.
    fn add_literal(&mut self, node: &str, literal: &ConstantTensor) -> OrFault<ValueId> {
        let sizes: Vec<u64> = literal.value.shape.iter().map(|size| size.per_image()).collect();
        let stored = self.add_constant(node, literal.value.dtype, sizes, &literal.elements)?;
        Ok(self.scope.add_value(Value { origin: Origin::Stored(stored), ..literal.value.clone() }))
    }

    /// Adds a tensor that is not in the file, for a node, and gives its number.
    pub(super) fn add_constant(
        &mut self,
        node: &str,
        dtype: Dtype,
        shape: Vec<u64>,
        elements: &[f64],
    ) -> OrFault<usize> {
        let bytes = constants::bytes(dtype, elements)
            .ok_or_else(|| format!("needs constants of {dtype}, which are not supported"))?;
        let mut strides = vec![1; shape.len()];
        for at in (1..shape.len()).rev() {
            strides[at - 1] = strides[at] * shape[at];
        }
        let view = StridedView { offset: 0, shape, strides };
        let name = format!("{node}.constant.{}", self.constants.len());
        let tensor = Tensor::new(name, dtype, view, StoredBytes::Unpacked(bytes.into()), false);
        let tensor = tensor.map_err(|error| error.to_string())?;
        self.constants.push(StoredTensor {
            tensor,
            role: TensorRole::Constant,
            trained: false,
            tied_to: None,
            file: String::new(),
        });
        Ok(self.tensors.list.len() + self.constants.len() - 1)
    }

    /// What a tensor of the graph is.
    fn role(&self, stored: usize) -> TensorRole {
        self.tensors.list.get(stored).map_or(TensorRole::Constant, |stored| stored.role)
    }

    /// Refuses to overwrite a tensor of the file, but for counters of batches.
    fn check_overwriting(&self, name: &str, op: &Op, result: &Value) -> OrFault<()> {
        if self.scope.resolve(name).is_ok_and(|id| self.scope.value(id).shape != result.shape) {
            return Err("overwrites its input with a result of another shape".to_owned());
        }
        let origin = self.scope.origin(name).map(|id| self.scope.value(id).origin);
        let role = match origin {
            Some(Origin::Stored(index)) => Some(self.role(index)),
            _ => None,
        };
        match (role, op) {
            (Some(TensorRole::Buffer), Op::CountBatch) => Ok(()),
            (None, op) if !matches!(op, Op::CountBatch) => Ok(()),
            _ => Err(format!("overwrites {}, which is not a counter of batches", shown(name))),
        }
    }

    /// A batch norm changes its running statistics, which must therefore be buffers.
    fn check_statistics(&self, op: &Op, inputs: &[ValueId]) -> OrFault<()> {
        let is_buffer = |&id: &ValueId| match self.scope.value(id).origin {
            Origin::Stored(index) => self.role(index) == TensorRole::Buffer,
            _ => false,
        };
        match op {
            Op::BatchNorm { .. } if !inputs[3..].iter().all(is_buffer) => {
                Err("has running statistics that are not buffers of the state dict".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Adds a node that PyTorch does not have, with one result.
    pub(super) fn add_node(&mut self, name: &str, op: Op, input: ValueId, shape: Vec<Size>) -> ValueId {
        let (dtype, origin) = (self.scope.value(input).dtype, Origin::Node(self.nodes.len()));
        let output = self.scope.add_value(Value { dtype, shape, origin });
        let name = format!("{name}.constant.{}", self.nodes.len());
        self.nodes.push(Node {
            name,
            operator: String::new(),
            op,
            full_precision: false,
            inputs: vec![input],
            outputs: vec![output],
        });
        output
    }
}

/// The value that a tensor of a plan is.
fn id(source: Source, steps: &[Vec<ValueId>], literals: &[ValueId]) -> ValueId {
    match source {
        Source::Value(id) => id,
        Source::Step { step, output } => steps[step][output],
        Source::Constant(index) => literals[index],
    }
}
