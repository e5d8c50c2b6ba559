//! Computes once what a constant network would compute in every batch from its weights alone: standardised kernels,
//! weight norms, tables of biases.

use tch::{Device, Kind, Tensor};

use distillery_core::exported::{Arithmetic, Operand, Size};

use super::operators::apply;
use super::program::{Input, Program, ProgramNode, ProgramOp};
use super::scope::{ExecutionScope, Made, Taken};
use super::weight::Weight;

/// Elements that may be kept beside those of small networks.
const LEAST_ROOM: usize = 1 << 20;
/// Most elements that are kept, in those of the weights.
const MOST_GROWTH: usize = 4;

/// The program without nodes that depend on weights alone, and the weights with their results at the end. Results have
/// the kind of the weights. What takes much more memory than the weights stays in the program, and so does its result.
pub(super) fn settle(program: Program, weights: &[Weight]) -> (Program, Vec<Weight>) {
    let Program { shapes, nodes, result } = program;
    let mut weights: Vec<Weight> = weights.iter().map(shown).collect();
    let elements: usize = weights.iter().map(|weight| weight.tensor.numel()).sum();
    let mut room = elements.saturating_mul(MOST_GROWTH).saturating_add(LEAST_ROOM);
    // The weight that a value has become.
    let mut settled: Vec<Option<usize>> = vec![None; shapes.len()];
    let mut left = Vec::with_capacity(nodes.len());
    for mut node in nodes {
        for input in &mut node.inputs {
            if let Some(index) = input.value().and_then(|value| settled[value]) {
                *input = Input::Weight(index);
            }
        }
        // None of what depends on the number of images.
        let size = node.outputs.iter().try_fold(0_usize, |all, &output| all.checked_add(fixed(&shapes[output])?));
        let depends_on_weights = !node.inputs.is_empty() && node.inputs.iter().all(|input| input.weight().is_some());
        match size.and_then(|size| room.checked_sub(size)) {
            Some(rest) if depends_on_weights && !node.outputs.contains(&result) => {
                room = rest;
                let made = computed(&node, &weights);
                for (&output, weight) in node.outputs.iter().zip(made) {
                    settled[output] = Some(weights.len());
                    weights.push(weight);
                }
            }
            _ => left.push(open(node)),
        }
    }
    (Program { shapes, nodes: left, result }, weights)
}

/// The number of elements, unless it depends on the batch.
fn fixed(shape: &[Size]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |all, size| all.checked_mul(usize::try_from(size.fixed()?).ok()?))
}

/// The same weight, in the same memory.
fn shown(weight: &Weight) -> Weight {
    Weight { name: weight.name.clone(), tensor: weight.tensor.shallow_clone(), ..*weight }
}

fn computed(node: &ProgramNode, weights: &[Weight]) -> Vec<Weight> {
    let inputs: Vec<Taken<'_>> = node
        .inputs
        .iter()
        .filter_map(|input| input.weight())
        .map(|index| Taken::Weight(&weights[index].tensor))
        .collect();
    let device = inputs.first().map_or(Device::Cpu, |input| input.device());
    let scope = ExecutionScope { batch: 1, vectors: 1, kind: Kind::Float, device, noise: None, norm_kernel: None };
    let made = match apply(&node.op, &inputs, &scope, false) {
        Made::One(made) => vec![made],
        Made::Several(made) => made,
    };
    let weight = |tensor: Tensor| {
        let is_float = matches!(tensor.kind(), Kind::Float | Kind::Double);
        Weight { name: String::new(), tensor, trained: false, tied_to: None, is_float, is_kernel: false }
    };
    made.into_iter().map(weight).collect()
}

/// A sum joins the steps before it only where both of its inputs are values.
fn open(node: ProgramNode) -> ProgramNode {
    let has_weights = node.inputs.iter().any(|input| input.weight().is_some());
    match node.op {
        ProgramOp::Add if has_weights => {
            ProgramNode { op: ProgramOp::Arithmetic { kind: Arithmetic::Add, other: Operand::Tensor }, ..node }
        }
        _ => node,
    }
}
