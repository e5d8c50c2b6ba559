//! The form of every operation in ONNX.

use super::builder::{OnnxBuilder, signed};
use super::proto::AttributeProto;
use crate::export::Result;
use crate::exported::{Arithmetic, Comparison, Node, Op, Operand, Size};

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto::int(name, value)
}

/// Dimensions and other small numbers.
fn axis(dimension: usize) -> i64 {
    signed(dimension as u64)
}

impl OnnxBuilder<'_> {
    /// Writes a node as what it computes in evaluation.
    pub(super) fn operation(&mut self, node: &Node) -> Result<()> {
        match &node.op {
            Op::Convolution { stride, padding, dilation, groups, .. } => {
                let attributes = convolution(*stride, *padding, *dilation, *groups);
                let inputs = self.names(&node.inputs)?;
                self.result(node, "Conv", inputs, attributes)
            }
            Op::TransposedConvolution { stride, padding, output_padding, dilation, groups, .. } => {
                let mut attributes = convolution(*stride, *padding, *dilation, *groups);
                let added = output_padding.iter().copied().map(signed).collect();
                attributes.push(AttributeProto::ints("output_padding", added));
                self.plain(node, "ConvTranspose", attributes)
            }
            Op::BatchNorm { epsilon, .. } => {
                let inputs = self.names(&node.inputs)?;
                self.result(node, "BatchNormalization", inputs, vec![AttributeProto::float("epsilon", *epsilon)])
            }
            Op::LayerNorm { dimensions, epsilon, scale, shift } => {
                self.layer_norm(node, *dimensions, *epsilon, *scale, *shift)
            }
            Op::GroupNorm { groups, epsilon, scale, shift } => self.group_norm(node, *groups, *epsilon, *scale, *shift),
            Op::Linear { bias } => self.linear(node, *bias),
            Op::Matmul => self.plain(node, "MatMul", Vec::new()),
            Op::Attention { mask, is_causal, scale, .. } => self.attention(node, *mask, *is_causal, *scale),
            Op::Activation(function) => self.activation(node, *function),
            Op::Softmax { dimension } => self.plain(node, "Softmax", vec![int("axis", axis(*dimension))]),
            Op::LogSoftmax { dimension } => self.plain(node, "LogSoftmax", vec![int("axis", axis(*dimension))]),
            Op::Prelu => self.prelu(node),
            Op::Where => self.plain(node, "Where", Vec::new()),
            Op::Compare { kind, other } => self.compare(node, *kind, *other),
            Op::Arithmetic { kind, other } => self.arithmetic(node, *kind, *other),
            Op::Concat { dimension } => self.plain(node, "Concat", vec![int("axis", axis(*dimension))]),
            Op::MaxPool(window) => self.max_pool(node, *window),
            Op::AveragePool { window, counts_padding } => self.average_pool(node, *window, *counts_padding),
            Op::AdaptiveAveragePool { size } => self.adaptive_average_pool(node, *size),
            Op::AdaptiveMaxPool { size } => self.adaptive_max_pool(node, *size),
            Op::Mean { dimensions, keeps } => self.reduce(node, "ReduceMean", dimensions, *keeps),
            Op::Max { dimensions, keeps, .. } => self.reduce(node, "ReduceMax", dimensions, *keeps),
            Op::Norm { dimensions, keeps } => self.reduce(node, "ReduceL2", dimensions, *keeps),
            Op::LogSumExp { dimensions, keeps } => self.reduce(node, "ReduceLogSumExp", dimensions, *keeps),
            Op::CumulativeSum { dimension } => {
                let dimension = self.int(axis(*dimension));
                self.with(node, "CumSum", vec![dimension], Vec::new())
            }
            // Nothing of these is left in evaluation.
            Op::Empty { .. } | Op::Bernoulli { .. } | Op::CountBatch | Op::Dropout { .. } | Op::Identity => Ok(()),
            Op::Reshape { shape } => {
                // Only one size depends on the batch, if any does.
                let size = |size: &Size| size.fixed().map_or(-1, signed);
                let shape = self.ints(&shape.iter().map(size).collect::<Vec<_>>());
                self.with(node, "Reshape", vec![shape], Vec::new())
            }
            Op::Expand { shape } => self.expand(node, shape),
            Op::Permute { order } => {
                let order = order.iter().map(|&dimension| axis(dimension)).collect();
                self.plain(node, "Transpose", vec![AttributeProto::ints("perm", order)])
            }
            Op::Slice { dimension, start, end, step } => {
                let numbers = [signed(*start), signed(*end), axis(*dimension), signed(*step)];
                let numbers = numbers.map(|number| self.ints(&[number])).to_vec();
                self.with(node, "Slice", numbers, Vec::new())
            }
            Op::Select { dimension, index } => {
                let index = self.int(signed(*index));
                self.with(node, "Gather", vec![index], vec![int("axis", axis(*dimension))])
            }
            Op::Split { dimension, sizes } => {
                let sizes: Vec<i64> = sizes.iter().copied().map(signed).collect();
                let sizes = self.ints(&sizes);
                self.with(node, "Split", vec![sizes], vec![int("axis", axis(*dimension))])
            }
            Op::Unbind { dimension } => self.unbind(node, *dimension),
            Op::Pad { amounts, value } => self.pad(node, amounts, *value),
            Op::Roll { shifts, dimensions } => self.roll(node, shifts, dimensions),
            Op::Rows => self.plain(node, "Gather", vec![int("axis", 0)]),
        }
    }

    /// A node whose inputs are the operation's.
    pub(super) fn plain(&mut self, node: &Node, op_type: &str, attributes: Vec<AttributeProto>) -> Result<()> {
        let inputs = self.names(&node.inputs)?;
        self.result(node, op_type, inputs, attributes)
    }

    /// A node with the operation's first input and these.
    pub(super) fn with(
        &mut self,
        node: &Node,
        op_type: &str,
        others: Vec<String>,
        attributes: Vec<AttributeProto>,
    ) -> Result<()> {
        let mut inputs = vec![self.name(node.inputs[0])?];
        inputs.extend(others);
        self.result(node, op_type, inputs, attributes)
    }

    fn reduce(&mut self, node: &Node, op_type: &str, dimensions: &[usize], keeps: bool) -> Result<()> {
        let axes = dimensions.iter().map(|&dimension| axis(dimension)).collect();
        self.plain(node, op_type, vec![AttributeProto::ints("axes", axes), int("keepdims", i64::from(keeps))])
    }

    fn linear(&mut self, node: &Node, bias: bool) -> Result<()> {
        if self.sizes(node.inputs[0]).len() == 2 {
            let inputs = self.names(&node.inputs)?;
            return self.result(node, "Gemm", inputs, vec![int("transB", 1)]);
        }
        let weight = self.transposed(&node.name, node.inputs[1])?;
        if !bias {
            return self.with(node, "MatMul", vec![weight], Vec::new());
        }
        let input = self.name(node.inputs[0])?;
        let product = self.step(&node.name, "MatMul", vec![input, weight], Vec::new());
        let bias = self.name(node.inputs[2])?;
        self.result(node, "Add", vec![product, bias], Vec::new())
    }

    fn arithmetic(&mut self, node: &Node, kind: Arithmetic, other: Operand) -> Result<()> {
        let op_type = match kind {
            Arithmetic::Add => "Add",
            Arithmetic::Subtract => "Sub",
            Arithmetic::Multiply => "Mul",
            Arithmetic::Divide => "Div",
            Arithmetic::Maximum => "Max",
            Arithmetic::Minimum => "Min",
            Arithmetic::Power => "Pow",
        };
        match other {
            Operand::Tensor => self.plain(node, op_type, Vec::new()),
            Operand::Number(number) => {
                let number = self.float(number);
                self.with(node, op_type, vec![number], Vec::new())
            }
        }
    }

    fn compare(&mut self, node: &Node, kind: Comparison, other: Operand) -> Result<()> {
        let op_type = match kind {
            Comparison::Less => "Less",
            Comparison::LessOrEqual => "LessOrEqual",
            Comparison::Greater => "Greater",
            Comparison::GreaterOrEqual => "GreaterOrEqual",
            Comparison::Equal | Comparison::NotEqual => "Equal",
        };
        let mut inputs = self.names(&node.inputs)?;
        if let Operand::Number(number) = other {
            inputs.push(self.float(number));
        }
        if kind != Comparison::NotEqual {
            return self.result(node, op_type, inputs, Vec::new());
        }
        let equal = self.step(&node.name, op_type, inputs, Vec::new());
        self.result(node, "Not", vec![equal], Vec::new())
    }

    fn expand(&mut self, node: &Node, shape: &[Size]) -> Result<()> {
        let input: &[Size] = self.sizes(node.inputs[0]);
        let new = shape.len() - input.len();
        // A size of 1 leaves the input's, and does not need to know the batch.
        let wanted: Vec<Size> = shape
            .iter()
            .enumerate()
            .map(|(at, &size)| match at.checked_sub(new).map(|at| input[at]) {
                Some(same) if same == size => Size::Fixed(1),
                _ => size,
            })
            .collect();
        let shape = self.shape(&node.name, &wanted);
        self.with(node, "Expand", vec![shape], Vec::new())
    }

    fn unbind(&mut self, node: &Node, dimension: usize) -> Result<()> {
        let input = self.name(node.inputs[0])?;
        for (index, &output) in node.outputs.iter().enumerate() {
            let index = self.int(axis(index));
            let part = Node { outputs: vec![output], ..node.clone() };
            self.result(&part, "Gather", vec![input.clone(), index], vec![int("axis", axis(dimension))])?;
        }
        Ok(())
    }

    fn pad(&mut self, node: &Node, amounts: &[[u64; 2]], value: f64) -> Result<()> {
        let first = self.sizes(node.inputs[0]).len() - amounts.len();
        let side = |side: usize| {
            let amounts = amounts.iter().map(move |amount| signed(amount[side]));
            std::iter::repeat_n(0, first).chain(amounts)
        };
        let pads = side(0).chain(side(1)).collect::<Vec<_>>();
        let others = vec![self.ints(&pads), self.float(value)];
        self.with(node, "Pad", others, Vec::new())
    }

    /// The last elements of each dimension before the first.
    fn roll(&mut self, node: &Node, shifts: &[i64], dimensions: &[usize]) -> Result<()> {
        let mut current = self.name(node.inputs[0])?;
        for (&shift, &dimension) in shifts.iter().zip(dimensions) {
            let size = signed(self.sizes(node.inputs[0])[dimension].per_image());
            let shift = shift.rem_euclid(size);
            if shift == 0 {
                continue;
            }
            let mut range = |from: i64, to: i64| {
                let numbers = [from, to, axis(dimension), 1].map(|number| self.ints(&[number]));
                let inputs = std::iter::once(current.clone()).chain(numbers).collect();
                self.step(&node.name, "Slice", inputs, Vec::new())
            };
            let (last, rest) = (range(size - shift, size), range(0, size - shift));
            current = self.step(&node.name, "Concat", vec![last, rest], vec![int("axis", axis(dimension))]);
        }
        self.result(node, "Identity", vec![current], Vec::new())
    }
}

pub(super) fn convolution(stride: [u64; 2], padding: [u64; 2], dilation: [u64; 2], groups: u64) -> Vec<AttributeProto> {
    let ints = |name: &str, numbers: &[u64]| AttributeProto::ints(name, numbers.iter().copied().map(signed).collect());
    vec![
        ints("strides", &stride),
        ints("pads", &[padding, padding].concat()),
        ints("dilations", &dilation),
        int("group", signed(groups)),
    ]
}
