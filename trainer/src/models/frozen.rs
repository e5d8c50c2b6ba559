//! A network as a constant, compiled for inference: batch norms are folded into the convolutions before them, sums and
//! ReLUs are done while a convolution writes its result, and weights lie as oneDNN (on the CPU) or cuDNN reads them.

use tch::{Device, Kind, Tensor, no_grad};

use distillery::architecture::{Convolution, Layout, Op};

use super::forward::{channels_last, convolve, convolve_fused, finish, geometry, plain, run};
use super::plan::{Purpose, Step, steps};
use super::weight::Weight;
use crate::device::kernels;

/// The steps of a frozen network and what each needs.
pub(super) struct Frozen {
    steps: Vec<Step>,
    /// Of the step of the same place.
    constants: Vec<Constants>,
    kind: Kind,
}

enum Constants {
    /// A convolution's weight and bias in the kind of the maps.
    Convolution { geometry: Convolution, weight: Tensor, bias: Tensor },
    /// The same for a GPU where cuDNN does the rest of the step along with it.
    Fused { geometry: Convolution, weight: Tensor, bias: Tensor },
    /// Those in oneDNN's order, for the CPU.
    Packed { geometry: Convolution, weight: Tensor, bias: Tensor },
    /// The weight in Winograd's basis, and the bias in float32.
    Winograd { changed: Tensor, bias: Tensor },
    /// Factor and offset [1, C, 1, 1] of a batch norm that no convolution precedes, in the kind of the maps.
    Norm([Tensor; 2]),
    /// None.
    Nothing,
}

impl Frozen {
    /// Folds in float32, then brings everything to `kind`. The sizes of `layout` and the `batch` are those that weights
    /// are laid out for; other sizes give the same values. `fuses` says whether to look for kernels of whole steps on a GPU.
    pub(super) fn new(layout: &Layout, weights: &[Weight], kind: Kind, batch: i64, fuses: bool) -> Self {
        let steps = steps(layout, Purpose::Inference);
        let of = |step| constants(layout, step, weights, kind, (batch, fuses));
        let constants = no_grad(|| steps.iter().map(of).collect());
        Self { steps, constants, kind }
    }

    /// The final feature map [B, C, H', W'] of `images` [B, 3, H, W] with the channels last, in the kind of the
    /// network.
    pub(super) fn forward(&self, images: &Tensor) -> Tensor {
        let _guard = tch::no_grad_guard();
        let images = images.to_kind(self.kind);
        run(&self.steps, |index, step, inputs, added| match (step.op, inputs, &self.constants[index]) {
            (Op::Images, [], _) => images.shallow_clone(),
            (_, [xs], Constants::Winograd { changed, bias }) => {
                kernels::frozen_winograd(xs, [changed, bias], added, step.relu)
            }
            (_, [xs], Constants::Packed { geometry, weight, bias }) => {
                // The sum takes the memory of the summand, which others may want as it is.
                let is_wanted = step.added.is_some_and(|added| self.steps[added].last_use != index);
                let own = added.map(|added| if is_wanted { added.copy() } else { added.shallow_clone() });
                kernels::convolution(xs, [weight, bias], *geometry, own.as_ref(), step.relu)
            }
            (_, [xs], Constants::Fused { geometry, weight, bias }) => {
                let made = convolve_fused(xs, [weight, bias], *geometry, added);
                made.unwrap_or_else(|error| panic!("{error}"))
            }
            (_, [xs], Constants::Convolution { geometry, weight, bias }) => {
                finish(convolve(xs, weight, Some(bias), *geometry), added, step.relu)
            }
            (_, [xs], Constants::Norm([factor, offset])) => finish(xs * factor + offset, added, step.relu),
            (op, inputs, _) => plain(op, inputs),
        })
    }
}

fn constants(layout: &Layout, step: &Step, weights: &[Weight], kind: Kind, (batch, fuses): (i64, bool)) -> Constants {
    match step.op {
        Op::Convolution { weight: index } => {
            let geometry = geometry(layout, index);
            let mut weight = weights[index].tensor.shallow_clone();
            let mut bias = if geometry.bias {
                weights[index + 1].tensor.shallow_clone()
            } else {
                Tensor::zeros([weight.size()[0]], (weight.kind(), weight.device()))
            };
            if let Some(norm) = step.norm {
                let [factor, offset] = factor_and_offset(&weights[norm..]);
                // Not in place: these are the network's own.
                weight = &weight * factor.view([-1, 1, 1, 1]);
                bias = &bias * factor + offset;
            }
            let from = layout.nodes[layout.nodes[step.node].inputs[0]].map;
            let has_kernels = weight.device() == Device::Cpu && matches!(kind, Kind::Float | Kind::BFloat16);
            if has_kernels && kernels::suits_winograd(kind, i64::from(from.side), &weight, geometry) {
                return Constants::Winograd { changed: kernels::winograd_weight(&weight, kind), bias };
            }
            let (weight, bias) = (channels_last(&weight.to_kind(kind)), bias.to_kind(kind));
            let input = [batch, i64::from(from.channels), i64::from(from.side), i64::from(from.side)];
            if fuses && step.relu && can_fuse([&weight, &bias], geometry, input, step.added.is_some()) {
                return Constants::Fused { geometry, weight, bias };
            }
            if !has_kernels {
                return Constants::Convolution { geometry, weight, bias };
            }
            Constants::Packed { geometry, weight: kernels::pack(&weight, geometry, input), bias }
        }
        Op::BatchNorm { weight } => {
            let constants = factor_and_offset(&weights[weight..]);
            Constants::Norm(constants.map(|tensor| tensor.to_kind(kind).view([1, -1, 1, 1])))
        }
        _ => Constants::Nothing,
    }
}

/// Whether cuDNN has one kernel for all of a step, which is found out by trying it: it must give what one after the other
/// does, up to a rounding.
fn can_fuse([weight, bias]: [&Tensor; 2], geometry: Convolution, input: [i64; 4], adds: bool) -> bool {
    let Device::Cuda(_) = weight.device() else { return false };
    let noise = |size: &[i64]| channels_last(&Tensor::randn(size, (weight.kind(), weight.device())));
    let xs = noise(&input);
    let made = convolve(&xs, weight, Some(bias), geometry);
    let added = adds.then(|| noise(&made.size()));
    let expected = finish(made, added.as_ref(), true).to_kind(Kind::Float);
    let tolerance = if weight.kind() == Kind::BFloat16 { 2e-2 } else { 2e-3 };
    convolve_fused(&xs, [weight, bias], geometry, added.as_ref()).is_ok_and(|fused| {
        let difference = (fused.to_kind(Kind::Float) - &expected).norm() / (expected.norm() + 1e-12);
        fused.size() == expected.size() && difference.double_value(&[]) < tolerance
    })
}

/// What a batch norm with its running statistics multiplies by and adds: `[C]` each, in the kind of its weights.
fn factor_and_offset(norm: &[Weight]) -> [Tensor; 2] {
    let [weight, bias, mean, variance] = [0, 1, 2, 3].map(|part| &norm[part].tensor);
    let factor = weight * (variance + 1e-5).rsqrt();
    let offset = bias - mean * &factor;
    [factor, offset]
}
