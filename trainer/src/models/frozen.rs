//! A constant network, compiled for inference: batch norms are folded into the convolutions before them, a convolution
//! adds and applies ReLU while it writes its result, and weights have the layout that oneDNN (on the CPU) or cuDNN
//! prefers.

use tch::{Device, Kind, Tensor, no_grad};

use distillery_core::architecture::{Convolution, Layout, Op};

use super::forward::{channels_last, convolve, convolve_fused, finish, geometry, plain, run};
use super::fusion::{FusedNode, Purpose, fuse};
use super::weight::Weight;
use crate::device::kernels;

/// The fused nodes of a frozen network and their constants.
pub(super) struct Frozen {
    nodes: Vec<FusedNode>,
    /// In the order of `nodes`.
    constants: Vec<Constants>,
    kind: Kind,
}

enum Constants {
    /// Weight and bias in the kind of the maps.
    Convolution {
        geometry: Convolution,
        weight: Tensor,
        bias: Tensor,
    },
    /// The same, for a GPU where cuDNN runs the whole fused node.
    Fused {
        geometry: Convolution,
        weight: Tensor,
        bias: Tensor,
    },
    /// The same in oneDNN's layout, for the CPU.
    Packed {
        geometry: Convolution,
        weight: Tensor,
        bias: Tensor,
    },
    /// The transformed weight, and the bias in float32.
    Winograd {
        transformed: Tensor,
        bias: Tensor,
    },
    /// A batch norm that no convolution precedes, [1, C, 1, 1] in the kind of the maps.
    Norm {
        factor: Tensor,
        offset: Tensor,
    },
    None,
}

impl Frozen {
    /// Folds in float32, then converts to `kind`. Weights are laid out for the sizes of `layout` and for `batch_size`
    /// images; other sizes give the same values. `fuses` says whether to try out on a GPU which nodes cuDNN can fuse.
    ///
    /// The fused ReLUs of oneDNN and cuDNN turn NaN into 0, where PyTorch's keeps it. A network whose constants are not
    /// all finite therefore runs without them, so that it shows.
    pub(super) fn new(layout: &Layout, weights: &[Weight], kind: Kind, batch_size: i64, fuses: bool) -> Self {
        let nodes = fuse(layout, Purpose::Inference);
        let is_finite = no_grad(|| constants_are_finite(layout, weights));
        let target = Target { layout, weights, kind, batch_size, fuses: fuses && is_finite, is_finite };
        let constants = no_grad(|| nodes.iter().map(|node| target.constants(node)).collect());
        Self { nodes, constants, kind }
    }

    /// The final feature maps [B, C, H', W'] of channels-last `images` [B, 3, H, W], in the kind of the network.
    pub(super) fn forward(&self, images: &Tensor) -> Tensor {
        let _guard = tch::no_grad_guard();
        let images = images.to_kind(self.kind);
        run(&self.nodes, |index, node, inputs, added| match (node.op, inputs, &self.constants[index]) {
            (Op::Images, [], _) => images.shallow_clone(),
            (_, [input], Constants::Winograd { transformed, bias }) => {
                kernels::frozen_winograd(input, transformed, bias, added, node.relu)
            }
            (_, [input], Constants::Packed { geometry, weight, bias }) => {
                // The sum overwrites the summand, which other nodes may still need.
                let is_needed = node.added.is_some_and(|added| self.nodes[added].last_use != index);
                let own = added.map(|added| if is_needed { added.copy() } else { added.shallow_clone() });
                kernels::convolution(input, weight, bias, *geometry, own.as_ref(), node.relu)
            }
            (_, [input], Constants::Fused { geometry, weight, bias }) => {
                let made = convolve_fused(input, weight, bias, *geometry, added);
                made.unwrap_or_else(|error| panic!("{error}"))
            }
            (_, [input], Constants::Convolution { geometry, weight, bias }) => {
                finish(convolve(input, weight, Some(bias), *geometry), added, node.relu)
            }
            (_, [input], Constants::Norm { factor, offset }) => finish(input * factor + offset, added, node.relu),
            (op, inputs, _) => plain(op, inputs),
        })
    }
}

/// What constants are computed from and for.
struct Target<'a> {
    layout: &'a Layout,
    weights: &'a [Weight],
    kind: Kind,
    batch_size: i64,
    fuses: bool,
    /// Whether kernels may be used that lose NaN.
    is_finite: bool,
}

impl Target<'_> {
    fn constants(&self, node: &FusedNode) -> Constants {
        match node.op {
            Op::Convolution { weight } => self.convolution(node, weight),
            Op::BatchNorm { weight } => {
                let constants = factor_and_offset(&self.weights[weight..]);
                let [factor, offset] = constants.map(|tensor| tensor.to_kind(self.kind).view([1, -1, 1, 1]));
                Constants::Norm { factor, offset }
            }
            _ => Constants::None,
        }
    }

    /// `index` is that of the convolution's weight.
    fn convolution(&self, node: &FusedNode, index: usize) -> Constants {
        let (layout, weights, kind) = (self.layout, self.weights, self.kind);
        let geometry = geometry(layout, index);
        let mut weight = weights[index].tensor.shallow_clone();
        let mut bias = if geometry.bias {
            weights[index + 1].tensor.shallow_clone()
        } else {
            Tensor::zeros([weight.size()[0]], (weight.kind(), weight.device()))
        };
        if let Some(norm) = node.norm {
            let [factor, offset] = factor_and_offset(&weights[norm..]);
            // Not in place: these tensors are the network's.
            weight = &weight * factor.view([-1, 1, 1, 1]);
            bias = &bias * factor + offset;
        }
        let map = layout.nodes[layout.nodes[node.node].inputs[0]].map;
        let has_kernels = self.is_finite && weight.device() == Device::Cpu && kernels::packs(kind);
        if has_kernels && kernels::suits_winograd(kind, i64::from(map.side), &weight, geometry) {
            return Constants::Winograd { transformed: kernels::winograd_weight(&weight, kind), bias };
        }
        let (weight, bias) = (channels_last(&weight.to_kind(kind)), bias.to_kind(kind));
        let input = [self.batch_size, i64::from(map.channels), i64::from(map.side), i64::from(map.side)];
        if self.fuses && node.relu && can_fuse(&weight, &bias, geometry, input, node.added.is_some()) {
            return Constants::Fused { geometry, weight, bias };
        }
        if !has_kernels {
            return Constants::Convolution { geometry, weight, bias };
        }
        Constants::Packed { geometry, weight: kernels::pack(&weight, geometry, input), bias }
    }
}

/// Whether cuDNN has one kernel for a whole fused node. Tries it: the result must be that of separate operations, up to
/// rounding.
fn can_fuse(weight: &Tensor, bias: &Tensor, geometry: Convolution, input: [i64; 4], adds: bool) -> bool {
    let Device::Cuda(_) = weight.device() else { return false };
    let noise = |size: &[i64]| channels_last(&Tensor::randn(size, (weight.kind(), weight.device())));
    let input = noise(&input);
    let made = convolve(&input, weight, Some(bias), geometry);
    let added = adds.then(|| noise(&made.size()));
    let expected = finish(made, added.as_ref(), true).to_kind(Kind::Float);
    let tolerance = if weight.kind() == Kind::BFloat16 { 2e-2 } else { 2e-3 };
    convolve_fused(&input, weight, bias, geometry, added.as_ref()).is_ok_and(|fused| {
        let difference = (fused.to_kind(Kind::Float) - &expected).norm() / (expected.norm() + 1e-12);
        fused.size() == expected.size() && difference.double_value(&[]) < tolerance
    })
}

/// Whether no weight is NaN or infinite, and no batch norm makes a finite one so. Waits for the device once.
fn constants_are_finite(layout: &Layout, weights: &[Weight]) -> bool {
    let norms = layout.nodes.iter().filter_map(|node| match node.op {
        Op::BatchNorm { weight } => Some(factor_and_offset(&weights[weight..])),
        _ => None,
    });
    let tensors = weights.iter().map(|weight| weight.tensor.shallow_clone()).chain(norms.flatten());
    let finite: Vec<Tensor> = tensors.map(|tensor| tensor.isfinite().all()).collect();
    Tensor::stack(&finite, 0).all().int64_value(&[]) == 1
}

/// The factor and the offset `[C]` of a batch norm with its running statistics, in the kind of its weights.
fn factor_and_offset(norm: &[Weight]) -> [Tensor; 2] {
    let [weight, bias, mean, variance] = [0, 1, 2, 3].map(|part| &norm[part].tensor);
    let factor = weight * (variance + 1e-5).rsqrt();
    let offset = bias - mean * &factor;
    [factor, offset]
}
