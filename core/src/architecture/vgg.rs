//! VGG with batch norm, for small images: K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for
//! Large-Scale Image Recognition", ICLR 2015. As in the code that distillation papers share, with a single linear
//! layer.

use super::builder::{GraphBuilder, SquareKernel, Style};
use super::layout::{Layout, Pool};
use super::{Architecture, Family};

/// Channels per block.
const CHANNELS: [u32; 5] = [64, 128, 256, 512, 512];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vgg {
    /// Convolutions per block.
    pub convolutions: [u32; 5],
}

impl Vgg {
    pub(super) fn layout(&self, classes: u32, side: u32) -> Layout {
        let mut net = GraphBuilder::new(side, Style::KaimingSmallClassifier);
        let mut x = net.images();
        for (block, channels) in CHANNELS.into_iter().enumerate() {
            // The last two blocks have maps of the same size.
            if (1..4).contains(&block) {
                x = net.max_pool(x, Pool { size: 2, stride: 2, padding: 0 });
            }
            for layer in 0..self.convolutions[block] {
                let keys = [format!("block{block}.{}", 3 * layer), format!("block{block}.{}", 3 * layer + 1)];
                x = net.conv_norm_relu([&keys[0], &keys[1]], x, channels, SquareKernel::of(3).with_bias());
            }
        }
        net.classifier("classifier", classes)
    }
}

const fn network(name: &'static str, convolutions: [u32; 5]) -> Architecture {
    Architecture { name, input_side: 32, family: Family::Vgg(Vgg { convolutions }) }
}

pub(super) const NETWORKS: [Architecture; 5] = [
    network("vgg8", [1, 1, 1, 1, 1]),
    network("vgg11", [1, 1, 2, 2, 2]),
    network("vgg13", [2, 2, 2, 2, 2]),
    network("vgg16", [2, 2, 3, 3, 3]),
    network("vgg19", [2, 2, 4, 4, 4]),
];
