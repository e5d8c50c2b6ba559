//! The networks of [`distillery::architecture`], as tensors: the graph that is drawn there runs here.
//!
//! A network is two functions, since SDD classifies parts of the feature map: [`Network::features`] and
//! [`Network::classify`].

mod forward;
mod frozen;
mod init;
mod plan;
pub mod state_dict;
mod weight;

use tch::{Device, Kind, Tensor, no_grad};

use distillery::architecture::{self, Architecture, Entry, Layout};

use crate::error::{Error, Result};
use crate::loss::sdd::{Regions, classify_regions};
use forward::channels_last;
use frozen::Frozen;
use plan::{Purpose, Step};
pub use weight::Weight;

/// A network and its weights.
pub struct Network {
    architecture: &'static Architecture,
    classes: u32,
    layout: Layout,
    steps: Vec<Step>,
    weights: Vec<Weight>,
    compute: Kind,
    frozen: Option<Frozen>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with {} classes", self.architecture.name, self.classes)
    }
}

/// The architecture of that name.
///
/// # Errors
/// There is none.
pub fn find(name: &str) -> Result<&'static Architecture> {
    architecture::find(name).ok_or_else(|| {
        let known: Vec<&str> = architecture::all().iter().map(|architecture| architecture.name).collect();
        Error::user(format!("unknown architecture {name:?}; known: {}", known.join(", ")))
    })
}

/// The network with `classes` classes and the initial weights that `seed` decides, on the CPU in float32.
#[must_use]
pub fn build(architecture: &'static Architecture, classes: u32, seed: u64) -> Network {
    // Of any input size: the graph is the same, and only its maps' sizes differ.
    let layout = architecture.layout(classes);
    let weight = |(entry, index): (&Entry, u64)| {
        let trained = entry.role.is_trained();
        let tensor = init::initial(entry, index, seed).set_requires_grad(trained);
        Weight { name: entry.key.clone(), tensor, trained }
    };
    let weights = layout.entries.iter().zip(0..).map(weight).collect();
    let steps = plan::steps(&layout, Purpose::Training);
    Network { architecture, classes, layout, steps, weights, compute: Kind::Float, frozen: None }
}

impl Network {
    /// The final feature map [B, C, H', W'] of `xs` [B, 3, H, W], in the kind of the weights.
    pub fn features(&self, xs: &Tensor, train: bool) -> Tensor {
        let xs = channels_last(&xs.to_kind(self.compute));
        let map = match &self.frozen {
            Some(frozen) => frozen.forward(&xs),
            None => forward::forward(&self.layout, &self.steps, &self.weights, &xs, train),
        };
        map.to_kind(self.classifier()[0].tensor.kind())
    }

    /// Logits [*, K] of pooled features [*, C], in the kind of the weights whatever that of `pooled` is.
    pub fn classify(&self, pooled: &Tensor) -> Tensor {
        let [weight, bias] = self.classifier();
        pooled.to_kind(weight.tensor.kind()).linear(&weight.tensor, Some(&bias.tensor))
    }

    fn classifier(&self) -> &[Weight; 2] {
        self.weights.last_chunk().expect("the classifier ends the state dict")
    }

    /// Logits [B, K] of whole images.
    pub fn logits(&self, xs: &Tensor, train: bool) -> Tensor {
        self.classify_map(&self.features(xs, train))
    }

    /// Logits [B, K] of feature maps [B, C, H, W].
    pub fn classify_map(&self, features: &Tensor) -> Tensor {
        self.classify(&features.mean_dim([2_i64, 3].as_slice(), false, None::<Kind>))
    }

    /// Logits of the regions of feature maps [B, C, H, W] at those scales.
    #[must_use]
    pub fn regions(&self, features: &Tensor, scales: &[u32]) -> Regions {
        classify_regions(|pooled| self.classify(pooled), features, scales)
    }

    /// What it is.
    #[must_use]
    pub fn architecture(&self) -> &'static Architecture {
        self.architecture
    }

    /// Classes it tells apart.
    #[must_use]
    pub fn classes(&self) -> u32 {
        self.classes
    }

    /// Every tensor of the state dict, in PyTorch's order.
    #[must_use]
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The tensors that an optimiser changes, in order.
    pub fn trained(&self) -> impl Iterator<Item = &Tensor> {
        self.weights.iter().filter(|weight| weight.trained).map(|weight| &weight.tensor)
    }

    /// Numbers that an optimiser changes.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.trained().map(|tensor| tensor.numel() as u64).sum()
    }

    /// Moves the weights to `device` and `kind`; kernels of convolutions are laid out channels last.
    pub fn place(&mut self, device: Device, kind: Kind) {
        for weight in &self.weights {
            replace(weight, |tensor| {
                let placed = tensor.to_device(device).to_kind(kind);
                if placed.dim() == 4 { kernel_channels_last(&placed) } else { placed }
            });
        }
        self.compute = kind;
    }

    /// Computes feature maps in `kind`; weights, statistics and classifier stay as they are.
    pub fn compute_in(&mut self, kind: Kind) {
        self.compute = kind;
    }

    /// Makes the network a [`constant`](Self::constant) of the kind that it computes in. On a GPU it is tried out which steps
    /// cuDNN has kernels for, which takes a moment.
    pub fn freeze(&mut self, batch: u32, side: u32) {
        *self = self.compiled(self.compute, batch, side, true);
    }

    /// The network as it is now, as a constant: no gradients, evaluation mode only, feature maps in `kind`, compiled
    /// for images of `side` pixels in batches of `batch`. Other sizes give the same values.
    #[must_use]
    pub fn constant(&self, kind: Kind, batch: u32, side: u32) -> Self {
        self.compiled(kind, batch, side, false)
    }

    fn compiled(&self, kind: Kind, batch: u32, side: u32, fuses: bool) -> Self {
        let constant =
            |weight: &Weight| Weight { name: weight.name.clone(), tensor: weight.tensor.detach(), trained: false };
        let weights: Vec<Weight> = self.weights.iter().map(constant).collect();
        let layout = self.architecture.layout_at(self.classes, side);
        let frozen = Some(Frozen::new(&layout, &weights, kind, i64::from(batch), fuses));
        let Self { architecture, classes, .. } = *self;
        let steps = self.steps.clone();
        Self { architecture, classes, layout, steps, weights, compute: kind, frozen }
    }

    /// Overwrites one tensor of the state dict; the caller has checked names and shapes.
    pub fn set(&self, index: usize, value: &Tensor) {
        no_grad(|| self.weights[index].tensor.shallow_clone().copy_(value));
    }
}

/// A kernel [O, I, H, W] with the channels last and exactly the strides that its gradient comes in, which of sizes of one
/// are not the only ones.
fn kernel_channels_last(kernel: &Tensor) -> Tensor {
    let size = kernel.size();
    let &[_, channels, height, width] = size.as_slice() else { unreachable!("kernels have four dimensions") };
    channels_last(kernel).as_strided(&size, [height * width * channels, 1, width * channels, channels], None)
}

/// Replaces the memory behind `weight`, wherever it is shared, by what `change` makes of it.
fn replace(weight: &Weight, change: impl Fn(&Tensor) -> Tensor) {
    no_grad(|| {
        let changed = change(&weight.tensor.detach());
        weight.tensor.shallow_clone().set_data(&changed);
    });
}
