//! The CIFAR ResNets: K. He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2.
//!
//! Two published variants share the body. The usual teachers in distillation papers (Y. Tian et al., "Contrastive
//! Representation Distillation", ICLR 2020) have 1×1 convolutions as shortcuts and call their classifier `fc`. The
//! usual CIFAR-10 checkpoints (`_a`) have shortcuts without parameters and call it `linear`.

use super::builder::{GraphBuilder, NodeId, SquareKernel, Style};
use super::layout::Layout;
use super::{Architecture, Family};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CifarResnet {
    /// Blocks per stage. Each has two convolutions.
    pub blocks: u32,
    /// Channels of the first convolution.
    pub stem: u32,
    /// Channels of the first stage. Each further stage doubles them.
    pub width: u32,
    pub shortcut: Shortcut,
}

/// The shortcut of a block whose input and output differ in shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortcut {
    /// A 1×1 convolution with a batch norm (option B).
    Convolution,
    /// Every second pixel, with zeros in the new channels, half of them in front of the old ones (option A).
    Pad,
}

impl CifarResnet {
    pub(super) fn classifier(&self) -> &'static str {
        match self.shortcut {
            Shortcut::Convolution => "fc",
            Shortcut::Pad => "linear",
        }
    }

    pub(super) fn layout(&self, classes: u32, side: u32) -> Layout {
        let mut net = GraphBuilder::new(side, Style::Kaiming);
        let mut x = net.conv_norm_relu(["conv1", "bn1"], net.images(), self.stem, SquareKernel::of(3));
        for stage in 0..3 {
            for block in 0..self.blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let name = format!("layer{}.{block}", stage + 1);
                x = self.block(&mut net, &name, x, self.width << stage, stride);
            }
        }
        net.classifier(self.classifier(), classes)
    }

    fn block(&self, net: &mut GraphBuilder, name: &str, x: NodeId, channels: u32, stride: u32) -> NodeId {
        let key = |part: &str| format!("{name}.{part}");
        let y = net.conv_norm_relu([&key("conv1"), &key("bn1")], x, channels, SquareKernel::of(3).stride(stride));
        let y = net.conv_norm([&key("conv2"), &key("bn2")], y, channels, SquareKernel::of(3));
        let shortcut = match self.shortcut {
            _ if stride == 1 && net.channels(x) == channels => x,
            Shortcut::Pad => net.subsample(x, channels),
            Shortcut::Convolution => {
                let keys = [key("downsample.0"), key("downsample.1")];
                net.conv_norm([&keys[0], &keys[1]], x, channels, SquareKernel::of(1).stride(stride))
            }
        };
        let sum = net.add(y, shortcut);
        net.relu(sum)
    }
}

const fn network(name: &'static str, depth: u32, stem: u32, width: u32, shortcut: Shortcut) -> Architecture {
    let family = Family::CifarResnet(CifarResnet { blocks: (depth - 2) / 6, stem, width, shortcut });
    Architecture { name, input_side: 32, family }
}

/// Option B, 16 channels.
const fn plain(name: &'static str, depth: u32) -> Architecture {
    network(name, depth, 16, 16, Shortcut::Convolution)
}

/// Option A, 16 channels.
const fn padded(name: &'static str, depth: u32) -> Architecture {
    network(name, depth, 16, 16, Shortcut::Pad)
}

pub(super) const NETWORKS: [Architecture; 14] = [
    plain("resnet8", 8),
    plain("resnet14", 14),
    plain("resnet20", 20),
    plain("resnet32", 32),
    plain("resnet44", 44),
    plain("resnet56", 56),
    plain("resnet110", 110),
    network("resnet8x4", 8, 32, 64, Shortcut::Convolution),
    network("resnet32x4", 32, 32, 64, Shortcut::Convolution),
    padded("resnet20_a", 20),
    padded("resnet32_a", 32),
    padded("resnet44_a", 44),
    padded("resnet56_a", 56),
    padded("resnet110_a", 110),
];
