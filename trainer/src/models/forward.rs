//! Runs the graph of a [`Layout`].
//!
//! A network computes in the kind of its input: a convolution brings its weight to that kind, batch normalisation
//! keeps its own in float32 and takes either. So bfloat16 needs no second implementation, and gradients arrive at
//! the float32 weights.

use tch::{Device, Kind, TchError, Tensor};

use distillery::architecture::{Convolution, Layout, Op, Pool, Role};

use super::plan::Step;
use super::weight::Weight;
use crate::device::kernels;

/// The final feature map [B, C, H', W'] of `images` [B, 3, H, W], whose `steps` are for training; batch norms use the
/// statistics of the batch where `train`, and the running ones otherwise; those of `cpp/` where `kernels`.
pub(super) fn forward(layout: &Layout, steps: &[Step], weights: &[Weight], images: &Tensor, train: bool) -> Tensor {
    run(steps, |_, step, inputs, added| match (step.op, inputs) {
        (Op::Images, []) => images.shallow_clone(),
        (Op::Convolution { weight }, [xs]) => convolution(&weights[weight..], geometry(layout, weight), xs),
        (Op::BatchNorm { weight }, [xs]) => {
            let weights = [0, 1, 2, 3].map(|part| &weights[weight + part].tensor);
            if train && has_kernels(xs) {
                return kernels::norm(xs, added, weights, step.relu);
            }
            let [factor, offset, mean, variance] = weights.map(Some);
            let normalised = xs.batch_norm(factor, offset, mean, variance, train, 0.1, 1e-5, true);
            finish(normalised, added, step.relu)
        }
        (op, inputs) => plain(op, inputs),
    })
}

/// Runs steps one after the other and gives the last map; a map is dropped with its last use. `make` gets the number of
/// a step, the maps that it takes, and the one that it adds.
pub(super) fn run(steps: &[Step], make: impl Fn(usize, &Step, &[Tensor], Option<&Tensor>) -> Tensor) -> Tensor {
    let mut maps: Vec<Option<Tensor>> = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        let mut take = |input: usize| {
            let map = if steps[input].last_use == index {
                maps[input].take()
            } else {
                maps[input].as_ref().map(Tensor::shallow_clone)
            };
            map.expect("inputs come before those that take them")
        };
        let inputs: Vec<Tensor> = step.inputs.iter().map(|&input| take(input)).collect();
        let added = step.added.map(take);
        maps.push(Some(make(index, step, &inputs, added.as_ref())));
    }
    maps.pop().flatten().expect("a graph has nodes, and nothing takes the last")
}

/// Whether `cpp/` has loops for such maps.
pub(super) fn has_kernels(xs: &Tensor) -> bool {
    xs.device() == Device::Cpu && matches!(xs.kind(), Kind::Float | Kind::BFloat16)
}

/// What follows in the same step. Nothing else looks at `made`, and no gradient needs it.
pub(super) fn finish(made: Tensor, added: Option<&Tensor>, relu: bool) -> Tensor {
    let mut made = match added {
        Some(added) => made + added,
        None => made,
    };
    if relu { made.relu_() } else { made }
}

/// A node without weights.
pub(super) fn plain(op: Op, inputs: &[Tensor]) -> Tensor {
    match (op, inputs) {
        (Op::Relu, [xs]) => xs.relu(),
        (Op::Relu6, [xs]) => xs.relu6(),
        (Op::Add, [xs, ys]) => xs + ys,
        (Op::Concat, [xs, ys]) => Tensor::cat(&[xs, ys], 1),
        (Op::Channels { from, count }, [xs]) => xs.narrow(1, i64::from(from), i64::from(count)),
        (Op::Shuffle { groups }, [xs]) => shuffle(xs, i64::from(groups)),
        (Op::Subsample { zeros }, [xs]) => {
            let zeros = i64::from(zeros);
            every_second(xs).constant_pad_nd([0, 0, 0, 0, zeros, zeros])
        }
        (Op::AveragePool(Pool { size, stride, padding }), [xs]) => {
            let [size, stride, padding] = [size, stride, padding].map(|n| [i64::from(n); 2]);
            xs.avg_pool2d(size, stride, padding, false, true, None::<i64>)
        }
        (Op::MaxPool(Pool { size, stride, padding }), [xs]) => {
            let [size, stride, padding] = [size, stride, padding].map(|n| [i64::from(n); 2]);
            xs.max_pool2d(size, stride, padding, [1, 1], false)
        }
        (op, inputs) => unreachable!("{op:?} of {} maps", inputs.len()),
    }
}

pub(super) fn geometry(layout: &Layout, weight: usize) -> Convolution {
    let Role::Convolution(geometry) = layout.entries[weight].role else {
        unreachable!("a convolution's first entry is its weight")
    };
    geometry
}

/// `weights` begin with the convolution's own.
fn convolution(weights: &[Weight], geometry: Convolution, xs: &Tensor) -> Tensor {
    let (weight, bias) = (&weights[0].tensor, geometry.bias.then(|| &weights[1].tensor));
    let has_kernels = has_kernels(xs);
    if has_kernels && kernels::suits_winograd(xs.kind(), xs.size()[3], weight, geometry) {
        return kernels::winograd(xs, weight, bias);
    }
    if has_kernels && kernels::is_unfolded(xs.kind(), geometry) {
        return kernels::unfolded(xs, weight, bias, geometry);
    }
    let bias = bias.map(|bias| bias.to_kind(xs.kind()));
    convolve(xs, &weight.to_kind(xs.kind()), bias.as_ref(), geometry)
}

/// A convolution with weights of the input's kind.
pub(super) fn convolve(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, geometry: Convolution) -> Tensor {
    let pair = |[height, width]: [u32; 2]| [i64::from(height), i64::from(width)];
    let by = |stride| xs.conv2d(weight, bias, stride, pair(geometry.padding), [1, 1], i64::from(geometry.groups));
    // oneDNN has no fast kernels of this kind, and computes every pixel in a fraction of the time.
    let is_slow = geometry.stride == [2, 2] && i64::from(geometry.groups) == xs.size()[1] && geometry.groups > 1;
    if is_slow && xs.device() == Device::Cpu { every_second(&by([1, 1])) } else { by(pair(geometry.stride)) }
}

/// A convolution with a bias, the sum with `added` and a ReLU in one kernel of cuDNN's, on a GPU; for inference.
///
/// # Errors
/// cuDNN does not have it for these.
pub(super) fn convolve_fused(
    xs: &Tensor,
    [weight, bias]: [&Tensor; 2],
    geometry: Convolution,
    added: Option<&Tensor>,
) -> Result<Tensor, TchError> {
    let [stride, padding] = [geometry.stride, geometry.padding].map(|pair| pair.map(i64::from));
    let (bias, groups) = (Some(bias), i64::from(geometry.groups));
    match added {
        Some(added) => xs.f_cudnn_convolution_add_relu(weight, added, 1.0, bias, stride, padding, [1, 1], groups),
        None => xs.f_cudnn_convolution_relu(weight, bias, stride, padding, [1, 1], groups),
    }
}

/// Every second pixel in both directions.
fn every_second(xs: &Tensor) -> Tensor {
    xs.slice(2, None, None, 2).slice(3, None, None, 2)
}

/// `xs` [B, G·N, H, W]: channel n of group g becomes channel n·G + g. The channels of a pixel stay next to each other.
fn shuffle(xs: &Tensor, groups: i64) -> Tensor {
    let &[batch, channels, height, width] = xs.size().as_slice() else { unreachable!("maps have four dimensions") };
    let pixels = xs.permute([0, 2, 3, 1]).reshape([batch, height, width, groups, channels / groups]);
    pixels.transpose(3, 4).reshape([batch, height, width, channels]).permute([0, 3, 1, 2])
}

/// The same values with the channels of one pixel next to each other, which convolutions on CPU and GPU prefer.
pub(super) fn channels_last(xs: &Tensor) -> Tensor {
    xs.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}
