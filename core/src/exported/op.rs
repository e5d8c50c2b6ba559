//! The operations of an exported network: ATen's operators with everything but tensors filled in.

use super::size::Size;

/// An operation. Pairs are height, width; a dimension counts from the front. The inputs are a node's tensors, in the
/// order that each operation gives; those in brackets may be missing. N is any number of dimensions, none included.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Map [B, C, H, W], weight [O, C / groups, kernel], (bias `[O]`).
    Convolution { stride: [u64; 2], padding: [u64; 2], dilation: [u64; 2], groups: u64, bias: bool },
    /// Map [B, C, H, W], weight [C, O / groups, kernel], (bias `[O]`): what a convolution does to gradients.
    TransposedConvolution {
        stride: [u64; 2],
        /// What is cut off on each side.
        padding: [u64; 2],
        /// What is added after the last row and column.
        output_padding: [u64; 2],
        dilation: [u64; 2],
        groups: u64,
        bias: bool,
    },
    /// Map [B, C, N…], scale, shift, running mean and running variance `[C]`.
    BatchNorm {
        /// Whether the file was exported with the statistics of the batch.
        training: bool,
        /// The weight of the batch in the running statistics.
        momentum: f64,
        epsilon: f64,
        /// Whether training normalises each image by its own statistics, as instance norm does. Their means over the
        /// batch update the running statistics.
        by_image: bool,
    },
    /// A tensor, (scale), (shift), both of the last `dimensions` dimensions' shape.
    LayerNorm { dimensions: usize, epsilon: f64, scale: bool, shift: bool },
    /// Map [B, C, N…], (scale), (shift), both `[C]`.
    GroupNorm { groups: u64, epsilon: f64, scale: bool, shift: bool },
    /// [N…, inputs], weight [outputs, inputs], (bias `[outputs]`).
    Linear { bias: bool },
    /// [N…, n, k] and [N…, k, m]: the product of matrices; the leading dimensions are broadcast.
    Matmul,
    /// Queries [N…, L, E], keys [N…, S, E], values [N…, S, V], (mask, which broadcasts to [N…, L, S]).
    Attention {
        mask: bool,
        /// Probability with which a weight is dropped.
        dropout: f64,
        is_causal: bool,
        /// Factor of the products; 1/√E if none is given.
        scale: Option<f64>,
    },
    /// A function of each element.
    Activation(Activation),
    /// Along one dimension.
    Softmax { dimension: usize },
    /// The logarithm of [`Op::Softmax`], computed without it.
    LogSoftmax { dimension: usize },
    /// Map [B, C, N…], slopes `[C]` or `[1]`: x where x > 0, elsewhere its channel's slope times x.
    Prelu,
    /// Conditions (bool), a tensor where they hold, a tensor where they do not; sizes of 1 are broadcast.
    Where,
    /// Two tensors, or one and a number; sizes of 1 are broadcast. The result is bool, and has no gradient.
    Compare { kind: Comparison, other: Operand },
    /// Two tensors, or one and a number; sizes of 1 are broadcast.
    Arithmetic { kind: Arithmetic, other: Operand },
    /// Tensors, which differ in the size of one dimension at most.
    Concat { dimension: usize },
    /// Map [B, C, H, W].
    MaxPool(Window),
    /// Map [B, C, H, W].
    AveragePool { window: Window, counts_padding: bool },
    /// Map [B, C, H, W] to [B, C, size].
    AdaptiveAveragePool { size: [u64; 2] },
    /// Map [B, C, H, W] to [B, C, size].
    AdaptiveMaxPool { size: [u64; 2] },
    /// The mean over some dimensions, which remain with size 1 or not at all.
    Mean { dimensions: Vec<usize>, keeps: bool },
    /// The largest element over some dimensions, which remain with size 1 or not at all.
    Max {
        dimensions: Vec<usize>,
        keeps: bool,
        /// Whether equal largest elements share the gradient evenly, as in `amax`. Otherwise there is one dimension,
        /// and one of them gets all of it, as in `max.dim`.
        shares: bool,
    },
    /// The square root of the sum of squares over some dimensions, which remain with size 1 or not at all. Where it is
    /// zero, so is its gradient.
    Norm { dimensions: Vec<usize>, keeps: bool },
    /// The logarithm of the sum of exponentials over some dimensions, which remain with size 1 or not at all.
    LogSumExp { dimensions: Vec<usize>, keeps: bool },
    /// Each element plus all before it in a dimension.
    CumulativeSum { dimension: usize },
    /// The same elements in row-major order under another shape.
    Reshape { shape: Vec<Size> },
    /// Repeats dimensions of size 1; new ones come first.
    Expand { shape: Vec<Size> },
    /// Dimension i of the result is dimension `order[i]` of the input.
    Permute { order: Vec<usize> },
    /// Dimension by dimension, an even range.
    Slice { dimension: usize, start: u64, end: u64, step: u64 },
    /// One index of a dimension, which the result does not have.
    Select { dimension: usize, index: u64 },
    /// Several results: consecutive ranges of a dimension.
    Split { dimension: usize, sizes: Vec<u64> },
    /// Several results: each index of a dimension, which the results do not have.
    Unbind { dimension: usize },
    /// A constant around the last dimensions: before and after, of the first padded dimension first.
    Pad { amounts: Vec<[u64; 2]>, value: f64 },
    /// Shifts elements along dimensions; those that leave at one end return at the other.
    Roll { shifts: Vec<i64>, dimensions: Vec<usize> },
    /// A table [R, N…] and row numbers [M…]: the rows [M…, N…].
    Rows,
    /// In training, zeros elements with this probability and scales the others.
    Dropout {
        probability: f64,
        /// Whether the file was exported so that elements are dropped.
        training: bool,
    },
    /// The same tensor.
    Identity,
    /// A tensor whose elements a [`Op::Bernoulli`] sets. No inputs.
    Empty { shape: Vec<Size> },
    /// In training, ones with this probability, else zeros: which images keep a residual branch.
    Bernoulli { probability: f64 },
    /// Adds one to a counter of batches. Its result is not used.
    CountBatch,
}

/// A function of each element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    Relu,
    /// Limits, both inclusive: 0 and 6 for ReLU6. A missing one is infinite.
    Clamp {
        low: f64,
        high: f64,
    },
    /// `low` where x is less, else x. Unlike that of [`Activation::Clamp`], the gradient is 1 everywhere.
    AtLeast {
        low: f64,
    },
    Hardswish,
    Hardsigmoid,
    Silu,
    Sigmoid,
    Tanh,
    Gelu {
        /// Whether it is the approximation by tanh.
        tanh: bool,
    },
    /// x where x > 0, elsewhere slope·x.
    LeakyRelu {
        slope: f64,
    },
    /// scale·x where x > 0, elsewhere scale·alpha·(exp(`input_scale`·x) − 1): ELU, SELU and CELU.
    Elu {
        alpha: f64,
        scale: f64,
        input_scale: f64,
    },
    /// ln(1 + exp(beta·x)) / beta; x where beta·x > threshold.
    Softplus {
        beta: f64,
        threshold: f64,
    },
    /// x to a power: 0.5 is the square root, −1 the reciprocal.
    Power {
        exponent: f64,
    },
    Exp,
    /// exp(x) − 1, also for small x.
    ExpMinusOne,
    /// The natural logarithm.
    Log,
    /// ln(1 + x), also for small x.
    LogOfOnePlus,
    Abs,
    /// The Gaussian error function.
    Erf,
    /// −1, 0 or 1. Its gradient is zero.
    Sign,
    Sin,
    Cos,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    /// The larger of two. Equal ones share the gradient evenly.
    Maximum,
    /// The smaller of two. Equal ones share the gradient evenly.
    Minimum,
    /// The first to the power of the second.
    Power,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// The second operand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operand {
    Tensor,
    Number(f64),
}

/// The windows of a pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub size: [u64; 2],
    pub stride: [u64; 2],
    /// Added on each side.
    pub padding: [u64; 2],
    pub dilation: [u64; 2],
    /// Whether a last window may reach beyond the padding.
    pub rounds_up: bool,
}

impl Op {
    /// Whether the result may share memory with the first input in PyTorch, so that a change of one shows in the other.
    #[must_use]
    pub fn is_view(&self) -> bool {
        match self {
            Self::Reshape { .. }
            | Self::Expand { .. }
            | Self::Permute { .. }
            | Self::Slice { .. }
            | Self::Select { .. }
            | Self::Split { .. }
            | Self::Unbind { .. }
            | Self::Identity => true,
            Self::Dropout { probability, training } => !training || *probability == 0.0,
            _ => false,
        }
    }

    /// Whether f(a·x + b·y) = a·f(x) + b·f(y), up to a constant, for its first input, in evaluation.
    #[must_use]
    pub fn is_affine(&self) -> bool {
        self.is_view()
            || matches!(
                self,
                Self::Convolution { .. }
                    | Self::TransposedConvolution { .. }
                    | Self::BatchNorm { .. }
                    | Self::Linear { .. }
                    | Self::Mean { .. }
                    | Self::Dropout { .. }
                    | Self::AveragePool { .. }
                    | Self::AdaptiveAveragePool { .. }
                    | Self::Arithmetic {
                        kind: Arithmetic::Add | Arithmetic::Subtract | Arithmetic::Multiply | Arithmetic::Divide,
                        other: Operand::Number(_),
                    }
            )
    }

    /// What the result depends on beside the inputs' values: the mode in which the file was exported. `None` for
    /// operations that compute the same in both.
    #[must_use]
    pub fn training(&self) -> Option<bool> {
        match self {
            Self::BatchNorm { training, .. } | Self::Dropout { training, .. } => Some(*training),
            Self::Bernoulli { .. } | Self::CountBatch => Some(true),
            Self::Attention { dropout, .. } if *dropout > 0.0 => Some(true),
            _ => None,
        }
    }
}

/// Whether a division by a number makes up for the branches that a mask of stochastic depth drops, which keeps them
/// with this probability. In evaluation, nothing is dropped, and there is nothing to make up for.
#[must_use]
pub fn makes_up_for(number: f64, probability: f64) -> bool {
    (number - probability).abs() <= 1e-6 * probability
}
