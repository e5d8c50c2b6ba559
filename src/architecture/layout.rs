//! What a network is made of, written down while its layers are walked once.

/// A network at some number of classes and input size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The state dict in PyTorch's order, without `num_batches_tracked`.
    pub entries: Vec<Entry>,
    /// Channels, height and width of the map that is pooled and classified.
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
}

/// One tensor of the state dict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// PyTorch's key.
    pub key: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// What it does.
    pub role: Role,
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

/// A feature map on its way through the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) channels: u32,
    pub(super) side: u32,
}

/// Collects the entries of a network.
pub(super) struct Builder {
    entries: Vec<Entry>,
    macs: u64,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), macs: 0 }
    }

    fn push(&mut self, key: String, shape: &[u32], role: Role) {
        let shape = shape.iter().copied().map(u64::from).collect();
        self.entries.push(Entry { key, shape, role });
    }

    /// A square convolution without bias, padded by half its kernel, followed by a batch norm.
    pub(super) fn conv_norm(
        &mut self,
        [conv, norm]: [&str; 2],
        from: Map,
        channels: u32,
        kernel: u32,
        stride: u32,
    ) -> Map {
        let padding = kernel / 2;
        let side = (from.side + 2 * padding - kernel) / stride + 1;
        let geometry =
            Convolution { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2], groups: 1, bias: false };
        let shape = [channels, from.channels, kernel, kernel];
        self.macs += shape.iter().copied().map(u64::from).product::<u64>() * u64::from(side) * u64::from(side);
        self.push(format!("{conv}.weight"), &shape, Role::Convolution(geometry));
        let parts = [
            ("weight", Role::NormWeight),
            ("bias", Role::NormBias),
            ("running_mean", Role::RunningMean),
            ("running_var", Role::RunningVar),
        ];
        for (part, role) in parts {
            self.push(format!("{norm}.{part}"), &[channels], role);
        }
        Map { channels, side }
    }

    /// The classifier, which ends the network.
    pub(super) fn classifier(mut self, name: &str, from: Map, classes: u32) -> Layout {
        self.push(format!("{name}.weight"), &[classes, from.channels], Role::ClassifierWeight);
        self.push(format!("{name}.bias"), &[classes], Role::ClassifierBias);
        self.macs += u64::from(classes) * u64::from(from.channels);
        let trained = self.entries.iter().filter(|entry| entry.role.is_trained());
        let parameters = trained.map(|entry| entry.shape.iter().product::<u64>()).sum();
        let feature_map = [from.channels, from.side, from.side];
        Layout { entries: self.entries, feature_map, parameters, macs: self.macs }
    }
}
