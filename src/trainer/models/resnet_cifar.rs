//! ResNets for 32×32 images: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
//!
//! Two lineages of checkpoints. `resnet8` … `resnet110`, `resnet8x4` and `resnet32x4` are those of the distillation
//! literature (Tian et al., "Contrastive Representation Distillation", ICLR 2020), with a projection where a block
//! changes shape, and `fc`. `resnet20_a` … `resnet110_a` are the paper's own with parameter-free shortcuts
//! (option A), and `linear`.

use tch::Tensor;

use super::init::Init;
use super::layers::{BatchNorm, Conv, Geometry, Path};
use super::{Backbone, Parts};

/// What distinguishes one network of the family from another.
struct Variant {
    name: &'static str,
    /// Blocks in each of the three stages.
    blocks: i64,
    /// Channels of the stem and of the three stages.
    widths: [i64; 4],
    /// Whether a block that changes shape pads its shortcut with zeros, rather than projecting it.
    padded: bool,
}

const fn projected(name: &'static str, blocks: i64, widths: [i64; 4]) -> Variant {
    Variant { name, blocks, widths, padded: false }
}

const fn padded(name: &'static str, blocks: i64) -> Variant {
    Variant { name, blocks, widths: NARROW, padded: true }
}

const NARROW: [i64; 4] = [16, 16, 32, 64];
const WIDE: [i64; 4] = [32, 64, 128, 256];

const VARIANTS: [Variant; 14] = [
    projected("resnet8", 1, NARROW),
    projected("resnet14", 2, NARROW),
    projected("resnet20", 3, NARROW),
    projected("resnet32", 5, NARROW),
    projected("resnet44", 7, NARROW),
    projected("resnet56", 9, NARROW),
    projected("resnet110", 18, NARROW),
    projected("resnet8x4", 1, WIDE),
    projected("resnet32x4", 5, WIDE),
    padded("resnet20_a", 3),
    padded("resnet32_a", 5),
    padded("resnet44_a", 7),
    padded("resnet56_a", 9),
    padded("resnet110_a", 18),
];

const KAIMING: Init = Init::KaimingFanOut;

/// How the input of a block reaches its end.
enum Shortcut {
    Identity,
    Projection(Conv, BatchNorm),
    /// Every other pixel, and so many channels of zeros on each side.
    Padding(i64),
}

struct Block {
    conv1: Conv,
    bn1: BatchNorm,
    conv2: Conv,
    bn2: BatchNorm,
    shortcut: Shortcut,
}

impl Block {
    fn new(path: &Path<'_>, inputs: i64, outputs: i64, stride: i64, padded: bool) -> Self {
        let conv1 = path.sub("conv1").conv(inputs, outputs, Geometry::k3(stride), KAIMING);
        let bn1 = path.sub("bn1").batch_norm(outputs);
        let conv2 = path.sub("conv2").conv(outputs, outputs, Geometry::k3(1), KAIMING);
        let bn2 = path.sub("bn2").batch_norm(outputs);
        let shortcut = if stride == 1 && inputs == outputs {
            Shortcut::Identity
        } else if padded {
            Shortcut::Padding((outputs - inputs) / 2)
        } else {
            let path = path.sub("downsample");
            let conv = path.sub(0).conv(inputs, outputs, Geometry::k1(stride), KAIMING);
            Shortcut::Projection(conv, path.sub(1).batch_norm(outputs))
        };
        Self { conv1, bn1, conv2, bn2, shortcut }
    }

    fn forward(&self, xs: &Tensor, train: bool) -> Tensor {
        let ys = self.bn1.forward(&self.conv1.forward(xs), train).relu_();
        let ys = self.bn2.forward(&self.conv2.forward(&ys), train);
        let shortcut = match &self.shortcut {
            Shortcut::Identity => xs.shallow_clone(),
            Shortcut::Projection(conv, bn) => bn.forward(&conv.forward(xs), train),
            Shortcut::Padding(channels) => {
                xs.slice(2, None, None, 2).slice(3, None, None, 2).constant_pad_nd([0, 0, 0, 0, *channels, *channels])
            }
        };
        (ys + shortcut).relu_()
    }
}

struct ResNet {
    conv1: Conv,
    bn1: BatchNorm,
    blocks: Vec<Block>,
}

impl Backbone for ResNet {
    fn forward(&self, xs: &Tensor, train: bool) -> Tensor {
        let stem = self.bn1.forward(&self.conv1.forward(xs), train).relu_();
        self.blocks.iter().fold(stem, |xs, block| block.forward(&xs, train))
    }
}

/// The network `name`, if it is of this family.
pub(super) fn build(name: &str, root: &Path<'_>, classes: i64) -> Option<Parts> {
    let variant = VARIANTS.iter().find(|variant| variant.name == name)?;
    let widths = variant.widths;
    let conv1 = root.sub("conv1").conv(3, widths[0], Geometry::k3(1), KAIMING);
    let bn1 = root.sub("bn1").batch_norm(widths[0]);
    let mut blocks = Vec::new();
    for (stage, pair) in (1..).zip(widths.windows(2)) {
        for index in 0..variant.blocks {
            let path = root.sub(format_args!("layer{stage}")).sub(index);
            let (inputs, stride) = match (index, stage) {
                (0, 1) => (pair[0], 1),
                (0, _) => (pair[0], 2),
                _ => (pair[1], 1),
            };
            blocks.push(Block::new(&path, inputs, pair[1], stride, variant.padded));
        }
    }
    let default = Init::Default { fan_in: widths[3] };
    let classifier = if variant.padded { "linear" } else { "fc" };
    let classifier = root.sub(classifier).linear(widths[3], classes, default, default);
    Some((Box::new(ResNet { conv1, bn1, blocks }), classifier))
}
