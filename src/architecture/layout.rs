//! A network as data: its state dict and the graph that leads from images to the final feature map.
//!
//! One description serves all: the API counts with it, checkpoints are held against it, and the trainer runs it.

/// A network at some number of classes and input size.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// The state dict in PyTorch's order, without `num_batches_tracked`. The classifier's weight and bias come last.
    pub entries: Vec<Entry>,
    /// From the images (the first) to the final feature map (the last), each after those that it takes.
    pub nodes: Vec<Node>,
    /// Channels, height and width of the map that is pooled and classified. A side of 0: the images are too small.
    pub feature_map: [u32; 3],
    /// Trained parameters: running statistics are not among them.
    pub parameters: u64,
    /// Multiply-accumulates of convolutions and classifier for one image.
    pub macs: u64,
}

impl Layout {
    /// The entry of that key.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Every convolution with the key of its weight, in order.
    pub fn convolutions(&self) -> impl Iterator<Item = (&str, &Convolution)> {
        self.entries.iter().filter_map(|entry| match &entry.role {
            Role::Convolution(convolution) => Some((entry.key.as_str(), convolution)),
            _ => None,
        })
    }

    /// Elements of the maps of one image that training keeps for the gradients. ReLUs work in place, and a sum needs
    /// nothing of what it added.
    #[must_use]
    pub fn kept_elements(&self) -> u64 {
        let mut needed = vec![false; self.nodes.len()];
        for node in self.nodes.iter().filter(|node| node.op != Op::Add) {
            for &input in &node.inputs {
                needed[input] = true;
            }
        }
        let kept = self.nodes.iter().zip(needed).skip(1).filter(|(node, needed)| *needed && !node.op.is_in_place());
        kept.map(|(node, _)| node.map.elements()).sum()
    }

    /// Elements of the maps of one image that a forward pass without gradients holds at its widest moment.
    #[must_use]
    pub fn peak_elements(&self) -> u64 {
        let last_use = self.last_use();
        let (mut live, mut peak) = (self.nodes[0].map.elements(), 0);
        for (index, node) in self.nodes.iter().enumerate().skip(1) {
            live += node.map.elements();
            // A ReLU takes the place of its input.
            let ended = |input: &&usize| last_use[**input] == index;
            let freed: u64 = node.inputs.iter().filter(ended).map(|&input| self.nodes[input].map.elements()).sum();
            peak = peak.max(if node.op.is_in_place() { live - freed } else { live });
            live -= freed;
        }
        peak
    }

    /// For each node, the last node that takes it; itself where none does.
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
    /// Its shape.
    pub shape: Vec<u64>,
    /// What it does.
    pub role: Role,
    /// How it starts.
    pub init: Init,
}

/// How a tensor starts before training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// The same value everywhere.
    Const(f32),
    /// Kaiming-normal by outputs, of convolutions: N(0, sqrt(2 / (kernel² · outputs))).
    KaimingFanOut,
    /// N(0, deviation).
    Normal(f32),
    /// PyTorch's default for convolutions and linear layers, weight and bias alike: U(±1 / sqrt(fan in)).
    Default {
        /// Inputs that one output depends on.
        fan_in: u64,
    },
}

/// What a tensor of the state dict does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Weight of a convolution.
    Convolution(Convolution),
    /// Bias of a convolution.
    ConvolutionBias,
    /// Factor of a batch norm.
    NormWeight,
    /// Offset of a batch norm.
    NormBias,
    /// Running mean of a batch norm; not trained.
    RunningMean,
    /// Running variance of a batch norm; not trained.
    RunningVar,
    /// Weight of the classifier.
    ClassifierWeight,
    /// Bias of the classifier.
    ClassifierBias,
}

impl Role {
    /// Whether an optimiser changes it.
    #[must_use]
    pub fn is_trained(self) -> bool {
        !matches!(self, Self::RunningMean | Self::RunningVar)
    }
}

/// Geometry of a convolution; height before width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    /// Size of the kernel.
    pub kernel: [u32; 2],
    /// Stride.
    pub stride: [u32; 2],
    /// Zeros added on each side.
    pub padding: [u32; 2],
    /// Groups; 1 where every output sees every input.
    pub groups: u32,
    /// Whether it has a bias.
    pub bias: bool,
}

/// One step of the graph, and the feature map that it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// What it does that to: indices of earlier nodes.
    pub inputs: Vec<usize>,
    /// What comes out.
    pub map: Map,
}

/// Size of a feature map [B, channels, side, side].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// Channels.
    pub channels: u32,
    /// Height and width.
    pub side: u32,
}

impl Map {
    fn elements(self) -> u64 {
        u64::from(self.channels) * u64::from(self.side) * u64::from(self.side)
    }
}

/// What a node does. Weights are named by the index of their first entry in the state dict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// The images [B, 3, H, W].
    Images,
    /// A convolution: its weight, followed by its bias where it has one.
    Convolution {
        /// Index of the weight's entry, which has the geometry.
        weight: usize,
    },
    /// Batch norm with PyTorch's momentum 0.1 and epsilon 1e-5: factor, offset, running mean, running variance.
    BatchNorm {
        /// Index of the factor's entry.
        weight: usize,
    },
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
    /// The sum of two maps.
    Add,
    /// The channels of two maps, one after the other.
    Concat,
    /// A range of channels.
    Channels {
        /// The first.
        from: u32,
        /// How many.
        count: u32,
    },
    /// Channel c of group g moves to place c·groups + g.
    Shuffle {
        /// Groups that the channels are in before.
        groups: u32,
    },
    /// Every second pixel, between so many channels of zeros on each side.
    Subsample {
        /// Channels added on each side.
        zeros: u32,
    },
    /// The mean of each window, padding counted as zeros.
    AveragePool(Pool),
    /// The maximum of each window.
    MaxPool(Pool),
}

impl Op {
    /// Whether the result takes the place of the input, where nothing else needs that.
    #[must_use]
    pub fn is_in_place(self) -> bool {
        matches!(self, Self::Relu | Self::Relu6)
    }
}

/// A square window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Its side.
    pub size: u32,
    /// Its step.
    pub stride: u32,
    /// Pixels added on each side.
    pub padding: u32,
}
