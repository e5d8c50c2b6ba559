//! The deep ResNets: K. He et al., "Deep Residual Learning for Image Recognition", 2015, table 1.
//!
//! For large images with torchvision's stem, names and strides (the 3×3 convolution of a bottleneck is the one with the
//! stride); for small ones with a 3×3 stem and the names of the distillation literature's code.

use super::builder::{Builder, Kernel, NodeId, Style};
use super::layout::{Layout, Pool};
use super::{Architecture, Family};

/// One network of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resnet {
    /// Blocks of each of the four stages.
    pub blocks: [u32; 4],
    /// Whether a block is 1×1, 3×3 and 1×1 convolutions, the last with four times the channels, instead of two 3×3 ones.
    pub bottleneck: bool,
    /// Whether the stem keeps the size of the images.
    pub small_images: bool,
}

impl Resnet {
    pub(super) fn classifier(&self) -> &'static str {
        if self.small_images { "linear" } else { "fc" }
    }

    pub(super) fn layout(&self, classes: u32, side: u32) -> Layout {
        let mut net = Builder::new(side, Style::Kaiming);
        let stem = if self.small_images { Kernel::of(3) } else { Kernel::of(7).stride(2) };
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

    fn block(&self, net: &mut Builder, name: &str, x: NodeId, width: u32, stride: u32) -> NodeId {
        let key = |part: &str| format!("{name}.{part}");
        let (first, second) = if self.bottleneck {
            (Kernel::of(1), Kernel::of(3).stride(stride))
        } else {
            (Kernel::of(3).stride(stride), Kernel::of(3))
        };
        let y = net.conv_norm_relu([&key("conv1"), &key("bn1")], x, width, first);
        let mut y = net.conv_norm([&key("conv2"), &key("bn2")], y, width, second);
        if self.bottleneck {
            y = net.relu(y);
            y = net.conv_norm([&key("conv3"), &key("bn3")], y, 4 * width, Kernel::of(1));
        }
        let channels = net.channels(y);
        let mut shortcut = x;
        if stride != 1 || net.channels(x) != channels {
            let path = key(if self.small_images { "shortcut" } else { "downsample" });
            let keys = [format!("{path}.0"), format!("{path}.1")];
            shortcut = net.conv_norm([&keys[0], &keys[1]], x, channels, Kernel::of(1).stride(stride));
        }
        let sum = net.add(y, shortcut);
        net.relu(sum)
    }
}

const fn network(name: &'static str, blocks: [u32; 4], bottleneck: bool, small_images: bool) -> Architecture {
    let family = Family::Resnet(Resnet { blocks, bottleneck, small_images });
    Architecture { name, input_side: if small_images { 32 } else { 224 }, family }
}

/// The networks for small images.
pub(super) const SMALL: [Architecture; 2] =
    [network("resnet18_cifar", [2, 2, 2, 2], false, true), network("resnet50_cifar", [3, 4, 6, 3], true, true)];

/// torchvision's networks.
pub(super) const LARGE: [Architecture; 4] = [
    network("resnet18", [2, 2, 2, 2], false, false),
    network("resnet34", [3, 4, 6, 3], false, false),
    network("resnet50", [3, 4, 6, 3], true, false),
    network("resnet101", [3, 4, 23, 3], true, false),
];
