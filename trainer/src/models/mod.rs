//! The networks of [`distillery_core::architecture`] as tensors: the graph described there runs here.
//!
//! A network is two functions, because SDD classifies regions of the feature map: [`Network::features`] and
//! [`Network::classify`].

mod forward;
mod frozen;
mod fusion;
mod init;
pub mod state_dict;
mod weight;

use tch::{Device, Kind, Tensor, no_grad};

use crate::loss::sdd::{Regions, classify_regions};
use distillery_core::architecture::{Architecture, Entry, Layout};
use forward::channels_last;
use frozen::Frozen;
use fusion::{FusedNode, Purpose};
pub use weight::Weight;

/// A network and its weights.
pub struct Network {
    architecture: &'static Architecture,
    classes: u32,
    layout: Layout,
    nodes: Vec<FusedNode>,
    weights: Vec<Weight>,
    compute: Kind,
    frozen: Option<Frozen>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with {} classes", self.architecture.name, self.classes)
    }
}

/// Builds a network with the initial weights of `seed`, on the CPU in float32.
#[must_use]
pub fn build(architecture: &'static Architecture, classes: u32, seed: u64) -> Network {
    // The graph is the same for every input size; only the sizes of its maps differ.
    let layout = architecture.layout(classes);
    let weight = |(entry, index): (&Entry, u64)| {
        let trained = entry.role.is_trained();
        let tensor = init::initial(entry, index, seed).set_requires_grad(trained);
        Weight { name: entry.key.clone(), tensor, trained }
    };
    let weights = layout.entries.iter().zip(0..).map(weight).collect();
    let nodes = fusion::fuse(&layout, Purpose::Training);
    Network { architecture, classes, layout, nodes, weights, compute: Kind::Float, frozen: None }
}

impl Network {
    /// The final feature maps [B, C, H', W'] of `images` [B, 3, H, W], in the kind of the weights.
    pub fn features(&self, images: &Tensor, train: bool) -> Tensor {
        let images = channels_last(&images.to_kind(self.compute));
        let maps = match &self.frozen {
            Some(frozen) => frozen.forward(&images),
            None => forward::forward(&self.layout, &self.nodes, &self.weights, &images, train),
        };
        maps.to_kind(self.classifier()[0].tensor.kind())
    }

    /// Logits [*, K] of pooled features [*, C] of any kind, in the kind of the weights.
    pub fn classify(&self, pooled: &Tensor) -> Tensor {
        let [weight, bias] = self.classifier();
        pooled.to_kind(weight.tensor.kind()).linear(&weight.tensor, Some(&bias.tensor))
    }

    fn classifier(&self) -> &[Weight; 2] {
        self.weights.last_chunk().expect("the classifier ends the state dict")
    }

    /// Logits [B, K] of whole images [B, 3, H, W].
    pub fn logits(&self, images: &Tensor, train: bool) -> Tensor {
        self.classify_map(&self.features(images, train))
    }

    /// Logits [B, K] of feature maps [B, C, H, W].
    pub fn classify_map(&self, features: &Tensor) -> Tensor {
        self.classify(&features.mean_dim([2_i64, 3].as_slice(), false, None::<Kind>))
    }

    /// Logits of the regions of feature maps [B, C, H, W] at these scales.
    #[must_use]
    pub fn regions(&self, features: &Tensor, scales: &[u32]) -> Regions {
        classify_regions(|pooled| self.classify(pooled), features, scales)
    }

    #[must_use]
    pub fn architecture(&self) -> &'static Architecture {
        self.architecture
    }

    #[must_use]
    pub fn classes(&self) -> u32 {
        self.classes
    }

    /// Every tensor of the state dict, in PyTorch's order.
    #[must_use]
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The tensors that an optimiser updates, in order.
    pub fn trained(&self) -> impl Iterator<Item = &Tensor> {
        self.weights.iter().filter(|weight| weight.trained).map(|weight| &weight.tensor)
    }

    /// The number of trained parameters.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.trained().map(|tensor| tensor.numel() as u64).sum()
    }

    /// Moves the weights to a device and a kind. Convolution weights become channels-last.
    pub fn place(&mut self, device: Device, kind: Kind) {
        for weight in &self.weights {
            replace(weight, |tensor| {
                let placed = tensor.to_device(device).to_kind(kind);
                if placed.dim() == 4 { weight_channels_last(&placed) } else { placed }
            });
        }
        self.compute = kind;
    }

    /// Computes feature maps in `kind`. Weights, statistics and classifier keep theirs.
    pub fn compute_in(&mut self, kind: Kind) {
        self.compute = kind;
    }

    /// Makes the network [`constant`](Self::constant), in the kind that it computes in. On a GPU it also tries out
    /// which nodes cuDNN can fuse, which takes a moment.
    pub fn freeze(&mut self, batch_size: u32, side: u32) {
        *self = self.compiled(self.compute, batch_size, side, true);
    }

    /// A constant copy of the network: without gradients, for evaluation only, with feature maps in `kind`. It is
    /// compiled for batches of `batch_size` images of `side` pixels; other sizes give the same values.
    #[must_use]
    pub fn constant(&self, kind: Kind, batch_size: u32, side: u32) -> Self {
        self.compiled(kind, batch_size, side, false)
    }

    fn compiled(&self, kind: Kind, batch_size: u32, side: u32, fuses: bool) -> Self {
        let constant =
            |weight: &Weight| Weight { name: weight.name.clone(), tensor: weight.tensor.detach(), trained: false };
        let weights: Vec<Weight> = self.weights.iter().map(constant).collect();
        let layout = self.architecture.layout_at(self.classes, side);
        let frozen = Some(Frozen::new(&layout, &weights, kind, i64::from(batch_size), fuses));
        let Self { architecture, classes, .. } = *self;
        Self { architecture, classes, layout, nodes: self.nodes.clone(), weights, compute: kind, frozen }
    }

    /// Overwrites one tensor of the state dict. The caller has checked name and shape.
    pub fn set(&self, index: usize, value: &Tensor) {
        no_grad(|| self.weights[index].tensor.shallow_clone().copy_(value));
    }
}

/// A channels-last copy of a convolution's weight [O, I, H, W], with exactly the strides of its gradient. For sizes of
/// one, other strides would be possible.
fn weight_channels_last(weight: &Tensor) -> Tensor {
    let size = weight.size();
    let &[_, channels, height, width] = size.as_slice() else { unreachable!("weights have four dimensions") };
    channels_last(weight).as_strided(&size, [height * width * channels, 1, width * channels, channels], None)
}

/// Replaces the memory of `weight`, for everybody who shares it, by the result of `change`.
fn replace(weight: &Weight, change: impl Fn(&Tensor) -> Tensor) {
    no_grad(|| {
        let changed = change(&weight.tensor.detach());
        weight.tensor.shallow_clone().set_data(&changed);
    });
}
