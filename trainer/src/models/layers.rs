//! Convolutions and batch norms, by our kernels where they are faster.

use tch::{Device, Kind, Tensor, no_grad};

use distillery_core::architecture::Convolution;

use super::program::{Kernel, Norm};
use super::scope::ExecutionScope;
use crate::device::kernels::{self, BatchNorm};

/// Whether `cpp/` has kernels for such maps.
pub(super) fn has_kernels(input: &Tensor) -> bool {
    input.device() == Device::Cpu && matches!(input.kind(), Kind::Float | Kind::BFloat16)
}

/// Adds and applies ReLU, if wanted, in place where possible: nothing else uses `made`, and no gradient needs it.
pub(super) fn finish(made: Tensor, added: Option<&Tensor>, relu: bool) -> Tensor {
    let mut made = match added {
        // What only weights were summed up to is float32.
        Some(added) => &made + added.to_kind(made.kind()),
        None => made,
    };
    if relu { made.relu_() } else { made }
}

/// The tensors of a batch norm, `[C]` each. The last two are its running statistics.
#[derive(Debug, Clone, Copy)]
pub(super) struct NormTensors<'a> {
    pub scale: &'a Tensor,
    pub shift: &'a Tensor,
    pub mean: &'a Tensor,
    pub variance: &'a Tensor,
}

/// A batch norm of `x` [B, C, N…], then the sum with `added` and a ReLU.
///
/// In training it uses the statistics of the batch, or those of each image; in a head those of the vectors of whole
/// images. One value per channel has no variance: then it uses the running statistics and leaves them alone.
pub(super) fn norm(
    of: Norm,
    x: &Tensor,
    tensors: NormTensors<'_>,
    added: Option<&Tensor>,
    relu: bool,
    scope: &ExecutionScope<'_>,
) -> Tensor {
    let size = x.size();
    let positions: i64 = size[2..].iter().product();
    if of.of_batch && of.by_image && positions > 1 {
        return finish(norm_by_image(of, x, tensors, scope), added, relu);
    }
    let of_batch = of.of_batch && !of.by_image && size[0] * positions > scope.vectors;
    if of_batch && scope.vectors > 1 && size[0] % scope.batch == 0 {
        return finish(norm_by_whole_images(of, x, tensors, scope), added, relu);
    }
    let NormTensors { scale, shift, mean, variance } = tensors;
    let kernel = scope.norm_kernel.filter(|kernel| kernel.takes(x));
    if of_batch && size.len() == 4 && (kernel.is_some() || has_kernels(x)) {
        let weights = BatchNorm {
            weight: scale,
            bias: shift,
            running_mean: mean,
            running_var: variance,
            momentum: of.momentum,
            epsilon: of.epsilon,
        };
        let added = added.map(|added| added.to_kind(x.kind()));
        return match kernel {
            Some(kernel) => kernel.apply(x, added.as_ref(), &weights, relu),
            None => kernels::norm(x, added.as_ref(), &weights, relu),
        };
    }
    let [scale, shift, mean, variance] = [scale, shift, mean, variance].map(Some);
    let normalised = x.batch_norm(scale, shift, mean, variance, of_batch, of.momentum, of.epsilon, true);
    finish(normalised, added, relu)
}

/// A batch norm in a head, of `x` [B·vectors·k, C, N…], by the mean and variance of the first vector of every image:
/// that of the whole image. So the whole images' logits and the running statistics are those of the network without
/// regions, and every region passes the same function.
fn norm_by_whole_images(
    of: Norm,
    x: &Tensor,
    NormTensors { scale, shift, mean, variance }: NormTensors<'_>,
    scope: &ExecutionScope<'_>,
) -> Tensor {
    let size = x.size();
    let whole = of_whole_images(x, scope);
    let others: Vec<i64> = (0..size.len() as i64).filter(|&dimension| dimension != 1).collect();
    let (own_variance, own_mean) = whole.var_mean_correction(others.as_slice(), 0_i64, true);
    no_grad(|| {
        let count = (whole.numel() as i64 / size[1]) as f64;
        let unbiased = own_variance.flatten(0, -1) * (count / (count - 1.0));
        let _ = mean.shallow_clone().lerp_(&own_mean.flatten(0, -1).to_kind(mean.kind()), of.momentum);
        let _ = variance.shallow_clone().lerp_(&unbiased.to_kind(variance.kind()), of.momentum);
    });
    let mut by_channel = vec![1; size.len()];
    by_channel[1] = size[1];
    let [scale, shift] = [scale, shift].map(|weight| weight.view(by_channel.as_slice()));
    (x - own_mean) * ((own_variance + of.epsilon).rsqrt() * scale) + shift
}

/// The rows of whole images among those of a head [B·vectors·k, C, N…].
fn of_whole_images(x: &Tensor, scope: &ExecutionScope<'_>) -> Tensor {
    let size = x.size();
    let images = scope.batch / scope.vectors;
    let by_vector: Vec<i64> =
        [images, scope.vectors, size[0] / scope.batch].into_iter().chain(size[1..].iter().copied()).collect();
    x.reshape(by_vector).select(1, 0).flatten(0, 1)
}

/// A norm of `x` [B, C, N…] in which each image has statistics of its own for each channel. Their means over the images
/// are added to the running statistics, as in PyTorch's instance norm.
fn norm_by_image(
    of: Norm,
    x: &Tensor,
    NormTensors { scale, shift, mean, variance }: NormTensors<'_>,
    scope: &ExecutionScope<'_>,
) -> Tensor {
    no_grad(|| {
        let has_regions = scope.vectors > 1 && x.size()[0] % scope.batch == 0;
        let whole = if has_regions { of_whole_images(x, scope) } else { x.shallow_clone() };
        let positions: Vec<i64> = (2..whole.dim() as i64).collect();
        let statistics = whole.to_kind(mean.kind()).var_mean_correction(positions.as_slice(), 1_i64, false);
        for (running, own) in [(variance, statistics.0), (mean, statistics.1)] {
            let of_batch = own.mean_dim([0_i64].as_slice(), false, None::<Kind>);
            let _ = running.shallow_clone().lerp_(&of_batch, of.momentum);
        }
    });
    let channels = x.size()[1];
    for_wide_weights(x).group_norm(channels, Some(scale), Some(shift), of.epsilon, true).to_kind(x.kind())
}

/// A map for a norm with float32 weights: CUDA's kernels take weights of the map's kind only.
pub(super) fn for_wide_weights(x: &Tensor) -> Tensor {
    let is_mixed = x.kind() == Kind::BFloat16 && x.device() != Device::Cpu;
    if is_mixed { x.to_kind(Kind::Float) } else { x.shallow_clone() }
}

/// A convolution whose weights are converted to the kind of `input` [B, C, H, W].
pub(super) fn convolution(kernel: Kernel, input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let geometry = kernel.geometry;
    // They take float32 weights.
    let has_kernels = has_kernels(input) && weight.kind() == Kind::Float && !kernel.is_dilated();
    if has_kernels && kernels::suits_winograd(input.kind(), input.size()[3], weight, geometry) {
        return kernels::winograd(input, weight, bias);
    }
    if has_kernels && kernels::supports_unfolded(input.kind(), geometry) {
        return kernels::unfolded(input, weight, bias, geometry);
    }
    let bias = bias.map(|bias| bias.to_kind(input.kind()));
    convolve(input, &weight.to_kind(input.kind()), bias.as_ref(), kernel)
}

/// A convolution with weights of the input's kind.
pub(super) fn convolve(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>, kernel: Kernel) -> Tensor {
    let Kernel { geometry, dilation } = kernel;
    if input.device() == Device::Cpu && skips_pixels(geometry) && input.size()[1] < 16 {
        // The gradient of such a weight in channels-last layout is wrong in oneDNN, and is written beyond its memory.
        let stride = geometry.stride.map(i64::from);
        let seen = input.slice(2, None, None, stride[0]).slice(3, None, None, stride[1]);
        return seen.conv2d(weight, bias, 1, 0, 1, 1);
    }
    let pair = |[height, width]: [u32; 2]| [i64::from(height), i64::from(width)];
    let by = |stride| input.conv2d(weight, bias, stride, pair(geometry.padding), dilation, i64::from(geometry.groups));
    // oneDNN's kernels for this are slow: computing every pixel takes a fraction of the time.
    let is_slow = geometry.stride == [2, 2] && i64::from(geometry.groups) == input.size()[1] && geometry.groups > 1;
    if is_slow && input.device() == Device::Cpu { every_second(&by([1, 1])) } else { by(pair(geometry.stride)) }
}

/// A transposed convolution whose kernel covers one position: products with zeros between them. As in [`convolve`], the
/// gradient of such a weight is written beyond its memory in oneDNN.
pub(super) fn products_apart(
    input: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: [i64; 2],
    output_padding: [i64; 2],
) -> Tensor {
    let products = input.conv2d(&weight.transpose(0, 1), None::<&Tensor>, 1, 0, 1, 1);
    let size = products.size();
    let &[batch, channels, height, width] = size.as_slice() else { unreachable!("maps have four dimensions") };
    // One position has nothing between it and others, whatever the stride.
    let [down, right] = [(height, stride[0]), (width, stride[1])].map(|(side, step)| if side == 1 { 1 } else { step });
    let apart = products
        .reshape([batch, channels, height, 1, width, 1])
        .constant_pad_nd([0, right - 1, 0, 0, 0, down - 1])
        .reshape([batch, channels, height * down, width * right])
        .constant_pad_nd([0, output_padding[1] + 1 - right, 0, output_padding[0] + 1 - down]);
    match bias {
        Some(bias) => apart + bias.view([1, -1, 1, 1]),
        None => apart,
    }
}

/// A channels-last copy, which convolutions on CPU and GPU prefer.
pub(super) fn channels_last(input: &Tensor) -> Tensor {
    input.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// Whether a convolution takes single pixels and leaves out others.
fn skips_pixels(geometry: Convolution) -> bool {
    geometry.kernel == [1; 2] && geometry.stride != [1; 2] && geometry.padding == [0; 2] && geometry.groups == 1
}

/// Every second pixel in both directions.
pub(super) fn every_second(input: &Tensor) -> Tensor {
    input.slice(2, None, None, 2).slice(3, None, None, 2)
}
