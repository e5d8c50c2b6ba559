//! What a node of the file is read as: one operation or several, one after the other.

use super::arguments::Arguments;
use super::error::OrFault;
use super::graph::{NOWHERE, Value, ValueId};
use super::op::{Activation, Arithmetic, Op, Operand};
use super::rules;
use super::size::{MOST_ELEMENTS, Size, product, shown_shape};
use crate::checkpoint::Dtype;

/// A tensor of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// One of the program.
    Value(ValueId),
    /// A result of an earlier step.
    Step { step: usize, output: usize },
    /// One of the plan's constants.
    Constant(usize),
}

#[derive(Debug)]
pub(super) struct LoweringStep {
    pub(super) op: Op,
    pub(super) inputs: Vec<Source>,
    pub(super) outputs: Vec<Value>,
}

/// A tensor whose elements do not depend on anything.
#[derive(Debug)]
pub(super) struct ConstantTensor {
    pub(super) value: Value,
    pub(super) elements: Vec<f64>,
}

#[derive(Debug, Default)]
pub(super) struct LoweringPlan {
    pub(super) steps: Vec<LoweringStep>,
    pub(super) literals: Vec<ConstantTensor>,
    pub(super) results: Vec<Source>,
    /// What the node's further results are, which the plan does not have.
    pub(super) left_out: Option<&'static str>,
    /// Whether the result is a view of the node's first tensor in PyTorch, though not here.
    pub(super) is_view: bool,
}

/// Makes a plan, step by step, and checks every step.
pub(super) struct Lowering<'a> {
    pub(super) arguments: Arguments<'a>,
    plan: LoweringPlan,
}

impl<'a> Lowering<'a> {
    pub(super) fn new(arguments: Arguments<'a>) -> Self {
        Self { arguments, plan: LoweringPlan::default() }
    }

    pub(super) fn tensor(&mut self, name: &str) -> OrFault<Source> {
        self.arguments.tensor(name)?;
        Ok(self.last_argument())
    }

    pub(super) fn optional_tensor(&mut self, name: &str) -> OrFault<Option<Source>> {
        Ok(self.arguments.optional_tensor(name)?.is_some().then(|| self.last_argument()))
    }

    pub(super) fn tensors(&mut self, name: &str) -> OrFault<Vec<Source>> {
        let before = self.arguments.tensors.len();
        self.arguments.tensors(name)?;
        Ok(self.arguments.tensors[before..].iter().map(|&id| Source::Value(id)).collect())
    }

    /// The tensor that was asked for last.
    pub(super) fn last_argument(&self) -> Source {
        Source::Value(*self.arguments.tensors.last().expect("a tensor was asked for"))
    }

    pub(super) fn value(&self, source: Source) -> &Value {
        match source {
            Source::Value(id) => self.arguments.scope.value(id),
            Source::Step { step, output } => &self.plan.steps[step].outputs[output],
            Source::Constant(index) => &self.plan.literals[index].value,
        }
    }

    pub(super) fn shape(&self, source: Source) -> Vec<Size> {
        self.value(source).shape.clone()
    }

    /// A size that does not depend on the batch.
    pub(super) fn fixed(&self, source: Source, dimension: usize) -> OrFault<u64> {
        let size = self.value(source).shape.get(dimension).and_then(|size| size.fixed());
        size.ok_or_else(|| "needs a dimension that does not depend on the batch size".to_owned())
    }

    pub(super) fn split(&mut self, op: Op, inputs: &[Source]) -> OrFault<Vec<Source>> {
        let given: Vec<&Value> = inputs.iter().map(|&input| self.value(input)).collect();
        let shapes = match self.arguments.folds {
            true => rules::infer(&op, &given)?,
            false => rules::shapes(&op, &given)?,
        };
        let is_small = |shape: &&Vec<Size>| product(shape).is_some_and(|all| all.per_image() <= MOST_ELEMENTS);
        if let Some(shape) = shapes.iter().find(|shape| !is_small(shape)) {
            let shape = shown_shape(shape);
            return Err(format!("computes {shape}, and a value has {MOST_ELEMENTS} elements per image at most"));
        }
        self.arguments.scope.spend_results(shapes.len())?;
        let dtype = rules::dtype(&op, &given);
        let outputs: Vec<Value> = shapes.into_iter().map(|shape| Value { dtype, shape, origin: NOWHERE }).collect();
        let step = self.plan.steps.len();
        let sources = (0..outputs.len()).map(|output| Source::Step { step, output }).collect();
        self.plan.steps.push(LoweringStep { op, inputs: inputs.to_vec(), outputs });
        Ok(sources)
    }

    /// Adds an operation with one result.
    pub(super) fn add(&mut self, op: Op, inputs: &[Source]) -> OrFault<Source> {
        Ok(self.split(op, inputs)?[0])
    }

    pub(super) fn reshape(&mut self, input: Source, shape: Vec<Size>) -> OrFault<Source> {
        if self.value(input).shape == shape {
            return Ok(input);
        }
        self.add(Op::Reshape { shape }, &[input])
    }

    pub(super) fn permute(&mut self, input: Source, order: Vec<usize>) -> OrFault<Source> {
        if order.iter().enumerate().all(|(at, &dimension)| at == dimension) {
            return Ok(input);
        }
        self.add(Op::Permute { order }, &[input])
    }

    pub(super) fn activation(&mut self, function: Activation, input: Source) -> OrFault<Source> {
        self.add(Op::Activation(function), &[input])
    }

    pub(super) fn combine(&mut self, kind: Arithmetic, one: Source, two: Source) -> OrFault<Source> {
        self.add(Op::Arithmetic { kind, other: Operand::Tensor }, &[one, two])
    }

    /// Combines a tensor with a number; leaves it out where it changes nothing.
    pub(super) fn with_number(&mut self, kind: Arithmetic, input: Source, number: f64) -> OrFault<Source> {
        match kind {
            Arithmetic::Add | Arithmetic::Subtract if number == 0.0 => Ok(input),
            Arithmetic::Multiply | Arithmetic::Divide if number == 1.0 => Ok(input),
            _ => self.add(Op::Arithmetic { kind, other: Operand::Number(number) }, &[input]),
        }
    }

    /// The sum over some dimensions: their mean times the number of their elements.
    pub(super) fn sum(&mut self, input: Source, dimensions: Vec<usize>, keeps: bool) -> OrFault<Source> {
        let count = dimensions.iter().try_fold(1_u64, |count, &dimension| {
            let size =
                self.value(input).shape[dimension].fixed().ok_or("sums over the batch, which is not supported")?;
            count.checked_mul(size).ok_or("sums over too many elements")
        })?;
        let mean = self.add(Op::Mean { dimensions, keeps }, &[input])?;
        self.with_number(Arithmetic::Multiply, mean, count as f64)
    }

    /// A tensor whose elements, in row-major order, are a function of their number.
    pub(super) fn constant(&mut self, dtype: Dtype, shape: &[u64], element: impl Fn(u64) -> f64) -> OrFault<Source> {
        let count = shape.iter().try_fold(1_u64, |count, &size| count.checked_mul(size)).unwrap_or(u64::MAX);
        self.arguments.scope.spend(count)?;
        let elements = (0..count).map(element).collect();
        let shape = shape.iter().map(|&size| Size::Fixed(size)).collect();
        let value = Value { dtype, shape, origin: NOWHERE };
        self.plan.literals.push(ConstantTensor { value, elements });
        Ok(Source::Constant(self.plan.literals.len() - 1))
    }

    /// `count` slices of a dimension, whose numbers a function gives.
    pub(super) fn take(
        &mut self,
        input: Source,
        dimension: usize,
        count: u64,
        number: impl Fn(u64) -> u64,
    ) -> OrFault<Source> {
        let rows = self.constant(Dtype::I64, &[count], |at| number(at) as f64)?;
        self.take_rows(input, dimension, rows)
    }

    /// The slices of a dimension with the numbers in a tensor, whose dimensions take its place.
    pub(super) fn take_rows(&mut self, input: Source, dimension: usize, rows: Source) -> OrFault<Source> {
        let (rank, new) = (self.value(input).shape.len(), self.value(rows).shape.len());
        let to_front = std::iter::once(dimension).chain((0..rank).filter(|&other| other != dimension)).collect();
        let table = self.permute(input, to_front)?;
        let taken = self.add(Op::Rows, &[table, rows])?;
        let order = (new..new + dimension).chain(0..new).chain(new + dimension..new + rank - 1).collect();
        self.permute(taken, order)
    }

    /// Ends the plan, unless there are arguments that were not asked for.
    pub(super) fn finish(mut self, results: Vec<Source>) -> OrFault<LoweringPlan> {
        for result in results {
            let is_new = matches!(result, Source::Step { .. }) && !self.plan.results.contains(&result);
            let result = if is_new { result } else { self.add(Op::Identity, &[result])? };
            self.plan.results.push(result);
        }
        let Self { arguments, plan } = self;
        arguments.finish()?;
        Ok(plan)
    }

    /// Says what the results are that the plan does not have.
    pub(super) fn leaves_out(&mut self, what: &'static str) {
        self.plan.left_out = Some(what);
    }

    pub(super) fn is_view(&mut self) {
        self.plan.is_view = true;
    }
}
