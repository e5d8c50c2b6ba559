//! A network as data: its state dict and the graph from images to the final feature map.
//!
//! This one description has three uses: the API counts parameters and operations, checkpoints are compared with it, and
//! the trainer runs it.

/// A network with a given number of classes and input size.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// The state dict in PyTorch's order, without `num_batches_tracked`. The classifier's weight and bias come last.
    pub entries: Vec<Entry>,
    /// In topological order: the images first, the final feature map last.
    pub nodes: Vec<LayoutNode>,
    /// Channels, height and width of the final feature map, which is pooled and classified. A side of 0 means that the
    /// images are too small.
    pub feature_map: [u32; 3],
    /// Number of trained parameters, without running statistics.
    pub parameters: u64,
    /// Multiply-accumulate operations of convolutions and classifier per image.
    pub macs: u64,
}

impl Layout {
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// All convolutions with the keys of their weights, in order.
    pub fn convolutions(&self) -> impl Iterator<Item = (&str, &Convolution)> {
        self.entries.iter().filter_map(|entry| match &entry.role {
            Role::Convolution(convolution) => Some((entry.key.as_str(), convolution)),
            _ => None,
        })
    }

    /// Elements per image of the feature maps that training keeps for the gradients. ReLUs work in place, and the
    /// gradient of a sum does not need its inputs.
    #[must_use]
    pub fn kept_elements(&self) -> u64 {
        let mut needed = vec![false; self.nodes.len()];
        for node in self.nodes.iter().filter(|node| node.op != LayoutOp::Add) {
            for &input in &node.inputs {
                needed[input] = true;
            }
        }
        let kept = self.nodes.iter().zip(needed).skip(1).filter(|(node, needed)| *needed && !node.op.is_in_place());
        kept.map(|(node, _)| node.map.elements()).sum()
    }

    /// Peak number of elements per image of the feature maps that a forward pass without gradients holds at a time.
    #[must_use]
    pub fn peak_elements(&self) -> u64 {
        let last_use = self.last_use();
        let (mut live, mut peak) = (self.nodes[0].map.elements(), 0);
        for (index, node) in self.nodes.iter().enumerate().skip(1) {
            live += node.map.elements();
            // A ReLU overwrites its input.
            let ended = |input: &&usize| last_use[**input] == index;
            let freed: u64 = node.inputs.iter().filter(ended).map(|&input| self.nodes[input].map.elements()).sum();
            peak = peak.max(if node.op.is_in_place() { live - freed } else { live });
            live -= freed;
        }
        peak
    }

    /// For each node, the last node that uses it, or itself if none does.
    #[must_use]
    pub fn last_use(&self) -> Vec<usize> {
        let mut last: Vec<usize> = (0..self.nodes.len()).collect();
        for (index, node) in self.nodes.iter().enumerate() {
            for &input in &node.inputs {
                last[input] = index;
            }
        }
        last
    }
}

/// One tensor of the state dict.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// PyTorch's key.
    pub key: String,
    pub shape: Vec<u64>,
    pub role: Role,
    pub init: Init,
}

/// How a tensor is initialised before training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// The same value everywhere.
    Const(f32),
    /// Kaiming-normal with fan out, for convolutions: N(0, sqrt(2 / (kernel² · outputs))).
    KaimingFanOut,
    /// N(0, standard deviation).
    Normal(f32),
    /// PyTorch's default for convolutions and linear layers, weight and bias alike: U(±1 / sqrt(fan in)).
    Default {
        /// Number of inputs that one output depends on.
        fan_in: u64,
    },
}

/// The role of a tensor in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Convolution(Convolution),
    ConvolutionBias,
    /// Scale of a batch norm.
    NormWeight,
    /// Shift of a batch norm.
    NormBias,
    /// A statistic of a batch norm, which is not trained.
    RunningMean,
    /// A statistic of a batch norm, which is not trained.
    RunningVar,
    ClassifierWeight,
    ClassifierBias,
}

impl Role {
    /// Whether the optimiser changes it.
    #[must_use]
    pub fn is_trained(self) -> bool {
        !matches!(self, Self::RunningMean | Self::RunningVar)
    }
}

/// Geometry of a convolution. Pairs are height, width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    pub kernel: [u32; 2],
    pub stride: [u32; 2],
    /// Zeros added on each side.
    pub padding: [u32; 2],
    /// 1 if every output depends on every input.
    pub groups: u32,
    pub bias: bool,
}

/// One operation of the graph, and the feature map it computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutNode {
    pub op: LayoutOp,
    /// Indices of earlier nodes.
    pub inputs: Vec<usize>,
    pub map: Map,
}

/// Shape of a feature map: [B, channels, side, side].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    pub channels: u32,
    pub side: u32,
}

impl Map {
    fn elements(self) -> u64 {
        u64::from(self.channels) * u64::from(self.side) * u64::from(self.side)
    }
}

/// An operation. Weights are given by the index of their first entry in the state dict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutOp {
    /// The images [B, 3, H, W].
    Images,
    /// Entries: the weight, and the bias if there is one.
    Convolution {
        /// Index of the weight's entry, whose role has the geometry.
        weight: usize,
    },
    /// With PyTorch's momentum 0.1 and epsilon 1e-5. Entries: scale, shift, running mean, running variance.
    BatchNorm {
        /// Index of the scale's entry.
        weight: usize,
    },
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
    /// The sum of two maps.
    Add,
    /// Concatenation of two maps by channels.
    Concat,
    /// A range of channels.
    Channels {
        /// The first channel.
        from: u32,
        count: u32,
    },
    /// Moves channel c of group g to position c·groups + g.
    Shuffle {
        /// Groups of the input.
        groups: u32,
    },
    /// Every second pixel, with channels of zeros added on both sides.
    Subsample {
        /// Channels added on each side.
        zeros: u32,
    },
    /// The mean of each window; padding counts as zeros.
    AveragePool(Pool),
    MaxPool(Pool),
}

impl LayoutOp {
    /// Whether the operation overwrites its input, if nothing else needs that.
    #[must_use]
    pub fn is_in_place(self) -> bool {
        matches!(self, Self::Relu | Self::Relu6)
    }
}

/// A square window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Side of the window.
    pub size: u32,
    pub stride: u32,
    /// Pixels added on each side.
    pub padding: u32,
}
