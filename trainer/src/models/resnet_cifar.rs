//! ResNets for 32×32 images: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
//!
//! Where a block changes shape, the networks of the distillation literature (Tian et al., "Contrastive Representation
//! Distillation", ICLR 2020) project its input; the paper's own have parameter-free shortcuts (option A).

use tch::Tensor;

use super::init::Init;
use super::layers::{BatchNorm, Conv, Geometry, Path};
use super::{Backbone, Parts};
use distillery::architecture::{self, CifarResnet};

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
    fn new(path: &Path<'_>, inputs: i64, outputs: i64, stride: i64, kind: architecture::Shortcut) -> Self {
        let conv1 = path.sub("conv1").conv(inputs, outputs, Geometry::k3(stride), KAIMING);
        let bn1 = path.sub("bn1").batch_norm(outputs);
        let conv2 = path.sub("conv2").conv(outputs, outputs, Geometry::k3(1), KAIMING);
        let bn2 = path.sub("bn2").batch_norm(outputs);
        let shortcut = match kind {
            _ if stride == 1 && inputs == outputs => Shortcut::Identity,
            architecture::Shortcut::Pad => Shortcut::Padding((outputs - inputs) / 2),
            architecture::Shortcut::Convolution => {
                let path = path.sub("downsample");
                let conv = path.sub(0).conv(inputs, outputs, Geometry::k1(stride), KAIMING);
                Shortcut::Projection(conv, path.sub(1).batch_norm(outputs))
            }
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

/// The layers, and the classifier.
pub(super) fn build(network: &CifarResnet, root: &Path<'_>, classes: i64) -> Parts {
    let mut channels = i64::from(network.stem);
    let conv1 = root.sub("conv1").conv(3, channels, Geometry::k3(1), KAIMING);
    let bn1 = root.sub("bn1").batch_norm(channels);
    let mut blocks = Vec::new();
    for stage in 0..3 {
        let width = i64::from(network.width) << stage;
        for index in 0..network.blocks {
            let path = root.sub(format_args!("layer{}.{index}", stage + 1));
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            blocks.push(Block::new(&path, channels, width, stride, network.shortcut));
            channels = width;
        }
    }
    let default = Init::Default { fan_in: channels };
    let classifier = root.sub(network.classifier()).linear(channels, classes, default, default);
    (Box::new(ResNet { conv1, bn1, blocks }), classifier)
}
