//! MobileNets: A. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
//! 2017; M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.

use super::builder::{GraphBuilder, NodeId, SquareKernel, Style};
use super::layout::Layout;
use super::{Architecture, Family};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mobilenet {
    /// Version 1, for large images.
    V1,
    /// Version 2 with torchvision's names, for large images.
    V2,
    /// Version 2 at half width for small images: ReLU instead of ReLU6, fewer strides, and the key names of the code
    /// that distillation papers share.
    V2Half,
}

/// (Output channels, stride) of version 1's separable convolutions.
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

/// A stage of version 2.
#[derive(Clone, Copy)]
struct V2Stage {
    /// Factor from the block's input channels to its hidden channels.
    expand: u32,
    /// Output channels at full width.
    channels: u32,
    blocks: u32,
    /// Stride of the first block, for large images.
    stride: u32,
    /// Stride of the first block, for small images.
    small_stride: u32,
}

const V2_STAGES: [V2Stage; 7] = [
    V2Stage { expand: 1, channels: 16, blocks: 1, stride: 1, small_stride: 1 },
    V2Stage { expand: 6, channels: 24, blocks: 2, stride: 2, small_stride: 1 },
    V2Stage { expand: 6, channels: 32, blocks: 3, stride: 2, small_stride: 2 },
    V2Stage { expand: 6, channels: 64, blocks: 4, stride: 2, small_stride: 2 },
    V2Stage { expand: 6, channels: 96, blocks: 3, stride: 1, small_stride: 1 },
    V2Stage { expand: 6, channels: 160, blocks: 3, stride: 2, small_stride: 2 },
    V2Stage { expand: 6, channels: 320, blocks: 1, stride: 1, small_stride: 1 },
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
        let mut net = GraphBuilder::new(side, Style::KaimingSmallClassifier);
        match self {
            Self::V1 => v1(&mut net),
            Self::V2 => v2(&mut net),
            Self::V2Half => v2_half(&mut net),
        };
        net.classifier(self.classifier(), classes)
    }
}

fn v1(net: &mut GraphBuilder) -> NodeId {
    let mut x = net.conv_norm_relu(["model.0.0", "model.0.1"], net.images(), 32, SquareKernel::of(3).stride(2));
    for (block, (channels, stride)) in V1_BLOCKS.into_iter().enumerate() {
        let key = |part: u32| format!("model.{}.{part}", block + 1);
        let inputs = net.channels(x);
        x = net.conv_norm_relu([&key(0), &key(1)], x, inputs, SquareKernel::of(3).stride(stride).groups(inputs));
        x = net.conv_norm_relu([&key(3), &key(4)], x, channels, SquareKernel::of(1));
    }
    x
}

fn v2(net: &mut GraphBuilder) -> NodeId {
    let stem = net.conv_norm(["features.0.0", "features.0.1"], net.images(), 32, SquareKernel::of(3).stride(2));
    let mut x = net.relu6(stem);
    let mut index = 0;
    for V2Stage { expand, channels, blocks, stride, .. } in V2_STAGES {
        for block in 0..blocks {
            index += 1;
            let inputs = net.channels(x);
            let hidden = inputs * expand;
            let stride = if block == 0 { stride } else { 1 };
            let mut part = 0;
            let mut y = x;
            if expand != 1 {
                let key = |layer: u32| format!("features.{index}.conv.0.{layer}");
                let conv = net.conv_norm([&key(0), &key(1)], y, hidden, SquareKernel::of(1));
                y = net.relu6(conv);
                part = 1;
            }
            let key = |layer: u32| format!("features.{index}.conv.{part}.{layer}");
            let depthwise = SquareKernel::of(3).stride(stride).groups(hidden);
            let conv = net.conv_norm([&key(0), &key(1)], y, hidden, depthwise);
            y = net.relu6(conv);
            let key = |layer: u32| format!("features.{index}.conv.{layer}");
            y = net.conv_norm([&key(part + 1), &key(part + 2)], y, channels, SquareKernel::of(1));
            x = if stride == 1 && inputs == channels { net.add(x, y) } else { y };
        }
    }
    let last = net.conv_norm(["features.18.0", "features.18.1"], x, 1280, SquareKernel::of(1));
    net.relu6(last)
}

fn v2_half(net: &mut GraphBuilder) -> NodeId {
    let mut x = net.conv_norm_relu(["conv1.0", "conv1.1"], net.images(), 16, SquareKernel::of(3).stride(2));
    for (stage, V2Stage { expand, channels, blocks, small_stride, .. }) in V2_STAGES.into_iter().enumerate() {
        for block in 0..blocks {
            let key = |layer: u32| format!("blocks.{stage}.{block}.conv.{layer}");
            let (inputs, channels) = (net.channels(x), channels / 2);
            let hidden = inputs * expand;
            let stride = if block == 0 { small_stride } else { 1 };
            let y = net.conv_norm_relu([&key(0), &key(1)], x, hidden, SquareKernel::of(1));
            let depthwise = SquareKernel::of(3).stride(stride).groups(hidden);
            let y = net.conv_norm_relu([&key(3), &key(4)], y, hidden, depthwise);
            let y = net.conv_norm([&key(6), &key(7)], y, channels, SquareKernel::of(1));
            x = if stride == 1 && inputs == channels { net.add(x, y) } else { y };
        }
    }
    net.conv_norm_relu(["conv2.0", "conv2.1"], x, 1280, SquareKernel::of(1))
}

const fn network(name: &'static str, input_side: u32, network: Mobilenet) -> Architecture {
    Architecture { name, input_side, family: Family::Mobilenet(network) }
}

/// For small images.
pub(super) const SMALL: [Architecture; 1] = [network("mobilenet_v2", 32, Mobilenet::V2Half)];

/// For large images.
pub(super) const LARGE: [Architecture; 2] =
    [network("mobilenet_v1", 224, Mobilenet::V1), network("mobilenet_v2_224", 224, Mobilenet::V2)];
