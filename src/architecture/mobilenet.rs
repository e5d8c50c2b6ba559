//! MobileNets: A. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
//! 2017; M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.

use super::builder::{Builder, Kernel, NodeId, Style};
use super::layout::Layout;
use super::{Architecture, Family};

/// One network of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mobilenet {
    /// Version 1, for large images.
    V1,
    /// Version 2 with torchvision's names, for large images.
    V2,
    /// Version 2 at half width for small images: ReLU instead of ReLU6, fewer strides, names of the distillation
    /// literature's code.
    V2Half,
}

/// Outputs and strides of version 1's separable convolutions.
const V1_BLOCKS: [(u32, u32); 13] = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
];

/// Of each stage of version 2: factor of the hidden channels, outputs, blocks, stride of the first on large images, and on
/// small ones.
const V2_STAGES: [(u32, u32, u32, u32, u32); 7] = [
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 2),
    (6, 64, 4, 2, 2),
    (6, 96, 3, 1, 1),
    (6, 160, 3, 2, 2),
    (6, 320, 1, 1, 1),
];

impl Mobilenet {
    pub(super) fn classifier(self) -> &'static str {
        match self {
            Self::V1 => "fc",
            Self::V2 => "classifier.1",
            Self::V2Half => "classifier.0",
        }
    }

    pub(super) fn layout(self, classes: u32, side: u32) -> Layout {
        let mut net = Builder::new(side, Style::KaimingSmallClassifier);
        match self {
            Self::V1 => v1(&mut net),
            Self::V2 => v2(&mut net),
            Self::V2Half => v2_half(&mut net),
        };
        net.classifier(self.classifier(), classes)
    }
}

fn v1(net: &mut Builder) -> NodeId {
    let mut x = net.conv_norm_relu(["model.0.0", "model.0.1"], net.images(), 32, Kernel::of(3).stride(2));
    for (block, (channels, stride)) in V1_BLOCKS.into_iter().enumerate() {
        let key = |part: u32| format!("model.{}.{part}", block + 1);
        let inputs = net.channels(x);
        x = net.conv_norm_relu([&key(0), &key(1)], x, inputs, Kernel::of(3).stride(stride).groups(inputs));
        x = net.conv_norm_relu([&key(3), &key(4)], x, channels, Kernel::of(1));
    }
    x
}

fn v2(net: &mut Builder) -> NodeId {
    let stem = net.conv_norm(["features.0.0", "features.0.1"], net.images(), 32, Kernel::of(3).stride(2));
    let mut x = net.relu6(stem);
    let mut index = 0;
    for (expand, channels, blocks, stride, _) in V2_STAGES {
        for block in 0..blocks {
            index += 1;
            let inputs = net.channels(x);
            let hidden = inputs * expand;
            let stride = if block == 0 { stride } else { 1 };
            let mut part = 0;
            let mut y = x;
            if expand != 1 {
                let key = |layer: u32| format!("features.{index}.conv.0.{layer}");
                let conv = net.conv_norm([&key(0), &key(1)], y, hidden, Kernel::of(1));
                y = net.relu6(conv);
                part = 1;
            }
            let key = |layer: u32| format!("features.{index}.conv.{part}.{layer}");
            let depthwise = Kernel::of(3).stride(stride).groups(hidden);
            let conv = net.conv_norm([&key(0), &key(1)], y, hidden, depthwise);
            y = net.relu6(conv);
            let key = |layer: u32| format!("features.{index}.conv.{layer}");
            y = net.conv_norm([&key(part + 1), &key(part + 2)], y, channels, Kernel::of(1));
            x = if stride == 1 && inputs == channels { net.add(x, y) } else { y };
        }
    }
    let last = net.conv_norm(["features.18.0", "features.18.1"], x, 1280, Kernel::of(1));
    net.relu6(last)
}

fn v2_half(net: &mut Builder) -> NodeId {
    let mut x = net.conv_norm_relu(["conv1.0", "conv1.1"], net.images(), 16, Kernel::of(3).stride(2));
    for (stage, (expand, channels, blocks, _, stride)) in V2_STAGES.into_iter().enumerate() {
        for block in 0..blocks {
            let key = |layer: u32| format!("blocks.{stage}.{block}.conv.{layer}");
            let (inputs, channels) = (net.channels(x), channels / 2);
            let hidden = inputs * expand;
            let stride = if block == 0 { stride } else { 1 };
            let y = net.conv_norm_relu([&key(0), &key(1)], x, hidden, Kernel::of(1));
            let depthwise = Kernel::of(3).stride(stride).groups(hidden);
            let y = net.conv_norm_relu([&key(3), &key(4)], y, hidden, depthwise);
            let y = net.conv_norm([&key(6), &key(7)], y, channels, Kernel::of(1));
            x = if stride == 1 && inputs == channels { net.add(x, y) } else { y };
        }
    }
    net.conv_norm_relu(["conv2.0", "conv2.1"], x, 1280, Kernel::of(1))
}

const fn network(name: &'static str, input_side: u32, network: Mobilenet) -> Architecture {
    Architecture { name, input_side, family: Family::Mobilenet(network) }
}

/// The network for small images.
pub(super) const SMALL: [Architecture; 1] = [network("mobilenet_v2", 32, Mobilenet::V2Half)];

/// The networks for large images.
pub(super) const LARGE: [Architecture; 2] =
    [network("mobilenet_v1", 224, Mobilenet::V1), network("mobilenet_v2_224", 224, Mobilenet::V2)];
