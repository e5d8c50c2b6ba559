//! ResNets with four stages: K. He et al., "Deep Residual Learning for Image Recognition", 2015, table 1.
//!
//! For large images, the first convolution, key names and strides are torchvision's (in a bottleneck, the 3×3
//! convolution has the stride). For small images, the first convolution is 3×3, and the key names are those of the code
//! that distillation papers share.

use super::builder::{GraphBuilder, NodeId, SquareKernel, Style};
use super::layout::{Layout, Pool};
use super::{Architecture, Family};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resnet {
    /// Blocks per stage.
    pub blocks: [u32; 4],
    pub block: ResnetBlock,
    /// Whether the first convolution keeps the size of the images.
    pub small_images: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResnetBlock {
    /// Two 3×3 convolutions.
    Basic,
    /// A 1×1, a 3×3 and a 1×1 convolution, the last with four times the channels.
    Bottleneck,
}

impl Resnet {
    pub(super) fn classifier(&self) -> &'static str {
        if self.small_images { "linear" } else { "fc" }
    }

    pub(super) fn layout(&self, classes: u32, side: u32) -> Layout {
        let mut net = GraphBuilder::new(side, Style::Kaiming);
        let stem = if self.small_images { SquareKernel::of(3) } else { SquareKernel::of(7).stride(2) };
        let mut x = net.conv_norm_relu(["conv1", "bn1"], net.images(), 64, stem);
        if !self.small_images {
            x = net.max_pool(x, Pool { size: 3, stride: 2, padding: 1 });
        }
        for (stage, blocks) in self.blocks.into_iter().enumerate() {
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                x = self.block(&mut net, &format!("layer{}.{block}", stage + 1), x, 64 << stage, stride);
            }
        }
        net.classifier(self.classifier(), classes)
    }

    fn block(&self, net: &mut GraphBuilder, name: &str, x: NodeId, width: u32, stride: u32) -> NodeId {
        let key = |part: &str| format!("{name}.{part}");
        let (first, second) = match self.block {
            ResnetBlock::Basic => (SquareKernel::of(3).stride(stride), SquareKernel::of(3)),
            ResnetBlock::Bottleneck => (SquareKernel::of(1), SquareKernel::of(3).stride(stride)),
        };
        let y = net.conv_norm_relu([&key("conv1"), &key("bn1")], x, width, first);
        let mut y = net.conv_norm([&key("conv2"), &key("bn2")], y, width, second);
        if self.block == ResnetBlock::Bottleneck {
            y = net.relu(y);
            y = net.conv_norm([&key("conv3"), &key("bn3")], y, 4 * width, SquareKernel::of(1));
        }
        let channels = net.channels(y);
        let mut shortcut = x;
        if stride != 1 || net.channels(x) != channels {
            let path = key(if self.small_images { "shortcut" } else { "downsample" });
            let keys = [format!("{path}.0"), format!("{path}.1")];
            shortcut = net.conv_norm([&keys[0], &keys[1]], x, channels, SquareKernel::of(1).stride(stride));
        }
        let sum = net.add(y, shortcut);
        net.relu(sum)
    }
}

const fn small(name: &'static str, blocks: [u32; 4], block: ResnetBlock) -> Architecture {
    Architecture { name, input_side: 32, family: Family::Resnet(Resnet { blocks, block, small_images: true }) }
}

const fn large(name: &'static str, blocks: [u32; 4], block: ResnetBlock) -> Architecture {
    Architecture { name, input_side: 224, family: Family::Resnet(Resnet { blocks, block, small_images: false }) }
}

/// For small images.
pub(super) const SMALL: [Architecture; 2] = [
    small("resnet18_cifar", [2, 2, 2, 2], ResnetBlock::Basic),
    small("resnet50_cifar", [3, 4, 6, 3], ResnetBlock::Bottleneck),
];

/// torchvision's networks.
pub(super) const LARGE: [Architecture; 4] = [
    large("resnet18", [2, 2, 2, 2], ResnetBlock::Basic),
    large("resnet34", [3, 4, 6, 3], ResnetBlock::Basic),
    large("resnet50", [3, 4, 6, 3], ResnetBlock::Bottleneck),
    large("resnet101", [3, 4, 23, 3], ResnetBlock::Bottleneck),
];
