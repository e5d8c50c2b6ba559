//! Builds a [`Layout`] layer by layer, with code that reads like a forward pass.

use std::fmt::Display;

use super::layout::{Convolution, Entry, Init, Layout, LayoutNode, LayoutOp, Map, Pool, Role};

/// Index of a node, which stands for the feature map it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(usize);

/// A convolution with a square kernel, padded by half its size.
#[derive(Debug, Clone, Copy)]
pub(super) struct SquareKernel {
    size: u32,
    stride: u32,
    groups: u32,
    bias: bool,
}

impl SquareKernel {
    pub(super) const fn of(size: u32) -> Self {
        Self { size, stride: 1, groups: 1, bias: false }
    }

    pub(super) const fn stride(self, stride: u32) -> Self {
        Self { stride, ..self }
    }

    pub(super) const fn groups(self, groups: u32) -> Self {
        Self { groups, ..self }
    }

    pub(super) const fn with_bias(self) -> Self {
        Self { bias: true, ..self }
    }
}

/// How a network's published code initialises its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Convolutions: Kaiming-normal, fan out. Classifier: PyTorch's default.
    Kaiming,
    /// As `Kaiming`, with the classifier's bias 0.
    KaimingZeroBias,
    /// As `Kaiming`, with the classifier N(0, 0.01) and its bias 0.
    KaimingSmallClassifier,
    /// PyTorch's default throughout.
    Default,
}

/// Collects nodes, and entries in the order of PyTorch's state dict.
pub(super) struct GraphBuilder {
    style: Style,
    entries: Vec<Entry>,
    nodes: Vec<LayoutNode>,
    macs: u64,
}

impl GraphBuilder {
    /// `side`: of the images, in pixels.
    pub(super) fn new(side: u32, style: Style) -> Self {
        let images = LayoutNode { op: LayoutOp::Images, inputs: Vec::new(), map: Map { channels: 3, side } };
        Self { style, entries: Vec::new(), nodes: vec![images], macs: 0 }
    }

    pub(super) fn images(&self) -> NodeId {
        NodeId(0)
    }

    pub(super) fn channels(&self, x: NodeId) -> u32 {
        self.nodes[x.0].map.channels
    }

    pub(super) fn conv(&mut self, key: impl Display, x: NodeId, channels: u32, kernel: SquareKernel) -> NodeId {
        let from = self.nodes[x.0].map;
        let SquareKernel { size, stride, groups, bias } = kernel;
        let padding = size / 2;
        let side = windows(from.side, Pool { size, stride, padding });
        let shape = [channels, from.channels / groups, size, size];
        let fan_in = shape[1..].iter().copied().map(u64::from).product();
        self.macs += u64::from(channels) * fan_in * u64::from(side) * u64::from(side);
        let init = if self.style == Style::Default { Init::Default { fan_in } } else { Init::KaimingFanOut };
        let geometry = Convolution { kernel: [size; 2], stride: [stride; 2], padding: [padding; 2], groups, bias };
        let weight = self.entry(format!("{key}.weight"), &shape, Role::Convolution(geometry), init);
        if bias {
            let init = if self.style == Style::Default { init } else { Init::Const(0.0) };
            self.entry(format!("{key}.bias"), &[channels], Role::ConvolutionBias, init);
        }
        self.node(LayoutOp::Convolution { weight }, &[x], Map { channels, side })
    }

    pub(super) fn norm(&mut self, key: impl Display, x: NodeId) -> NodeId {
        let map = self.nodes[x.0].map;
        let shape = [map.channels];
        let weight = self.entry(format!("{key}.weight"), &shape, Role::NormWeight, Init::Const(1.0));
        self.entry(format!("{key}.bias"), &shape, Role::NormBias, Init::Const(0.0));
        self.entry(format!("{key}.running_mean"), &shape, Role::RunningMean, Init::Const(0.0));
        self.entry(format!("{key}.running_var"), &shape, Role::RunningVar, Init::Const(1.0));
        self.node(LayoutOp::BatchNorm { weight }, &[x], map)
    }

    pub(super) fn relu(&mut self, x: NodeId) -> NodeId {
        self.node(LayoutOp::Relu, &[x], self.nodes[x.0].map)
    }

    pub(super) fn relu6(&mut self, x: NodeId) -> NodeId {
        self.node(LayoutOp::Relu6, &[x], self.nodes[x.0].map)
    }

    /// A convolution and a batch norm.
    pub(super) fn conv_norm(
        &mut self,
        [conv, norm]: [&str; 2],
        x: NodeId,
        channels: u32,
        kernel: SquareKernel,
    ) -> NodeId {
        let y = self.conv(conv, x, channels, kernel);
        self.norm(norm, y)
    }

    /// A convolution, a batch norm and a ReLU.
    pub(super) fn conv_norm_relu(&mut self, keys: [&str; 2], x: NodeId, channels: u32, kernel: SquareKernel) -> NodeId {
        let y = self.conv_norm(keys, x, channels, kernel);
        self.relu(y)
    }

    pub(super) fn add(&mut self, x: NodeId, y: NodeId) -> NodeId {
        debug_assert_eq!(self.nodes[x.0].map, self.nodes[y.0].map);
        self.node(LayoutOp::Add, &[x, y], self.nodes[x.0].map)
    }

    pub(super) fn concat(&mut self, x: NodeId, y: NodeId) -> NodeId {
        let Map { channels, side } = self.nodes[x.0].map;
        self.node(LayoutOp::Concat, &[x, y], Map { channels: channels + self.channels(y), side })
    }

    /// The first and the second half of the channels.
    pub(super) fn halves(&mut self, x: NodeId) -> (NodeId, NodeId) {
        let Map { channels, side } = self.nodes[x.0].map;
        let count = channels / 2;
        let map = Map { channels: count, side };
        let first = self.node(LayoutOp::Channels { from: 0, count }, &[x], map);
        (first, self.node(LayoutOp::Channels { from: count, count }, &[x], map))
    }

    pub(super) fn shuffle(&mut self, x: NodeId, groups: u32) -> NodeId {
        self.node(LayoutOp::Shuffle { groups }, &[x], self.nodes[x.0].map)
    }

    /// Every second pixel, padded with zero channels on both sides up to `channels`.
    pub(super) fn subsample(&mut self, x: NodeId, channels: u32) -> NodeId {
        let from = self.nodes[x.0].map;
        let zeros = (channels - from.channels) / 2;
        self.node(LayoutOp::Subsample { zeros }, &[x], Map { channels, side: from.side.div_ceil(2) })
    }

    pub(super) fn average_pool(&mut self, x: NodeId, pool: Pool) -> NodeId {
        let map = self.nodes[x.0].map;
        self.node(LayoutOp::AveragePool(pool), &[x], Map { side: windows(map.side, pool), ..map })
    }

    pub(super) fn max_pool(&mut self, x: NodeId, pool: Pool) -> NodeId {
        let map = self.nodes[x.0].map;
        self.node(LayoutOp::MaxPool(pool), &[x], Map { side: windows(map.side, pool), ..map })
    }

    /// Average pooling and a linear classifier on the last node.
    pub(super) fn classifier(mut self, key: &str, classes: u32) -> Layout {
        let map = self.nodes[self.nodes.len() - 1].map;
        let default = Init::Default { fan_in: u64::from(map.channels) };
        let (weight, bias) = match self.style {
            Style::Kaiming | Style::Default => (default, default),
            Style::KaimingZeroBias => (default, Init::Const(0.0)),
            Style::KaimingSmallClassifier => (Init::Normal(0.01), Init::Const(0.0)),
        };
        self.entry(format!("{key}.weight"), &[classes, map.channels], Role::ClassifierWeight, weight);
        self.entry(format!("{key}.bias"), &[classes], Role::ClassifierBias, bias);
        self.macs += u64::from(classes) * u64::from(map.channels);
        let trained = self.entries.iter().filter(|entry| entry.role.is_trained());
        let parameters = trained.map(|entry| entry.shape.iter().product::<u64>()).sum();
        let feature_map = [map.channels, map.side, map.side];
        Layout { entries: self.entries, nodes: self.nodes, feature_map, parameters, macs: self.macs }
    }

    fn entry(&mut self, key: String, shape: &[u32], role: Role, init: Init) -> usize {
        let shape = shape.iter().copied().map(u64::from).collect();
        self.entries.push(Entry { key, shape, role, init });
        self.entries.len() - 1
    }

    fn node(&mut self, op: LayoutOp, inputs: &[NodeId], map: Map) -> NodeId {
        let inputs = inputs.iter().map(|x| x.0).collect();
        self.nodes.push(LayoutNode { op, inputs, map });
        NodeId(self.nodes.len() - 1)
    }
}

/// Output side of a window operation; 0 if the padded map is smaller than the window.
fn windows(side: u32, Pool { size, stride, padding }: Pool) -> u32 {
    if side == 0 {
        return 0;
    }
    (side + 2 * padding).checked_sub(size).map_or(0, |room| room / stride + 1)
}
