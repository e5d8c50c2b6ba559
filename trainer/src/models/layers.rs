//! The layers that networks are made of, and the list of their weights in the order of PyTorch's state dict.
//!
//! A network computes in the kind of its input: a convolution brings its weight to that kind, batch normalisation
//! keeps its own in float32 and takes either. So bfloat16 needs no second implementation, and gradients arrive at
//! the float32 weights.

use std::cell::{Cell, RefCell};
use std::fmt::Display;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor, no_grad};

use super::init::Init;

/// One tensor of a network's state dict.
#[derive(Debug)]
pub struct Weight {
    /// Its key: `layer1.0.conv1.weight`.
    pub name: String,
    /// Shared with the layer that uses it.
    pub tensor: Tensor,
    /// Whether the optimiser changes it; running statistics are not trained.
    pub trained: bool,
}

/// Collects the weights of the layers that it makes, in the order in which it makes them.
#[derive(Debug)]
pub(super) struct Builder {
    seed: u64,
    weights: RefCell<Vec<Weight>>,
    made: Cell<u64>,
}

impl Builder {
    /// `seed` alone decides every initial weight.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, weights: RefCell::default(), made: Cell::new(0) }
    }

    /// The root of the network's names.
    pub(super) fn root(&self) -> Path<'_> {
        Path { builder: self, prefix: String::new() }
    }

    /// All weights, in order.
    pub(super) fn finish(self) -> Vec<Weight> {
        self.weights.into_inner()
    }
}

/// A place in a network, like `layer1.0`, below which layers are made.
#[derive(Debug, Clone)]
pub struct Path<'a> {
    builder: &'a Builder,
    prefix: String,
}

/// Geometry of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Side of the square kernel.
    pub kernel: i64,
    /// Step of the kernel in both directions.
    pub stride: i64,
    /// Zeros on each side.
    pub padding: i64,
    /// Groups of channels.
    pub groups: i64,
}

impl Geometry {
    /// A 3×3 kernel with padding 1.
    #[must_use]
    pub fn k3(stride: i64) -> Self {
        Self { kernel: 3, stride, padding: 1, groups: 1 }
    }

    /// A 1×1 kernel.
    #[must_use]
    pub fn k1(stride: i64) -> Self {
        Self { kernel: 1, stride, padding: 0, groups: 1 }
    }
}

impl<'a> Path<'a> {
    /// The place `name` below this one.
    #[must_use]
    pub fn sub(&self, name: impl Display) -> Path<'a> {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Path { builder: self.builder, prefix }
    }

    /// A tensor of the state dict.
    fn weight(&self, name: &str, shape: &[i64], init: Init, trained: bool) -> Tensor {
        let index = self.builder.made.replace(self.builder.made.get() + 1);
        // A stream of its own for each tensor: its values do not depend on the size of those before it.
        let mut random = ChaCha8Rng::seed_from_u64(self.builder.seed);
        random.set_stream(index);
        let tensor = init.tensor(shape, &mut random).set_requires_grad(trained);
        let name = self.sub(name).prefix;
        self.builder.weights.borrow_mut().push(Weight { name, tensor: tensor.shallow_clone(), trained });
        tensor
    }

    /// A convolution without bias, as before batch normalisation.
    #[must_use]
    pub fn conv(&self, inputs: i64, outputs: i64, geometry: Geometry, init: Init) -> Conv {
        let shape = [outputs, inputs / geometry.groups, geometry.kernel, geometry.kernel];
        Conv { weight: self.weight("weight", &shape, init, true), bias: None, geometry }
    }

    /// A convolution with bias.
    #[must_use]
    pub fn conv_with_bias(&self, inputs: i64, outputs: i64, geometry: Geometry, weight: Init, bias: Init) -> Conv {
        let conv = self.conv(inputs, outputs, geometry, weight);
        Conv { bias: Some(self.weight("bias", &[outputs], bias, true)), ..conv }
    }

    /// Batch normalisation of `channels`, with PyTorch's momentum 0.1 and epsilon 1e-5.
    #[must_use]
    pub fn batch_norm(&self, channels: i64) -> BatchNorm {
        BatchNorm {
            weight: self.weight("weight", &[channels], Init::Const(1.0), true),
            bias: self.weight("bias", &[channels], Init::Const(0.0), true),
            running_mean: self.weight("running_mean", &[channels], Init::Const(0.0), false),
            running_var: self.weight("running_var", &[channels], Init::Const(1.0), false),
        }
    }

    /// A fully connected layer.
    #[must_use]
    pub fn linear(&self, inputs: i64, outputs: i64, weight: Init, bias: Init) -> Linear {
        Linear {
            weight: self.weight("weight", &[outputs, inputs], weight, true),
            bias: self.weight("bias", &[outputs], bias, true),
        }
    }
}

/// A convolution.
#[derive(Debug)]
pub struct Conv {
    weight: Tensor,
    bias: Option<Tensor>,
    geometry: Geometry,
}

impl Conv {
    /// `xs` [B, inputs, H, W] to [B, outputs, H', W'].
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let Geometry { stride, padding, groups, .. } = self.geometry;
        let weight = self.weight.to_kind(xs.kind());
        let bias = self.bias.as_ref().map(|bias| bias.to_kind(xs.kind()));
        xs.conv2d(&weight, bias, [stride; 2], [padding; 2], [1, 1], groups)
    }
}

/// Batch normalisation.
#[derive(Debug)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl BatchNorm {
    /// `xs` [B, channels, H, W], normalised by its own statistics in training, by the running ones otherwise.
    pub fn forward(&self, xs: &Tensor, train: bool) -> Tensor {
        xs.batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            train,
            0.1,
            1e-5,
            true,
        )
    }
}

/// A fully connected layer.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// `xs` [*, inputs] to [*, outputs], in the kind of the weights whatever that of `xs` is.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        xs.to_kind(self.weight.kind()).linear(&self.weight, Some(&self.bias))
    }

    /// The kind of the weights, and so of the logits.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }
}

/// The same values with the channels of one pixel next to each other, which convolutions on CPU and GPU prefer.
pub fn channels_last(xs: &Tensor) -> Tensor {
    xs.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// Replaces the memory behind `weight`, wherever it is shared, by what `change` makes of it.
pub(super) fn replace(weight: &Weight, change: impl Fn(&Tensor) -> Tensor) {
    no_grad(|| {
        let changed = change(&weight.tensor.detach());
        weight.tensor.shallow_clone().set_data(&changed);
    });
}
