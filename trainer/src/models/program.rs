//! A network as a list of operations on values, ready to run: made of a network of the zoo ([`super::zoo`]) or of an
//! exported one ([`super::lower`]), for training or for evaluation.

use distillery_core::architecture::Convolution;
use distillery_core::exported::{Activation, Arithmetic, Comparison, Operand, Size};

/// Index of a value in [`Program::shapes`].
pub(super) type ProgramValueId = usize;

/// The value that a program is given: images, or the vectors that a head classifies.
pub(super) const GIVEN: ProgramValueId = 0;

/// Nothing in it overwrites anything but running statistics.
#[derive(Debug)]
pub(super) struct Program {
    pub shapes: Vec<Vec<Size>>,
    /// In topological order.
    pub nodes: Vec<ProgramNode>,
    pub result: ProgramValueId,
}

#[derive(Debug)]
pub(super) struct ProgramNode {
    pub op: ProgramOp,
    /// Whether it takes and makes maps of float32 where others are bfloat16.
    pub full_precision: bool,
    pub inputs: Vec<Input>,
    pub outputs: Vec<ProgramValueId>,
}

/// What an operation is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Value(ProgramValueId),
    /// Index of a tensor of the network.
    Weight(usize),
}

impl Input {
    pub(super) fn value(self) -> Option<ProgramValueId> {
        if let Self::Value(id) = self { Some(id) } else { None }
    }

    pub(super) fn weight(self) -> Option<usize> {
        if let Self::Weight(index) = self { Some(index) } else { None }
    }
}

/// An operation, with its inputs in the order of [`distillery_core::exported::Op`]. Numbers are as libtorch takes them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ProgramOp {
    Convolution(Kernel),
    TransposedConvolution {
        stride: [i64; 2],
        padding: [i64; 2],
        output_padding: [i64; 2],
        dilation: [i64; 2],
        groups: i64,
    },
    BatchNorm(Norm),
    Relu,
    /// The sum of two values of the same shape.
    Add,
    /// Moves channel c of group g to position c·groups + g.
    Shuffle {
        groups: i64,
    },
    /// Every second pixel, with channels of zeros added on both sides.
    Subsample {
        zeros: i64,
    },
    LayerNorm {
        shape: Vec<i64>,
        epsilon: f64,
        scale: bool,
        shift: bool,
    },
    GroupNorm {
        groups: i64,
        epsilon: f64,
        scale: bool,
        shift: bool,
    },
    Linear,
    Matmul,
    Attention {
        mask: bool,
        dropout: Option<Random>,
        is_causal: bool,
        /// 1/√E if none is given.
        scale: Option<f64>,
    },
    Activation(Activation),
    Softmax {
        dimension: i64,
    },
    LogSoftmax {
        dimension: i64,
    },
    Prelu,
    Where,
    Compare {
        kind: Comparison,
        other: Operand,
    },
    Arithmetic {
        kind: Arithmetic,
        other: Operand,
    },
    Concat {
        dimension: i64,
    },
    MaxPool(ProgramWindow),
    AveragePool {
        window: ProgramWindow,
        counts_padding: bool,
    },
    AdaptiveAveragePool {
        size: [i64; 2],
    },
    AdaptiveMaxPool {
        size: [i64; 2],
    },
    Mean {
        dimensions: Vec<i64>,
        keeps: bool,
    },
    Max {
        dimensions: Vec<i64>,
        keeps: bool,
        shares: bool,
    },
    /// The square root of the sum of squares.
    Length {
        dimensions: Vec<i64>,
        keeps: bool,
    },
    LogSumExp {
        dimensions: Vec<i64>,
        keeps: bool,
    },
    CumulativeSum {
        dimension: i64,
    },
    /// -1 for the size that depends on the batch.
    Reshape {
        shape: Vec<i64>,
    },
    Expand {
        shape: Vec<Size>,
    },
    Permute {
        order: Vec<i64>,
    },
    Slice {
        dimension: i64,
        start: i64,
        end: i64,
        step: i64,
    },
    Select {
        dimension: i64,
        index: i64,
    },
    Split {
        dimension: i64,
        sizes: Vec<i64>,
    },
    Unbind {
        dimension: i64,
    },
    /// Before and after, of the last dimension first.
    Pad {
        amounts: Vec<i64>,
        value: f64,
    },
    Roll {
        shifts: Vec<i64>,
        dimensions: Vec<i64>,
    },
    Rows,
    /// The same elements in the kind of maps, or in float32 for nodes of full precision.
    Convert {
        to_full_precision: bool,
    },
    /// Zeros elements and scales the others.
    Dropout(Random),
    /// Ones, else zeros. No inputs.
    Bernoulli {
        shape: Vec<Size>,
        /// Its probability is that of a one.
        random: Random,
    },
    /// No inputs.
    Ones {
        shape: Vec<Size>,
    },
}

/// Geometry of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kernel {
    pub geometry: Convolution,
    /// Height, width.
    pub dilation: [i64; 2],
}

impl Kernel {
    pub(super) fn is_dilated(self) -> bool {
        self.dilation != [1, 1]
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Norm {
    /// Weight of the batch in the running statistics.
    pub momentum: f64,
    pub epsilon: f64,
    /// Whether it uses the statistics of the batch, and adds them to the running ones.
    pub of_batch: bool,
    /// Whether these are the statistics of each image alone.
    pub by_image: bool,
}

/// Something with a probability, and the number of the stream of random numbers that decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Random {
    pub probability: f64,
    pub stream: u32,
}

/// Windows of a pooling: height, width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProgramWindow {
    pub size: [i64; 2],
    pub stride: [i64; 2],
    pub padding: [i64; 2],
    pub dilation: [i64; 2],
    pub rounds_up: bool,
}

impl ProgramOp {
    /// Whether the results may share memory with the first input.
    pub(super) fn is_view(&self) -> bool {
        matches!(
            self,
            Self::Reshape { .. }
                | Self::Expand { .. }
                | Self::Permute { .. }
                | Self::Slice { .. }
                | Self::Select { .. }
                | Self::Split { .. }
                | Self::Unbind { .. }
                | Self::Convert { .. }
        )
    }
}

/// A shape for a batch of that size.
pub(super) fn sized(shape: &[Size], batch: i64) -> Vec<i64> {
    let size = |size: &Size| match *size {
        Size::Fixed(size) => int(size),
        Size::Batch(times) => int(times).saturating_mul(batch),
    };
    shape.iter().map(size).collect()
}

/// A shape with -1 for the size that depends on the batch. No shape has two of them.
pub(super) fn open(shape: &[Size]) -> Vec<i64> {
    shape.iter().map(|size| size.fixed().map_or(-1, int)).collect()
}

pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
