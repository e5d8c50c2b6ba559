//! A lower bound on the time of a step, from what its convolutions multiply and move and what this machine can do.

use distillery_core::architecture::{Convolution, Layout, LayoutNode, LayoutOp, Role};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::measured::Clock;

/// The peak performance of the machine.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Peaks {
    /// Multiply-accumulates per second of the product of two 2048×2048 matrices (8192×8192 on a GPU), as a matrix
    /// product or as a 1×1 convolution, whichever is faster: different libraries compute them, and one may not know the
    /// processor or TF32.
    pub macs_per_second: f64,
    /// Bytes per second, read and written, of a copy of 256 MiB (1 GiB on a GPU).
    pub bytes_per_second: f64,
}

impl Peaks {
    /// The best of several tries, because disturbances only make them slower.
    pub fn measure(kind: Kind, device: Device, wait: impl Fn(), clock: Clock) -> Self {
        let (side, bytes) = if device == Device::Cpu { (2048, 256 << 20) } else { (8192, 1 << 30) };
        let best = |work: &dyn Fn()| {
            let once = |_| {
                let begun = clock.now();
                work();
                wait();
                clock.now() - begun
            };
            (0..12).map(once).fold(f64::INFINITY, f64::min)
        };
        let matrix = || Tensor::randn([side, side], (Kind::Float, device)).to_kind(kind);
        let (a, b) = (matrix(), matrix());
        let pixels = a.view([1, 32, side / 32, side]).permute([0, 3, 1, 2]);
        let kernel = b.view([side, side, 1, 1]);
        let convolved = best(&|| drop(pixels.conv2d(&kernel, None::<Tensor>, [1, 1], [0, 0], [1, 1], 1)));
        let seconds = best(&|| drop(a.matmul(&b))).min(convolved);
        let (from, to) = (Tensor::zeros([bytes], (Kind::Uint8, device)), Tensor::zeros([bytes], (Kind::Uint8, device)));
        let copied = best(&|| to.shallow_clone().copy_(&from));
        Self { macs_per_second: (side * side * side) as f64 / seconds, bytes_per_second: 2.0 * bytes as f64 / copied }
    }
}

/// The least work of a computation.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Work {
    /// Multiply-accumulates of convolutions and classifier. A 3×3 convolution with stride 1 counts as Winograd's
    /// minimal filtering F(2×2, 3×3), which needs 4/9 of a direct convolution.
    pub macs: f64,
    /// Bytes read and written.
    pub bytes: f64,
}

impl Work {
    /// Milliseconds that arithmetic or memory take at least, whichever is longer.
    pub fn least_ms(self, peaks: Peaks) -> f64 {
        1e3 * (self.macs / peaks.macs_per_second).max(self.bytes / peaks.bytes_per_second)
    }
}

/// A forward pass of `batch` images with numbers of `width` bytes, in the best case: batch norms, ReLUs, sums and
/// shuffles happen while a convolution writes its map, so that every map is written once and read once per use.
pub fn forward(layout: &Layout, batch: u64, width: u64) -> Work {
    let (batch, width) = (batch as f64, width as f64);
    let moved: u64 = layout.nodes.iter().map(|node| moved(layout, node)).sum();
    let weights: u64 = layout.entries.iter().map(|entry| entry.shape.iter().product::<u64>()).sum();
    let saved: f64 = layout.nodes.iter().map(|node| saved(layout, node)).sum();
    Work { macs: (layout.macs as f64 - saved) * batch, bytes: (moved as f64 * batch + weights as f64) * width }
}

/// A backward pass: the gradients of inputs and of weights each take as many multiply-accumulates as the forward pass,
/// but images need none; every map and every gradient is read, and the gradient of each map written.
pub fn backward(layout: &Layout, batch: u64, width: u64) -> Work {
    let first = layout.nodes.iter().find(|node| matches!(node.op, LayoutOp::Convolution { .. }));
    let of_images = first.map_or(0, |node| elements(node) * per_output(layout, node));
    let forward = forward(layout, batch, width);
    Work { macs: 2.0 * forward.macs - of_images as f64 * batch as f64, bytes: 2.0 * forward.bytes }
}

/// An update of weights and momentum in float32: gradients are read twice, for their norm and for the step.
pub fn update(layout: &Layout) -> Work {
    Work { macs: 0.0, bytes: layout.parameters as f64 * 4.0 * 6.0 }
}

fn elements(node: &LayoutNode) -> u64 {
    u64::from(node.map.channels) * u64::from(node.map.side).pow(2)
}

fn per_output(layout: &Layout, node: &LayoutNode) -> u64 {
    let LayoutOp::Convolution { weight } = node.op else { return 0 };
    layout.entries[weight].shape[1..].iter().product()
}

/// The multiplications of a direct convolution that minimal filtering saves, for one image.
fn saved(layout: &Layout, node: &LayoutNode) -> f64 {
    let LayoutOp::Convolution { weight } = node.op else { return 0.0 };
    let Role::Convolution(geometry) = layout.entries[weight].role else { return 0.0 };
    // With few channels or pixels, the transforms cost more than they save.
    let suits = geometry == Convolution { kernel: [3; 2], stride: [1; 2], padding: [1; 2], groups: 1, ..geometry }
        && per_output(layout, node) >= 9 * 16
        && node.map.side > 2;
    if suits { elements(node) as f64 * per_output(layout, node) as f64 * 5.0 / 9.0 } else { 0.0 }
}

/// Numbers that a node reads and writes for one image.
fn moved(layout: &Layout, node: &LayoutNode) -> u64 {
    let inputs = || node.inputs.iter().map(|&input| elements(&layout.nodes[input])).sum::<u64>();
    match node.op {
        LayoutOp::Convolution { .. } | LayoutOp::AveragePool(_) | LayoutOp::MaxPool(_) => inputs() + elements(node),
        // Reads the other summand; the convolution before it writes the sum.
        LayoutOp::Add => elements(node),
        _ => 0,
    }
}
