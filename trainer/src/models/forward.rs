//! Runs the graph of a [`Layout`].
//!
//! A network computes in the kind of its input: a convolution converts its weight to that kind, and a batch norm, whose
//! weights stay float32, accepts either. So bfloat16 needs no second implementation, and gradients reach the float32
//! weights.

use tch::{Device, Kind, TchError, Tensor};

use distillery_core::architecture::{Convolution, Layout, Op, Pool, Role};

use super::fusion::FusedNode;
use super::weight::Weight;
use crate::device::kernels::{self, BatchNorm};

/// The final feature maps [B, C, H', W'] of `images` [B, 3, H, W]. `nodes` are fused for training. Batch norms use the
/// statistics of the batch if `train`, else the running ones.
pub(super) fn forward(
    layout: &Layout,
    nodes: &[FusedNode],
    weights: &[Weight],
    images: &Tensor,
    train: bool,
) -> Tensor {
    run(nodes, |_, node, inputs, added| match (node.op, inputs) {
        (Op::Images, []) => images.shallow_clone(),
        (Op::Convolution { weight }, [input]) => convolution(&weights[weight..], geometry(layout, weight), input),
        (Op::BatchNorm { weight: first }, [input]) => {
            let [weight, bias, mean, variance] = [0, 1, 2, 3].map(|part| &weights[first + part].tensor);
            if train && has_kernels(input) {
                let norm = BatchNorm { weight, bias, running_mean: mean, running_var: variance };
                return kernels::norm(input, added, &norm, node.relu);
            }
            let [weight, bias, mean, variance] = [weight, bias, mean, variance].map(Some);
            let normalised = input.batch_norm(weight, bias, mean, variance, train, 0.1, 1e-5, true);
            finish(normalised, added, node.relu)
        }
        (op, inputs) => plain(op, inputs),
    })
}

/// Runs the nodes in order and returns the last map. A map is dropped after its last use. `make` gets a node's index,
/// the node, its input maps, and the map that it adds.
pub(super) fn run(
    nodes: &[FusedNode],
    make: impl Fn(usize, &FusedNode, &[Tensor], Option<&Tensor>) -> Tensor,
) -> Tensor {
    let mut maps: Vec<Option<Tensor>> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let mut take = |input: usize| {
            let map = if nodes[input].last_use == index {
                maps[input].take()
            } else {
                maps[input].as_ref().map(Tensor::shallow_clone)
            };
            map.expect("inputs come before the nodes that take them")
        };
        let inputs: Vec<Tensor> = node.inputs.iter().map(|&input| take(input)).collect();
        let added = node.added.map(take);
        maps.push(Some(make(index, node, &inputs, added.as_ref())));
    }
    maps.pop().flatten().expect("a graph has nodes, and none takes the last map")
}

/// Whether `cpp/` has kernels for such maps.
pub(super) fn has_kernels(input: &Tensor) -> bool {
    input.device() == Device::Cpu && matches!(input.kind(), Kind::Float | Kind::BFloat16)
}

/// Adds and applies ReLU, if wanted, in place where possible: nothing else uses `made`, and no gradient needs it.
pub(super) fn finish(made: Tensor, added: Option<&Tensor>, relu: bool) -> Tensor {
    let mut made = match added {
        Some(added) => made + added,
        None => made,
    };
    if relu { made.relu_() } else { made }
}

/// Runs a node without weights.
pub(super) fn plain(op: Op, inputs: &[Tensor]) -> Tensor {
    match (op, inputs) {
        (Op::Relu, [input]) => input.relu(),
        (Op::Relu6, [input]) => input.relu6(),
        (Op::Add, [input, other]) => input + other,
        (Op::Concat, [input, other]) => Tensor::cat(&[input, other], 1),
        (Op::Channels { from, count }, [input]) => input.narrow(1, i64::from(from), i64::from(count)),
        (Op::Shuffle { groups }, [input]) => shuffle(input, i64::from(groups)),
        (Op::Subsample { zeros }, [input]) => {
            let zeros = i64::from(zeros);
            every_second(input).constant_pad_nd([0, 0, 0, 0, zeros, zeros])
        }
        (Op::AveragePool(Pool { size, stride, padding }), [input]) => {
            let [size, stride, padding] = [size, stride, padding].map(|n| [i64::from(n); 2]);
            input.avg_pool2d(size, stride, padding, false, true, None::<i64>)
        }
        (Op::MaxPool(Pool { size, stride, padding }), [input]) => {
            let [size, stride, padding] = [size, stride, padding].map(|n| [i64::from(n); 2]);
            input.max_pool2d(size, stride, padding, [1, 1], false)
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

/// `weights` begin with those of the convolution.
fn convolution(weights: &[Weight], geometry: Convolution, input: &Tensor) -> Tensor {
    let (weight, bias) = (&weights[0].tensor, geometry.bias.then(|| &weights[1].tensor));
    let has_kernels = has_kernels(input);
    if has_kernels && kernels::suits_winograd(input.kind(), input.size()[3], weight, geometry) {
        return kernels::winograd(input, weight, bias);
    }
    if has_kernels && kernels::supports_unfolded(input.kind(), geometry) {
        return kernels::unfolded(input, weight, bias, geometry);
    }
    let bias = bias.map(|bias| bias.to_kind(input.kind()));
    convolve(input, &weight.to_kind(input.kind()), bias.as_ref(), geometry)
}

/// A convolution with weights of the input's kind.
pub(super) fn convolve(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>, geometry: Convolution) -> Tensor {
    let pair = |[height, width]: [u32; 2]| [i64::from(height), i64::from(width)];
    let by = |stride| input.conv2d(weight, bias, stride, pair(geometry.padding), [1, 1], i64::from(geometry.groups));
    // oneDNN's kernels for this are slow: computing every pixel takes a fraction of the time.
    let is_slow = geometry.stride == [2, 2] && i64::from(geometry.groups) == input.size()[1] && geometry.groups > 1;
    if is_slow && input.device() == Device::Cpu { every_second(&by([1, 1])) } else { by(pair(geometry.stride)) }
}

/// A convolution with a bias, the sum with `added`, and a ReLU in one kernel of cuDNN; for inference on a GPU.
///
/// # Errors
/// cuDNN has no kernel for these sizes.
pub(super) fn convolve_fused(
    input: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    geometry: Convolution,
    added: Option<&Tensor>,
) -> Result<Tensor, TchError> {
    let [stride, padding] = [geometry.stride, geometry.padding].map(|pair| pair.map(i64::from));
    let (bias, groups) = (Some(bias), i64::from(geometry.groups));
    match added {
        Some(added) => input.f_cudnn_convolution_add_relu(weight, added, 1.0, bias, stride, padding, [1, 1], groups),
        None => input.f_cudnn_convolution_relu(weight, bias, stride, padding, [1, 1], groups),
    }
}

/// Every second pixel in both directions.
fn every_second(input: &Tensor) -> Tensor {
    input.slice(2, None, None, 2).slice(3, None, None, 2)
}

/// Shuffles the channels of `input` [B, G·N, H, W]: channel n of group g becomes channel n·G + g. Keeps channels last.
fn shuffle(input: &Tensor, groups: i64) -> Tensor {
    let &[batch, channels, height, width] = input.size().as_slice() else { unreachable!("maps have four dimensions") };
    let pixels = input.permute([0, 2, 3, 1]).reshape([batch, height, width, groups, channels / groups]);
    pixels.transpose(3, 4).reshape([batch, height, width, channels]).permute([0, 3, 1, 2])
}

/// A channels-last copy, which convolutions on CPU and GPU prefer.
pub(super) fn channels_last(input: &Tensor) -> Tensor {
    input.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}
