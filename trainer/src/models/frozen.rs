//! A constant network, compiled for inference: batch norms are folded into the convolutions before them, a convolution
//! adds and applies ReLU while it writes its result, and weights have the layout that oneDNN (on the CPU) or cuDNN
//! prefers. All other weights are converted to the kind of the maps once.

use tch::{Device, Kind, Tensor, no_grad};

use distillery_core::architecture::Convolution;
use distillery_core::device_fault::DeviceFault;
use distillery_core::exported::Arithmetic;

use super::forward::run;
use super::fusion::{FoldedNorm, Plan, Purpose, Step, fuse};
use super::layers::{channels_last, convolve, finish};
use super::operators::apply;
use super::program::{Input, Kernel, Program, ProgramOp};
use super::scope::{ExecutionScope, Made};
use super::settled::settle;
use super::weight::Weight;
use crate::device::kernels;

/// Blocks that are filled with NaN before a fused step is tried.
const POISONED: usize = 8;

/// How many of a network's convolutions that end in a ReLU run with bias, sum and ReLU as one kernel of cuDNN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FusedCount {
    pub fused: usize,
    pub of: usize,
}

/// The plan of a frozen network and its constants.
pub(super) struct Frozen {
    /// Its weights are numbered as `weights`.
    plan: Plan,
    /// In the order of the steps.
    constants: Vec<Constants>,
    weights: Vec<Tensor>,
    kind: Kind,
    is_on_gpu: bool,
}

enum Constants {
    /// Weight and bias in the kind of the maps.
    Convolution {
        kernel: Kernel,
        weight: Tensor,
        bias: Tensor,
    },
    /// The same, for a GPU where cuDNN runs the whole fused step.
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
    /// A batch norm that no convolution precedes, [1, C, 1…] in the kind of the maps.
    Norm {
        factor: Tensor,
        offset: Tensor,
    },
    None,
}

impl Frozen {
    /// Computes what depends on weights alone and folds in float32, then converts to `kind`. Weights are laid out for
    /// the sizes of the program and for `batch_size` images; other sizes give the same values. `fuses` says whether to
    /// try out on a GPU which steps cuDNN can fuse.
    ///
    /// The fused ReLUs of oneDNN and cuDNN turn NaN into 0, where PyTorch's keeps it. A network whose constants are not
    /// all finite therefore runs without them, so that it shows.
    pub(super) fn new(program: Program, weights: &[Weight], kind: Kind, batch_size: i64, fuses: bool) -> Self {
        let of_network = weights.len();
        let (program, weights) = no_grad(|| settle(program, weights));
        let weights = weights.as_slice();
        let mut plan = fuse(program, Purpose::Inference);
        let is_finite = no_grad(|| constants_are_finite(&plan, weights, of_network));
        let context = ConstantContext { plan: &plan, weights, kind, batch_size, fuses: fuses && is_finite, is_finite };
        let constants: Vec<Constants> = no_grad(|| plan.steps.iter().map(|step| context.constants(step)).collect());
        let mut own = Vec::new();
        for (step, constants) in plan.steps.iter_mut().zip(&constants) {
            if !matches!(constants, Constants::None) {
                step.inputs.truncate(1);
                continue;
            }
            let step_kind = step.kind(kind);
            let keeps = matches!(
                step.op,
                ProgramOp::LayerNorm { .. }
                    | ProgramOp::GroupNorm { .. }
                    | ProgramOp::BatchNorm(_)
                    | ProgramOp::Arithmetic { kind: Arithmetic::Power, .. }
            );
            for input in &mut step.inputs {
                let Input::Weight(index) = *input else { continue };
                let weight = &weights[index];
                *input = Input::Weight(own.len());
                own.push(if weight.is_float && !keeps {
                    weight.tensor.to_kind(step_kind)
                } else {
                    weight.tensor.shallow_clone()
                });
            }
        }
        let is_on_gpu = weights.first().is_some_and(|weight| weight.tensor.device() != Device::Cpu);
        Self { plan, constants, weights: own, kind, is_on_gpu }
    }

    /// `None` on the CPU, whose convolutions are fused without a trial.
    pub(super) fn fused(&self) -> Option<FusedCount> {
        let ends_in_relu = |step: &&Step| matches!(step.op, ProgramOp::Convolution(_)) && step.relu;
        self.is_on_gpu.then(|| FusedCount {
            fused: self.constants.iter().filter(|constants| matches!(constants, Constants::Fused { .. })).count(),
            of: self.plan.steps.iter().filter(ends_in_relu).count(),
        })
    }

    /// The plan's result for channels-last `images` [B, 3, H, W], in the kind of the network.
    pub(super) fn forward(&self, images: &Tensor) -> Tensor {
        let _guard = tch::no_grad_guard();
        let images = images.to_kind(self.kind);
        let (batch, device) = (images.size()[0], images.device());
        let scope = ExecutionScope { batch, vectors: 1, kind: self.kind, device, noise: None, norm_kernel: None };
        run(
            &self.plan,
            &images,
            |index| &self.weights[index],
            |index, step, inputs, added| {
                let relu = step.relu;
                let added = added.map(|added| added.to_kind(step.kind(self.kind)));
                let added = added.as_ref();
                Made::One(match (&self.constants[index], inputs) {
                    (Constants::Winograd { transformed, bias }, [input]) => {
                        kernels::frozen_winograd(input, transformed, bias, added, relu)
                    }
                    (Constants::Packed { geometry, weight, bias }, [input]) => {
                        let own = added.map(|added| summand(added, !step.overwrites_added));
                        kernels::convolution(input, weight, bias, *geometry, own.as_ref(), relu)
                    }
                    (Constants::Fused { geometry, weight, bias }, [input]) => {
                        // It was tried with another number of images.
                        fused(input, weight, bias, *geometry, added).unwrap_or_else(|| {
                            let kernel = Kernel { geometry: *geometry, dilation: [1, 1] };
                            finish(convolve(input, weight, Some(bias), kernel), added, relu)
                        })
                    }
                    (Constants::Convolution { kernel, weight, bias }, [input]) => {
                        finish(convolve(input, weight, Some(bias), *kernel), added, relu)
                    }
                    (Constants::Norm { factor, offset }, [input]) => finish(&**input * factor + offset, added, relu),
                    (_, inputs) => return apply(&step.op, inputs, &scope, step.overwrites_input),
                })
            },
        )
    }
}

/// A map that a sum overwrites, channels-last: a copy if other steps still need it.
fn summand(added: &Tensor, is_needed: bool) -> Tensor {
    let own = channels_last(added);
    if is_needed && own.data_ptr() == added.data_ptr() { own.copy() } else { own }
}

/// What constants are computed from and for.
struct ConstantContext<'a> {
    plan: &'a Plan,
    weights: &'a [Weight],
    kind: Kind,
    batch_size: i64,
    fuses: bool,
    /// Whether kernels may be used that lose NaN.
    is_finite: bool,
}

impl ConstantContext<'_> {
    fn constants(&self, step: &Step) -> Constants {
        let weights: Vec<usize> = step.inputs.iter().filter_map(|input| input.weight()).collect();
        match (&step.op, step.inputs.as_slice(), weights.as_slice()) {
            (
                ProgramOp::Convolution(kernel),
                [Input::Value(map), _] | [Input::Value(map), _, _],
                [weight, bias @ ..],
            ) if weights.len() + 1 == step.inputs.len() => {
                let [channels, height, width] = self.plan.map(*map).expect("a convolution takes a map");
                let input = [self.batch_size, channels, height, width];
                self.convolution(step, *kernel, input, *weight, bias.first().copied())
            }
            (ProgramOp::BatchNorm(_), [Input::Value(map), ..], _) => {
                let Some(norm) = FoldedNorm::of(&step.op, &step.inputs) else { return Constants::None };
                let mut by_channel = vec![1; self.plan.shapes[*map].len()];
                by_channel[1] = -1;
                let constants = factor_and_offset(&norm, self.weights);
                let kind = step.kind(self.kind);
                let [factor, offset] = constants.map(|tensor| tensor.to_kind(kind).view(by_channel.as_slice()));
                Constants::Norm { factor, offset }
            }
            _ => Constants::None,
        }
    }

    /// `weight` and `bias` are the indices of the convolution's weights.
    fn convolution(
        &self,
        step: &Step,
        kernel: Kernel,
        input: [i64; 4],
        weight: usize,
        bias: Option<usize>,
    ) -> Constants {
        let (weights, kind, geometry) = (self.weights, step.kind(self.kind), kernel.geometry);
        // One that was computed has any layout.
        let mut weight = channels_last(&weights[weight].tensor);
        let mut bias = match bias {
            Some(bias) => weights[bias].tensor.shallow_clone(),
            None => Tensor::zeros([weight.size()[0]], (weight.kind(), weight.device())),
        };
        if let Some(norm) = &step.norm {
            let [factor, offset] = factor_and_offset(norm, weights);
            // Not in place: these tensors are the network's.
            weight = &weight * factor.view([-1, 1, 1, 1]);
            bias = &bias * factor + offset;
        }
        let has_kernels =
            self.is_finite && weight.device() == Device::Cpu && kernels::packs(kind) && !kernel.is_dilated();
        if has_kernels && kernels::suits_winograd(kind, input[3], &weight, geometry) {
            return Constants::Winograd { transformed: kernels::winograd_weight(&weight, kind), bias };
        }
        let (weight, bias) = (channels_last(&weight.to_kind(kind)), bias.to_kind(kind));
        if self.fuses && step.relu && can_fuse(&weight, &bias, kernel, input, step.added.is_some()) {
            return Constants::Fused { geometry, weight, bias };
        }
        if !has_kernels {
            return Constants::Convolution { kernel, weight, bias };
        }
        Constants::Packed { geometry, weight: kernels::pack(&weight, geometry, input), bias }
    }
}

/// Whether cuDNN has one kernel for a whole fused step. Tries it twice: the result must be that of separate operations,
/// up to rounding, and finite.
///
/// libtorch gives a step without a sum its unwritten result as the summand, times 0, and 0·NaN is NaN. So the memory
/// that the result gets is filled with NaN first.
fn can_fuse(weight: &Tensor, bias: &Tensor, kernel: Kernel, input: [i64; 4], adds: bool) -> bool {
    if !matches!(weight.device(), Device::Cuda(_)) || kernel.is_dilated() {
        return false;
    }
    let noise = |size: &[i64]| channels_last(&Tensor::randn(size, (weight.kind(), weight.device())));
    let input = noise(&input);
    let made = convolve(&input, weight, Some(bias), kernel);
    let added = adds.then(|| noise(&made.size()));
    let expected = finish(made, added.as_ref(), true).to_kind(Kind::Float);
    let tolerance = if weight.kind() == Kind::BFloat16 { 2e-2 } else { 2e-3 };
    (0..2).all(|_| {
        poison(&expected.size(), weight);
        fused(&input, weight, bias, kernel.geometry, added.as_ref()).is_some_and(|fused| {
            // NaN is below no tolerance.
            let difference = (fused.to_kind(Kind::Float) - &expected).norm() / (expected.norm() + 1e-12);
            fused.size() == expected.size() && difference.double_value(&[]) < tolerance
        })
    })
}

/// A fused step. `None` if cuDNN has no kernel for these sizes.
///
/// # Panics
/// Something is wrong with the GPU, or its memory is full: computing in parts may succeed then, and would round
/// differently by chance.
fn fused(
    input: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    geometry: Convolution,
    added: Option<&Tensor>,
) -> Option<Tensor> {
    match kernels::convolution_of_cudnn(input, weight, bias, geometry, added) {
        Ok(made) => Some(made),
        Err(error) => {
            // As tch's operators do.
            assert!(DeviceFault::of(&error.to_string()).is_none(), "{error}");
            None
        }
    }
}

/// Fills memory that the next tensors of that size get with NaN: the allocator gives them blocks that were freed last,
/// and more of them than it can have kept from before.
fn poison(size: &[i64], like: &Tensor) {
    let blocks: Vec<Tensor> =
        (0..POISONED).map(|_| Tensor::full(size, f64::NAN, (like.kind(), like.device()))).collect();
    drop(blocks);
}

/// Whether no weight is NaN or infinite, and no batch norm makes a finite one so. Of those that were computed, after
/// the first `of_network`, only those of convolutions count: masks may well be infinite. Waits for the device once.
fn constants_are_finite(plan: &Plan, weights: &[Weight], of_network: usize) -> bool {
    let alone = plan.steps.iter().filter_map(|step| FoldedNorm::of(&step.op, &step.inputs));
    let norms = alone.chain(plan.steps.iter().filter_map(|step| step.norm));
    let constants = norms.flat_map(|norm| factor_and_offset(&norm, weights));
    let convolutions = plan.steps.iter().filter(|step| matches!(step.op, ProgramOp::Convolution(_)));
    let taken = convolutions.flat_map(|step| &step.inputs).filter_map(|input| input.weight());
    let computed = taken.filter(|&index| index >= of_network).map(|index| &weights[index]);
    let all = weights.iter().take(of_network).chain(computed).filter(|weight| weight.is_float);
    let tensors = all.map(|weight| weight.tensor.shallow_clone());
    let finite: Vec<Tensor> = tensors.chain(constants).map(|tensor| tensor.isfinite().all()).collect();
    finite.is_empty() || Tensor::stack(&finite, 0).all().int64_value(&[]) == 1
}

/// The factor and the offset `[C]` of a batch norm with its running statistics, in the kind of its weights.
fn factor_and_offset(norm: &FoldedNorm, weights: &[Weight]) -> [Tensor; 2] {
    let [weight, bias, mean, variance] = norm.weights.map(|index| &weights[index].tensor);
    let factor = weight * (variance + norm.epsilon).rsqrt();
    let offset = bias - mean * &factor;
    [factor, offset]
}
