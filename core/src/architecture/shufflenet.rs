//! ShuffleNets for small images: X. Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for
//! Mobile Devices", CVPR 2018; N. Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
//! Design", ECCV 2018. As in the code that distillation papers share, the first convolution is 1×1.

use super::builder::{GraphBuilder, NodeId, SquareKernel, Style};
use super::layout::{Layout, Pool};
use super::{Architecture, Family};

/// Channels of the first convolution.
const STEM: u32 = 24;
/// Groups of version 1's pointwise convolutions.
const GROUPS: u32 = 3;
/// (Output channels, blocks) of version 1's stages.
const V1_STAGES: [(u32, u32); 3] = [(240, 4), (480, 8), (960, 4)];
/// (Output channels, blocks) of version 2's stages.
const V2_STAGES: [(u32, u32); 3] = [(116, 4), (232, 8), (464, 4)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shufflenet {
    /// Version 1 with three groups.
    V1,
    /// Version 2 at width 1.
    V2,
}

impl Shufflenet {
    pub(super) fn layout(self, classes: u32, side: u32) -> Layout {
        let mut net = GraphBuilder::new(side, Style::Default);
        let mut x = net.conv_norm_relu(["conv1", "bn1"], net.images(), STEM, SquareKernel::of(1));
        let stages = if self == Self::V1 { V1_STAGES } else { V2_STAGES };
        for (stage, (channels, blocks)) in stages.into_iter().enumerate() {
            for block in 0..blocks {
                let name = format!("layer{}.{block}", stage + 1);
                x = match (self, block) {
                    (Self::V1, _) => v1_block(&mut net, &name, x, channels, block == 0),
                    (Self::V2, 0) => v2_down(&mut net, &name, x, channels),
                    (Self::V2, _) => v2_block(&mut net, &name, x),
                };
            }
        }
        if self == Self::V2 {
            net.conv_norm_relu(["conv2", "bn2"], x, 1024, SquareKernel::of(1));
        }
        net.classifier("linear", classes)
    }
}

/// Keys of a block's convolution and batch norm with that number.
fn keys(name: &str, number: u32) -> [String; 2] {
    [format!("{name}.conv{number}"), format!("{name}.bn{number}")]
}

/// A grouped 1×1 convolution with batch norm.
fn pointwise(net: &mut GraphBuilder, [conv, norm]: [String; 2], x: NodeId, channels: u32, groups: u32) -> NodeId {
    net.conv_norm([&conv, &norm], x, channels, SquareKernel::of(1).groups(groups))
}

/// A depthwise 3×3 convolution with batch norm.
fn depthwise(net: &mut GraphBuilder, [conv, norm]: [String; 2], x: NodeId, stride: u32) -> NodeId {
    let channels = net.channels(x);
    net.conv_norm([&conv, &norm], x, channels, SquareKernel::of(3).stride(stride).groups(channels))
}

/// A block that shrinks the map concatenates its pooled input to its output; the others add their input.
fn v1_block(net: &mut GraphBuilder, name: &str, x: NodeId, channels: u32, shrinks: bool) -> NodeId {
    let inputs = net.channels(x);
    let outputs = if shrinks { channels - inputs } else { channels };
    // The few channels of the first convolution are not grouped.
    let groups = if inputs == STEM { 1 } else { GROUPS };
    let y = pointwise(net, keys(name, 1), x, outputs / 4, groups);
    let y = net.relu(y);
    let y = net.shuffle(y, groups);
    let y = depthwise(net, keys(name, 2), y, if shrinks { 2 } else { 1 });
    let y = net.relu(y);
    let y = pointwise(net, keys(name, 3), y, outputs, GROUPS);
    let joined = if shrinks {
        let pooled = net.average_pool(x, Pool { size: 3, stride: 2, padding: 1 });
        net.concat(y, pooled)
    } else {
        net.add(y, x)
    };
    net.relu(joined)
}

fn v2_down(net: &mut GraphBuilder, name: &str, x: NodeId, channels: u32) -> NodeId {
    let left = depthwise(net, keys(name, 1), x, 2);
    let left = pointwise(net, keys(name, 2), left, channels / 2, 1);
    let left = net.relu(left);
    let right = pointwise(net, keys(name, 3), x, channels / 2, 1);
    let right = net.relu(right);
    let right = depthwise(net, keys(name, 4), right, 2);
    let right = pointwise(net, keys(name, 5), right, channels / 2, 1);
    let right = net.relu(right);
    let both = net.concat(left, right);
    net.shuffle(both, 2)
}

fn v2_block(net: &mut GraphBuilder, name: &str, x: NodeId) -> NodeId {
    let (kept, y) = net.halves(x);
    let channels = net.channels(y);
    let y = pointwise(net, keys(name, 1), y, channels, 1);
    let y = net.relu(y);
    let y = depthwise(net, keys(name, 2), y, 1);
    let y = pointwise(net, keys(name, 3), y, channels, 1);
    let y = net.relu(y);
    let both = net.concat(kept, y);
    net.shuffle(both, 2)
}

pub(super) const NETWORKS: [Architecture; 2] = [
    Architecture { name: "shufflenet_v1", input_side: 32, family: Family::Shufflenet(Shufflenet::V1) },
    Architecture { name: "shufflenet_v2", input_side: 32, family: Family::Shufflenet(Shufflenet::V2) },
];
