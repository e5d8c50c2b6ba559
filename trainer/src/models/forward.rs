//! Runs the graph of a [`Layout`].
//!
//! A network computes in the kind of its input: a convolution brings its weight to that kind, batch normalisation
//! keeps its own in float32 and takes either. So bfloat16 needs no second implementation, and gradients arrive at
//! the float32 weights.

use tch::{Device, Kind, Tensor};

use distillery::architecture::{Convolution, Layout, Op, Pool, Role};

use super::Weight;

/// When the maps of a graph come to their end.
#[derive(Debug)]
pub(super) struct Schedule {
    last_use: Vec<usize>,
    /// Of each node, whether it alone may change its input: nothing else looks at that, the gradients included.
    in_place: Vec<bool>,
}

impl Schedule {
    pub(super) fn new(layout: &Layout) -> Self {
        let mut uses = vec![0; layout.nodes.len()];
        for &input in layout.nodes.iter().flat_map(|node| &node.inputs) {
            uses[input] += 1;
        }
        // The gradients of these need their inputs, not what they made.
        let forgets = |op: Op| matches!(op, Op::Convolution { .. } | Op::BatchNorm { .. } | Op::Add);
        let changes = |&input: &usize| uses[input] == 1 && forgets(layout.nodes[input].op);
        let in_place = layout.nodes.iter().map(|node| node.op.is_in_place() && node.inputs.iter().all(changes));
        Self { last_use: layout.last_use(), in_place: in_place.collect() }
    }
}

/// The final feature map [B, C, H', W'] of `images` [B, 3, H, W]; batch norms use the statistics of the batch where
/// `train`, and the running ones otherwise.
pub(super) fn forward(
    layout: &Layout,
    schedule: &Schedule,
    weights: &[Weight],
    images: &Tensor,
    train: bool,
) -> Tensor {
    let mut maps: Vec<Option<Tensor>> = Vec::with_capacity(layout.nodes.len());
    for (index, node) in layout.nodes.iter().enumerate() {
        let inputs: Vec<Tensor> = node.inputs.iter().map(|&input| take(&mut maps, input, schedule, index)).collect();
        let map = match (node.op, inputs.as_slice()) {
            (Op::Images, []) => images.shallow_clone(),
            (Op::Convolution { weight }, [xs]) => {
                let Role::Convolution(geometry) = layout.entries[weight].role else {
                    unreachable!("a convolution's first entry is its weight")
                };
                convolution(&weights[weight..], geometry, xs)
            }
            (Op::BatchNorm { weight }, [xs]) => batch_norm(&weights[weight..weight + 4], xs, train),
            (Op::Relu, [xs]) if schedule.in_place[index] => xs.shallow_clone().relu_(),
            (Op::Relu, [xs]) => xs.relu(),
            (Op::Relu6, [xs]) if schedule.in_place[index] => xs.shallow_clone().relu6_(),
            (Op::Relu6, [xs]) => xs.relu6(),
            (Op::Add, [xs, ys]) => xs + ys,
            (Op::Concat, [xs, ys]) => Tensor::cat(&[xs, ys], 1),
            (Op::Channels { from, count }, [xs]) => xs.narrow(1, i64::from(from), i64::from(count)),
            (Op::Shuffle { groups }, [xs]) => shuffle(xs, i64::from(groups)),
            (Op::Subsample { zeros }, [xs]) => {
                let zeros = i64::from(zeros);
                xs.slice(2, None, None, 2).slice(3, None, None, 2).constant_pad_nd([0, 0, 0, 0, zeros, zeros])
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
        };
        maps.push(Some(map));
    }
    maps.pop().flatten().expect("a graph has nodes, and nothing takes the last")
}

/// The map of a node, which is dropped from the list with its last use.
fn take(maps: &mut [Option<Tensor>], input: usize, schedule: &Schedule, index: usize) -> Tensor {
    let map = if schedule.last_use[input] == index {
        maps[input].take()
    } else {
        maps[input].as_ref().map(Tensor::shallow_clone)
    };
    map.expect("inputs come before those that take them")
}

/// `weights` begin with the convolution's own.
fn convolution(weights: &[Weight], geometry: Convolution, xs: &Tensor) -> Tensor {
    let pair = |[height, width]: [u32; 2]| [i64::from(height), i64::from(width)];
    let weight = weights[0].tensor.to_kind(xs.kind());
    let bias = geometry.bias.then(|| weights[1].tensor.to_kind(xs.kind()));
    xs.conv2d(&weight, bias, pair(geometry.stride), pair(geometry.padding), [1, 1], i64::from(geometry.groups))
}

fn batch_norm(weights: &[Weight], xs: &Tensor, train: bool) -> Tensor {
    let [factor, offset, mean, variance] = [0, 1, 2, 3].map(|part| Some(&weights[part].tensor));
    let normalise = |xs: &Tensor| xs.batch_norm(factor, offset, mean, variance, train, 0.1, 1e-5, true);
    if train && sums_too_many_pixels(xs) { channels_last(&normalise(&xs.contiguous())) } else { normalise(xs) }
}

/// Whether libtorch's batch norm would add up so many float32 one by one that it shows. It does where the channels are
/// last, on the CPU: the logits of resnet101 at 224×224 are then off by 2·10⁻⁴, and by 5·10⁻⁵ with the channels first, at a
/// tenth more time. The maps of CIFAR's networks are small enough.
fn sums_too_many_pixels(xs: &Tensor) -> bool {
    let &[_, _, height, width] = xs.size().as_slice() else { return false };
    height * width > 32 * 32 && xs.device() == Device::Cpu && xs.kind() == Kind::Float
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
