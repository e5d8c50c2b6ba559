//! Makes programs of the zoo's networks.

use distillery_core::architecture::{Convolution, Layout, LayoutOp, Pool, Role};
use distillery_core::exported::{Activation, Size};

use super::program::{GIVEN, Input, Kernel, Norm, Program, ProgramNode, ProgramOp, ProgramWindow};

/// PyTorch's default.
const MOMENTUM: f64 = 0.1;
const EPSILON: f64 = 1e-5;

/// From images [B, 3, H, W] to the final feature map. It runs at every size of images; the shapes are those of the
/// layout. Weights are numbered as the layout's entries.
pub(super) fn program(layout: &Layout, trains: bool) -> Program {
    let shape = |channels: u32, side: u32| {
        let [channels, side] = [channels, side].map(|size| Size::Fixed(size.into()));
        vec![Size::Batch(1), channels, side, side]
    };
    let mut program = Program { shapes: Vec::new(), nodes: Vec::new(), result: layout.nodes.len() - 1 };
    for (index, node) in layout.nodes.iter().enumerate() {
        program.shapes.push(shape(node.map.channels, node.map.side));
        let Some((op, weights)) = operation(layout, node.op, trains) else {
            debug_assert_eq!(index, GIVEN);
            continue;
        };
        let inputs = node.inputs.iter().map(|&input| Input::Value(input));
        let inputs = inputs.chain(weights.map(Input::Weight)).collect();
        program.nodes.push(ProgramNode { op, full_precision: false, inputs, outputs: vec![index] });
    }
    program
}

/// An operation and the weights that it takes. `None` for the images.
fn operation(layout: &Layout, op: LayoutOp, trains: bool) -> Option<(ProgramOp, std::ops::Range<usize>)> {
    let none = 0..0;
    Some(match op {
        LayoutOp::Images => return None,
        LayoutOp::Convolution { weight } => {
            let geometry = geometry(layout, weight);
            let count = if geometry.bias { 2 } else { 1 };
            (ProgramOp::Convolution(Kernel { geometry, dilation: [1, 1] }), weight..weight + count)
        }
        LayoutOp::BatchNorm { weight } => {
            let norm = Norm { momentum: MOMENTUM, epsilon: EPSILON, of_batch: trains, by_image: false };
            (ProgramOp::BatchNorm(norm), weight..weight + 4)
        }
        LayoutOp::Relu => (ProgramOp::Relu, none),
        LayoutOp::Relu6 => (ProgramOp::Activation(Activation::Clamp { low: 0.0, high: 6.0 }), none),
        LayoutOp::Add => (ProgramOp::Add, none),
        LayoutOp::Concat => (ProgramOp::Concat { dimension: 1 }, none),
        LayoutOp::Channels { from, count } => {
            let (start, end) = (i64::from(from), i64::from(from) + i64::from(count));
            (ProgramOp::Slice { dimension: 1, start, end, step: 1 }, none)
        }
        LayoutOp::Shuffle { groups } => (ProgramOp::Shuffle { groups: groups.into() }, none),
        LayoutOp::Subsample { zeros } => (ProgramOp::Subsample { zeros: zeros.into() }, none),
        LayoutOp::AveragePool(pool) => (ProgramOp::AveragePool { window: window(pool), counts_padding: true }, none),
        LayoutOp::MaxPool(pool) => (ProgramOp::MaxPool(window(pool)), none),
    })
}

fn geometry(layout: &Layout, weight: usize) -> Convolution {
    let Role::Convolution(geometry) = layout.entries[weight].role else {
        unreachable!("a convolution's first entry is its weight")
    };
    geometry
}

fn window(Pool { size, stride, padding }: Pool) -> ProgramWindow {
    let [size, stride, padding] = [size, stride, padding].map(|n| [i64::from(n); 2]);
    ProgramWindow { size, stride, padding, dilation: [1, 1], rounds_up: false }
}
