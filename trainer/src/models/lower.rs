//! Makes programs of exported networks.
//!
//! A program computes as in training or as in evaluation, whatever the mode the file was exported in: in evaluation,
//! dropout does nothing and stochastic depth keeps everything. In training, layers that were exported as in evaluation
//! stay frozen.

use std::collections::HashMap;

use distillery_core::architecture::Convolution;
use distillery_core::exported::{self, Activation, Arithmetic, Graph, Operand, Origin, Size, makes_up_for};

use super::program::{
    GIVEN, Input, Kernel, Norm, Program, ProgramNode, ProgramOp, ProgramValueId, ProgramWindow, Random, int, open,
};

/// What a value of the graph is.
#[derive(Debug, Clone, Copy)]
enum Meaning {
    Input(Input),
    /// A mask of stochastic depth that keeps everything. Dividing it by this probability changes nothing.
    Ones(f64),
}

/// Part of a graph: what leads from one value to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subgraph {
    pub from: exported::ValueId,
    pub to: exported::ValueId,
}

struct ProgramLowering<'a> {
    graph: &'a Graph,
    trains: bool,
    meanings: Vec<Option<Meaning>>,
    program: Program,
    /// Whether each value of the program is one of full precision.
    in_full: Vec<bool>,
    /// Values in the other precision.
    converted: HashMap<ProgramValueId, ProgramValueId>,
}

/// A program that computes a part of the graph. `None` if the images lead there by another path, too.
pub(super) fn program(graph: &Graph, part: Subgraph, trains: bool) -> Option<Program> {
    let needed = needed(graph, part)?;
    let mut meanings: Vec<Option<Meaning>> = graph.values.iter().map(|value| stored(value.origin)).collect();
    meanings[part.from] = Some(Meaning::Input(Input::Value(GIVEN)));
    let shapes = vec![graph.values[part.from].shape.clone()];
    let program = Program { shapes, nodes: Vec::new(), result: GIVEN };
    let mut lowering =
        ProgramLowering { graph, trains, meanings, program, in_full: vec![false], converted: HashMap::new() };
    let mut stream = 0;
    for (node, is_needed) in graph.nodes.iter().zip(needed) {
        // Numbered in the whole graph, so that parts draw from different streams.
        stream += u32::from(is_random(&node.op));
        if is_needed {
            lowering.node(node, stream);
        }
    }
    match lowering.input(part.to) {
        Input::Value(result) => lowering.program.result = result,
        // Logits that depend on no image.
        Input::Weight(index) => {
            let shape = graph.values[part.to].shape.clone();
            lowering.push(ProgramOp::Expand { shape: shape.clone() }, false, vec![Input::Weight(index)], vec![shape]);
            lowering.program.result = lowering.program.shapes.len() - 1;
        }
    }
    Some(lowering.program)
}

fn stored(origin: Origin) -> Option<Meaning> {
    if let Origin::Stored(index) = origin { Some(Meaning::Input(Input::Weight(index))) } else { None }
}

/// Whether results depend on random numbers in training.
pub(super) fn is_random(op: &exported::Op) -> bool {
    use exported::Op as Read;
    match op {
        Read::Dropout { probability, training } => *training && *probability > 0.0,
        Read::Bernoulli { .. } => true,
        Read::Attention { dropout, .. } => *dropout > 0.0,
        _ => false,
    }
}

/// Which nodes a part consists of. `None` if it needs the images, and does not begin with them.
fn needed(graph: &Graph, part: Subgraph) -> Option<Vec<bool>> {
    let mut needed = vec![false; graph.nodes.len()];
    let mut left = vec![part.to];
    while let Some(value) = left.pop() {
        match graph.values[value].origin {
            _ if value == part.from => {}
            Origin::Images => return None,
            Origin::Node(index) if !needed[index] => {
                needed[index] = true;
                // What a mask is made of is only its memory.
                if !matches!(graph.nodes[index].op, exported::Op::Bernoulli { .. }) {
                    left.extend(&graph.nodes[index].inputs);
                }
            }
            Origin::Node(_) | Origin::Stored(_) => {}
        }
    }
    Some(needed)
}

impl ProgramLowering<'_> {
    fn node(&mut self, node: &exported::Node, stream: u32) {
        use exported::Op as Read;
        let first = || node.inputs[0];
        match &node.op {
            Read::Identity => self.identity(node),
            Read::Dropout { probability, training } if !(self.trains && *training && *probability > 0.0) => {
                self.same(node, first());
            }
            Read::Reshape { .. } | Read::Expand { .. } if self.shape(first()) == self.shape(node.outputs[0]) => {
                self.same(node, first());
            }
            Read::Permute { order } if order.is_sorted() => self.same(node, first()),
            Read::Empty { .. } | Read::CountBatch => {}
            Read::Bernoulli { probability } if !self.trains => {
                self.meanings[node.outputs[0]] = Some(Meaning::Ones(*probability));
            }
            Read::Bernoulli { probability } => {
                let random = Random { probability: *probability, stream };
                let shape = self.shape(node.outputs[0]).to_vec();
                self.add(node, ProgramOp::Bernoulli { shape, random }, Vec::new());
            }
            Read::Arithmetic { kind, other } => self.arithmetic(node, *kind, *other),
            op => {
                let inputs = self.inputs(node);
                let op = self.operation(op, node, stream);
                self.add(node, op, inputs);
            }
        }
    }

    fn shape(&self, value: exported::ValueId) -> &[Size] {
        &self.graph.values[value].shape
    }

    /// The node's result is another value.
    fn same(&mut self, node: &exported::Node, as_value: exported::ValueId) {
        self.meanings[node.outputs[0]] = self.meanings[as_value];
    }

    /// Makes a value that the program needs.
    fn input(&mut self, value: exported::ValueId) -> Input {
        match self.meanings[value] {
            Some(Meaning::Input(input)) => input,
            Some(Meaning::Ones(_)) => {
                let shape = self.shape(value).to_vec();
                self.push(ProgramOp::Ones { shape: shape.clone() }, false, Vec::new(), vec![shape]);
                let made = Input::Value(self.program.shapes.len() - 1);
                self.meanings[value] = Some(Meaning::Input(made));
                made
            }
            None => unreachable!("inputs come before the nodes that take them"),
        }
    }

    /// What a node takes, in its precision.
    fn inputs(&mut self, node: &exported::Node) -> Vec<Input> {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for &input in &node.inputs {
            let made = self.input(input);
            inputs.push(self.in_precision(made, node.full_precision));
        }
        inputs
    }

    /// The same in full precision, or in that of maps. Weights are converted by what takes them.
    fn in_precision(&mut self, input: Input, full: bool) -> Input {
        let Input::Value(value) = input else { return input };
        if self.in_full[value] == full {
            return input;
        }
        if let Some(&known) = self.converted.get(&value) {
            return Input::Value(known);
        }
        let shape = self.program.shapes[value].clone();
        self.push(ProgramOp::Convert { to_full_precision: full }, full, vec![input], vec![shape]);
        let made = self.program.shapes.len() - 1;
        self.converted.insert(value, made);
        if full {
            // The bits that were added are zeros.
            self.converted.insert(made, value);
        }
        Input::Value(made)
    }

    /// The same tensor, which a conversion has in another precision.
    fn identity(&mut self, node: &exported::Node) {
        match self.meanings[node.inputs[0]] {
            Some(Meaning::Input(input)) => {
                let converted = self.in_precision(input, node.full_precision);
                self.meanings[node.outputs[0]] = Some(Meaning::Input(converted));
            }
            _ => self.same(node, node.inputs[0]),
        }
    }

    fn add(&mut self, node: &exported::Node, op: ProgramOp, inputs: Vec<Input>) {
        let shapes: Vec<Vec<Size>> = node.outputs.iter().map(|&output| self.shape(output).to_vec()).collect();
        let first = self.program.shapes.len();
        self.push(op, node.full_precision, inputs, shapes);
        for (at, &output) in node.outputs.iter().enumerate() {
            self.meanings[output] = Some(Meaning::Input(Input::Value(first + at)));
        }
    }

    fn push(&mut self, op: ProgramOp, full_precision: bool, inputs: Vec<Input>, shapes: Vec<Vec<Size>>) {
        let first: ProgramValueId = self.program.shapes.len();
        let outputs = (first..first + shapes.len()).collect();
        self.in_full.extend(shapes.iter().map(|_| full_precision));
        self.program.shapes.extend(shapes);
        self.program.nodes.push(ProgramNode { op, full_precision, inputs, outputs });
    }

    fn arithmetic(&mut self, node: &exported::Node, kind: Arithmetic, other: Operand) {
        let output = node.outputs[0];
        let meaning = |at: usize| node.inputs.get(at).and_then(|&input| self.meanings[input]);
        match (kind, other, meaning(0), meaning(1)) {
            (Arithmetic::Divide, Operand::Number(number), Some(Meaning::Ones(probability)), _)
                if makes_up_for(number, probability) =>
            {
                self.meanings[output] = Some(Meaning::Ones(1.0));
                return;
            }
            (Arithmetic::Multiply, Operand::Tensor, _, Some(Meaning::Ones(_)))
                if self.shape(node.inputs[0]) == self.shape(output) =>
            {
                return self.same(node, node.inputs[0]);
            }
            (Arithmetic::Multiply, Operand::Tensor, Some(Meaning::Ones(_)), _)
                if self.shape(node.inputs[1]) == self.shape(output) =>
            {
                return self.same(node, node.inputs[1]);
            }
            _ => {}
        }
        let inputs = self.inputs(node);
        let are_alike = matches!(inputs.as_slice(), [Input::Value(_), Input::Value(_)])
            && self.shape(node.inputs[0]) == self.shape(node.inputs[1]);
        let op = match kind {
            Arithmetic::Add if are_alike => ProgramOp::Add,
            kind => ProgramOp::Arithmetic { kind, other },
        };
        self.add(node, op, inputs);
    }

    /// An operation that a node computes by itself.
    fn operation(&self, op: &exported::Op, node: &exported::Node, stream: u32) -> ProgramOp {
        use exported::Op as Read;
        let ints = |numbers: &[u64]| numbers.iter().map(|&number| int(number)).collect::<Vec<i64>>();
        let dimensions = |numbers: &[usize]| numbers.iter().map(|&number| dimension(number)).collect::<Vec<i64>>();
        match op {
            Read::Convolution { stride, padding, dilation, groups, bias } => {
                let weight = self.shape(node.inputs[1]);
                let kernel = [2, 3].map(|side| small(weight[side].per_image()));
                let [stride, padding] = [stride, padding].map(|pair| pair.map(small));
                let geometry = Convolution { kernel, stride, padding, groups: small(*groups), bias: *bias };
                ProgramOp::Convolution(Kernel { geometry, dilation: dilation.map(int) })
            }
            Read::TransposedConvolution { stride, padding, output_padding, dilation, groups, .. } => {
                let [stride, padding, output_padding, dilation] =
                    [stride, padding, output_padding, dilation].map(|pair| pair.map(int));
                let groups = int(*groups);
                ProgramOp::TransposedConvolution { stride, padding, output_padding, dilation, groups }
            }
            Read::BatchNorm { training, momentum, epsilon, by_image } => {
                let (momentum, epsilon, by_image) = (*momentum, *epsilon, *by_image);
                ProgramOp::BatchNorm(Norm { momentum, epsilon, of_batch: self.trains && *training, by_image })
            }
            Read::LayerNorm { dimensions, epsilon, scale, shift } => {
                let input = self.shape(node.inputs[0]);
                let shape = open(&input[input.len() - dimensions..]);
                ProgramOp::LayerNorm { shape, epsilon: *epsilon, scale: *scale, shift: *shift }
            }
            Read::GroupNorm { groups, epsilon, scale, shift } => {
                ProgramOp::GroupNorm { groups: int(*groups), epsilon: *epsilon, scale: *scale, shift: *shift }
            }
            Read::Linear { .. } => ProgramOp::Linear,
            Read::Matmul => ProgramOp::Matmul,
            Read::Attention { mask, dropout, is_causal, scale } => {
                let random = Random { probability: *dropout, stream };
                let dropout = (self.trains && *dropout > 0.0).then_some(random);
                ProgramOp::Attention { mask: *mask, dropout, is_causal: *is_causal, scale: *scale }
            }
            Read::Activation(Activation::Relu) => ProgramOp::Relu,
            Read::Activation(function) => ProgramOp::Activation(*function),
            Read::Softmax { dimension: at } => ProgramOp::Softmax { dimension: dimension(*at) },
            Read::LogSoftmax { dimension: at } => ProgramOp::LogSoftmax { dimension: dimension(*at) },
            Read::Prelu => ProgramOp::Prelu,
            Read::Where => ProgramOp::Where,
            Read::Compare { kind, other } => ProgramOp::Compare { kind: *kind, other: *other },
            Read::Max { dimensions: over, keeps, shares } => {
                ProgramOp::Max { dimensions: dimensions(over), keeps: *keeps, shares: *shares }
            }
            Read::Norm { dimensions: over, keeps } => ProgramOp::Length { dimensions: dimensions(over), keeps: *keeps },
            Read::LogSumExp { dimensions: over, keeps } => {
                ProgramOp::LogSumExp { dimensions: dimensions(over), keeps: *keeps }
            }
            Read::CumulativeSum { dimension: at } => ProgramOp::CumulativeSum { dimension: dimension(*at) },
            Read::Concat { dimension: at } => ProgramOp::Concat { dimension: dimension(*at) },
            Read::MaxPool(read) => ProgramOp::MaxPool(window(*read)),
            Read::AveragePool { window: read, counts_padding } => {
                ProgramOp::AveragePool { window: window(*read), counts_padding: *counts_padding }
            }
            Read::AdaptiveAveragePool { size } => ProgramOp::AdaptiveAveragePool { size: size.map(int) },
            Read::AdaptiveMaxPool { size } => ProgramOp::AdaptiveMaxPool { size: size.map(int) },
            Read::Mean { dimensions: over, keeps } => ProgramOp::Mean { dimensions: dimensions(over), keeps: *keeps },
            Read::Reshape { shape } => ProgramOp::Reshape { shape: open(shape) },
            Read::Expand { shape } => ProgramOp::Expand { shape: shape.clone() },
            Read::Permute { order } => ProgramOp::Permute { order: dimensions(order) },
            Read::Slice { dimension: at, start, end, step } => {
                ProgramOp::Slice { dimension: dimension(*at), start: int(*start), end: int(*end), step: int(*step) }
            }
            Read::Select { dimension: at, index } => {
                ProgramOp::Select { dimension: dimension(*at), index: int(*index) }
            }
            Read::Split { dimension: at, sizes } => ProgramOp::Split { dimension: dimension(*at), sizes: ints(sizes) },
            Read::Unbind { dimension: at } => ProgramOp::Unbind { dimension: dimension(*at) },
            Read::Pad { amounts, value } => ProgramOp::Pad {
                amounts: ints(&amounts.iter().rev().flatten().copied().collect::<Vec<_>>()),
                value: *value,
            },
            Read::Roll { shifts, dimensions: over } => {
                ProgramOp::Roll { shifts: shifts.clone(), dimensions: dimensions(over) }
            }
            Read::Rows => ProgramOp::Rows,
            Read::Dropout { probability, .. } => ProgramOp::Dropout(Random { probability: *probability, stream }),
            Read::Arithmetic { .. }
            | Read::Identity
            | Read::Empty { .. }
            | Read::Bernoulli { .. }
            | Read::CountBatch => {
                unreachable!("{op:?} is lowered before")
            }
        }
    }
}

fn window(read: exported::Window) -> ProgramWindow {
    let exported::Window { size, stride, padding, dilation, rounds_up } = read;
    let [size, stride, padding, dilation] = [size, stride, padding, dilation].map(|pair| pair.map(int));
    ProgramWindow { size, stride, padding, dilation, rounds_up }
}

fn dimension(number: usize) -> i64 {
    int(number as u64)
}

/// Sizes of a kernel are small; a larger stride moves over every map in one step.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
