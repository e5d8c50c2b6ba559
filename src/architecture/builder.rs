//! Draws a network layer by layer: what reads like a forward pass becomes a [`Layout`].

use std::fmt::Display;

use super::layout::{Convolution, Entry, Init, Layout, Map, Node, Op, Pool, Role};

/// A feature map in the making: the index of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Xs(usize);

/// A square kernel, padded by half its size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    size: u32,
    stride: u32,
    groups: u32,
    bias: bool,
}

impl Kernel {
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
    /// Convolutions by their outputs, the classifier by PyTorch's default.
    Kaiming,
    /// The same, and the classifier's bias 0.
    KaimingZeroBias,
    /// Convolutions by their outputs, the classifier N(0, 0.01) with bias 0.
    KaimingSmallClassifier,
    /// PyTorch's default throughout.
    Default,
}

/// Collects entries and nodes, in the order of PyTorch's state dict.
pub(super) struct Builder {
    style: Style,
    entries: Vec<Entry>,
    nodes: Vec<Node>,
    macs: u64,
}

impl Builder {
    /// `side` of the images, in pixels.
    pub(super) fn new(side: u32, style: Style) -> Self {
        let images = Node { op: Op::Images, inputs: Vec::new(), map: Map { channels: 3, side } };
        Self { style, entries: Vec::new(), nodes: vec![images], macs: 0 }
    }

    pub(super) fn images(&self) -> Xs {
        Xs(0)
    }

    pub(super) fn channels(&self, xs: Xs) -> u32 {
        self.nodes[xs.0].map.channels
    }

    pub(super) fn conv(&mut self, key: impl Display, xs: Xs, channels: u32, kernel: Kernel) -> Xs {
        let from = self.nodes[xs.0].map;
        let Kernel { size, stride, groups, bias } = kernel;
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
        self.node(Op::Convolution { weight }, &[xs], Map { channels, side })
    }

    pub(super) fn norm(&mut self, key: impl Display, xs: Xs) -> Xs {
        let map = self.nodes[xs.0].map;
        let shape = [map.channels];
        let weight = self.entry(format!("{key}.weight"), &shape, Role::NormWeight, Init::Const(1.0));
        self.entry(format!("{key}.bias"), &shape, Role::NormBias, Init::Const(0.0));
        self.entry(format!("{key}.running_mean"), &shape, Role::RunningMean, Init::Const(0.0));
        self.entry(format!("{key}.running_var"), &shape, Role::RunningVar, Init::Const(1.0));
        self.node(Op::BatchNorm { weight }, &[xs], map)
    }

    pub(super) fn relu(&mut self, xs: Xs) -> Xs {
        self.node(Op::Relu, &[xs], self.nodes[xs.0].map)
    }

    pub(super) fn relu6(&mut self, xs: Xs) -> Xs {
        self.node(Op::Relu6, &[xs], self.nodes[xs.0].map)
    }

    /// A convolution and its batch norm.
    pub(super) fn conv_norm(&mut self, [conv, norm]: [&str; 2], xs: Xs, channels: u32, kernel: Kernel) -> Xs {
        let ys = self.conv(conv, xs, channels, kernel);
        self.norm(norm, ys)
    }

    /// A convolution, its batch norm and a ReLU.
    pub(super) fn conv_norm_relu(&mut self, keys: [&str; 2], xs: Xs, channels: u32, kernel: Kernel) -> Xs {
        let ys = self.conv_norm(keys, xs, channels, kernel);
        self.relu(ys)
    }

    pub(super) fn add(&mut self, xs: Xs, ys: Xs) -> Xs {
        debug_assert_eq!(self.nodes[xs.0].map, self.nodes[ys.0].map);
        self.node(Op::Add, &[xs, ys], self.nodes[xs.0].map)
    }

    pub(super) fn concat(&mut self, xs: Xs, ys: Xs) -> Xs {
        let Map { channels, side } = self.nodes[xs.0].map;
        self.node(Op::Concat, &[xs, ys], Map { channels: channels + self.channels(ys), side })
    }

    /// The first half of the channels, and the second.
    pub(super) fn halves(&mut self, xs: Xs) -> (Xs, Xs) {
        let Map { channels, side } = self.nodes[xs.0].map;
        let count = channels / 2;
        let map = Map { channels: count, side };
        let first = self.node(Op::Channels { from: 0, count }, &[xs], map);
        (first, self.node(Op::Channels { from: count, count }, &[xs], map))
    }

    pub(super) fn shuffle(&mut self, xs: Xs, groups: u32) -> Xs {
        self.node(Op::Shuffle { groups }, &[xs], self.nodes[xs.0].map)
    }

    /// Every second pixel, with zeros around the channels so that there are `channels`.
    pub(super) fn subsample(&mut self, xs: Xs, channels: u32) -> Xs {
        let from = self.nodes[xs.0].map;
        let zeros = (channels - from.channels) / 2;
        self.node(Op::Subsample { zeros }, &[xs], Map { channels, side: from.side.div_ceil(2) })
    }

    pub(super) fn average_pool(&mut self, xs: Xs, pool: Pool) -> Xs {
        let map = self.nodes[xs.0].map;
        self.node(Op::AveragePool(pool), &[xs], Map { side: windows(map.side, pool), ..map })
    }

    pub(super) fn max_pool(&mut self, xs: Xs, pool: Pool) -> Xs {
        let map = self.nodes[xs.0].map;
        self.node(Op::MaxPool(pool), &[xs], Map { side: windows(map.side, pool), ..map })
    }

    /// The classifier, behind the node that was made last.
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

    fn node(&mut self, op: Op, inputs: &[Xs], map: Map) -> Xs {
        let inputs = inputs.iter().map(|xs| xs.0).collect();
        self.nodes.push(Node { op, inputs, map });
        Xs(self.nodes.len() - 1)
    }
}

/// How many windows fit side by side; none where the padded map is smaller than one.
fn windows(side: u32, Pool { size, stride, padding }: Pool) -> u32 {
    if side == 0 {
        return 0;
    }
    (side + 2 * padding).checked_sub(size).map_or(0, |room| room / stride + 1)
}
