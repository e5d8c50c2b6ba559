//! Runs the steps of a plan.
//!
//! A network computes in the kind of its input: a convolution converts its weight to that kind, and a batch norm, whose
//! weights stay float32, accepts either. So bfloat16 needs no second implementation, and gradients reach the float32
//! weights.

use tch::Tensor;

use super::fusion::{Plan, Step};
use super::layers::{NormTensors, norm};
use super::operators::apply;
use super::program::{GIVEN, Input, ProgramOp};
use super::scope::{ExecutionScope, Made, Taken};
use super::weight::Weight;

/// The result of a plan that was fused for training.
pub(super) fn forward(plan: &Plan, weights: &[Weight], given: &Tensor, scope: &ExecutionScope<'_>) -> Tensor {
    let weight = |index: usize| &weights[index].tensor;
    run(plan, given, weight, |_, step, inputs, added| match (&step.op, inputs) {
        (ProgramOp::BatchNorm(of), [x, scale, shift, mean, variance]) => {
            Made::One(norm(*of, x, NormTensors { scale, shift, mean, variance }, added, step.relu, scope))
        }
        (op, inputs) => apply(op, inputs, scope, false),
    })
}

/// Runs the steps in order. A value is dropped after its last use. `make` gets a step's index, the step, what it takes,
/// and the value that it adds.
pub(super) fn run<'a>(
    plan: &Plan,
    given: &Tensor,
    weight: impl Fn(usize) -> &'a Tensor,
    make: impl Fn(usize, &Step, &[Taken<'a>], Option<&Tensor>) -> Made,
) -> Tensor {
    let mut values: Vec<Option<Tensor>> = Vec::new();
    values.resize_with(plan.shapes.len(), || None);
    values[GIVEN] = Some(given.shallow_clone());
    for (index, step) in plan.steps.iter().enumerate() {
        let value =
            |id: usize| values[id].as_ref().expect("values come before the steps that take them").shallow_clone();
        let take = |input: &Input| match *input {
            Input::Value(id) => Taken::Value(value(id)),
            Input::Weight(at) => Taken::Weight(weight(at)),
        };
        let inputs: Vec<Taken<'a>> = step.inputs.iter().map(take).collect();
        let added = step.added.map(value);
        match make(index, step, &inputs, added.as_ref()) {
            Made::One(made) => values[step.outputs[0]] = Some(made),
            Made::Several(made) => {
                step.outputs.iter().zip(made).for_each(|(&output, made)| values[output] = Some(made));
            }
        }
        step.ends.iter().for_each(|&value| values[value] = None);
    }
    values[plan.result].take().expect("a plan makes its result")
}
