//! Networks as tensors: those of [`distillery_core::architecture`], the zoo, and exported ones. Both are made into the
//! same plans, which run here.
//!
//! A network is two functions, because SDD classifies regions of the feature map: [`Network::features`] and
//! [`Network::classify`]. The second is the network's head.

pub mod exported;
mod forward;
mod frozen;
mod fusion;
mod head;
mod init;
mod layers;
mod lower;
mod noise;
mod operators;
mod program;
mod regions;
mod scope;
mod settled;
mod source;
pub mod state_dict;
mod weight;
mod zoo;

use std::collections::HashSet;
use std::sync::Arc;

use tch::{Device, Kind, Tensor, no_grad};

use crate::device::kernels;
use crate::device::norm_kernel::NormKernel;
use distillery_core::architecture::{Architecture, Entry, Role};
use forward::forward;
use frozen::Frozen;
pub use frozen::FusedCount;
use fusion::{Plan, Purpose, fuse};
use head::Head;
use layers::channels_last;
use noise::Noise;
use scope::ExecutionScope;
use source::NetworkSource;
pub use weight::Weight;

/// A network and its weights.
pub struct Network {
    source: NetworkSource,
    classes: u32,
    training: Arc<Halves>,
    evaluation: Arc<Halves>,
    /// The state dict, and after it the constants of an exported network.
    weights: Vec<Weight>,
    /// Number of tensors in the state dict.
    state: usize,
    /// The output that stands for each class, `[K]` int64 on the network's device; `None` if they are in order.
    output_order: Option<Tensor>,
    /// There if training depends on random numbers.
    noise: Option<Noise>,
    /// Computes the batch norms of maps in training.
    norm_kernel: Option<&'static NormKernel>,
    /// The kind of weights and head.
    kind: Kind,
    /// The kind of maps.
    compute: Kind,
    frozen: Option<Frozen>,
}

/// A network's two functions.
#[derive(Debug)]
struct Halves {
    /// From images to features.
    body: Plan,
    head: Head,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with {} classes", self.name(), self.classes)
    }
}

/// Builds a network of the zoo with the initial weights of `seed`, on the CPU in float32.
#[must_use]
pub fn build(architecture: &'static Architecture, classes: u32, seed: u64) -> Network {
    // The graph is the same for every input size; only the sizes of its maps differ.
    let layout = architecture.layout(classes);
    let weight = |(entry, index): (&Entry, u64)| {
        let trained = entry.role.is_trained();
        let tensor = init::initial(entry, index, seed).set_requires_grad(trained);
        let is_kernel = matches!(entry.role, Role::Convolution(_));
        Weight { name: entry.key.clone(), tensor, trained, tied_to: None, is_float: true, is_kernel }
    };
    let weights: Vec<Weight> = layout.entries.iter().zip(0..).map(weight).collect();
    // The classifier ends the state dict.
    let state = weights.len();
    let halves = |trains| {
        let body = fuse(zoo::program(&layout, trains), Purpose::Training);
        Arc::new(Halves { body, head: Head::Linear { weight: state - 2, bias: Some(state - 1) } })
    };
    Network {
        source: NetworkSource::Zoo(architecture),
        classes,
        training: halves(true),
        evaluation: halves(false),
        weights,
        state,
        output_order: None,
        noise: None,
        norm_kernel: None,
        kind: Kind::Float,
        compute: Kind::Float,
        frozen: None,
    }
}

impl Network {
    /// The final feature maps [B, C, H', W'] of `images` [B, 3, H, W], in the kind of the weights. Of a network without
    /// a map, what its last layer takes.
    pub fn features(&self, images: &Tensor, train: bool) -> Tensor {
        let images = channels_last(&images.to_kind(self.compute));
        let made = match &self.frozen {
            Some(frozen) => frozen.forward(&images),
            None => {
                if train {
                    self.count_batch();
                }
                forward(&self.halves(train).body, &self.weights, &images, &self.scope(&images, 1))
            }
        };
        self.source.channels_first(made).to_kind(self.kind)
    }

    /// Logits [*, K] of pooled features [*, C] of any kind, in the kind of the weights. Those of several regions of an
    /// image are [B, regions, C], the whole image first.
    pub fn classify(&self, pooled: &Tensor, train: bool) -> Tensor {
        let pooled = pooled.to_kind(self.kind);
        let (Head::Plan(_), Some(map)) = (&self.halves(train).head, self.source.pooled_map()) else {
            return self.run_head(&pooled, 1, train);
        };
        let mut size = pooled.size();
        let vectors = if let &[_, regions, _] = size.as_slice() { regions } else { 1 };
        let logits = self.run_head(&pooled.reshape(&map.vectors), vectors, train);
        size.pop();
        size.push(i64::from(self.classes));
        logits.reshape(size)
    }

    /// Runs the head on what it takes, `vectors` of each image.
    fn run_head(&self, given: &Tensor, vectors: i64, train: bool) -> Tensor {
        let logits = match &self.halves(train).head {
            Head::None => given.shallow_clone(),
            Head::Linear { weight, bias } => {
                let bias = bias.map(|bias| &self.weights[bias].tensor);
                given.linear(&self.weights[*weight].tensor, bias)
            }
            Head::Plan(plan) => forward(plan, &self.weights, given, &self.scope(given, vectors)),
        };
        match &self.output_order {
            Some(order) => logits.index_select(-1, order),
            None => logits,
        }
    }

    /// Puts the logits into another order: those of class k become those of output `outputs[k]`.
    pub fn reorder(&mut self, outputs: &[u32]) {
        let outputs: Vec<i64> = outputs.iter().map(|&output| i64::from(output)).collect();
        self.output_order = Some(Tensor::from_slice(&outputs));
    }

    /// The output that stands for each class, if they are not in order.
    #[must_use]
    pub fn output_order(&self) -> Option<Vec<i64>> {
        self.output_order.as_ref().and_then(|order| Vec::try_from(order).ok())
    }

    fn scope(&self, given: &Tensor, vectors: i64) -> ExecutionScope<'_> {
        let (batch, kind, device) = (given.size()[0], given.kind(), given.device());
        ExecutionScope { batch, vectors, kind, device, noise: self.noise.as_ref(), norm_kernel: self.norm_kernel }
    }

    fn halves(&self, train: bool) -> &Halves {
        if train && self.frozen.is_none() { &self.training } else { &self.evaluation }
    }

    /// Logits [B, K] of whole images [B, 3, H, W].
    pub fn logits(&self, images: &Tensor, train: bool) -> Tensor {
        self.classify_map(&self.features(images, train), train)
    }

    /// Logits [B, K] of [`features`](Self::features).
    pub fn classify_map(&self, features: &Tensor, train: bool) -> Tensor {
        if !self.has_map() {
            return self.run_head(features, 1, train);
        }
        self.classify(&features.mean_dim([2_i64, 3].as_slice(), false, None::<Kind>), train)
    }

    /// Counts a batch in the counters that an exported network has.
    fn count_batch(&self) {
        for (by, counters) in self.source.exported().iter().flat_map(|exported| &exported.counters) {
            let counters: Vec<Tensor> = counters.iter().map(|&at| self.weights[at].tensor.shallow_clone()).collect();
            no_grad(|| kernels::count(&counters, *by));
        }
    }

    /// Begins a training step, whose number (an int64 scalar on the network's device) decides what dropout drops. Does
    /// not wait for the device.
    pub fn begin_step(&self, step: &Tensor) {
        if let Some(noise) = &self.noise {
            noise.begin_step(step);
        }
    }

    /// Makes training depend on a seed, and on the rank that trains. Comes before [`place`](Self::place).
    pub fn draw_from(&mut self, seed: u64, rank: u32) {
        let streams = self.source.exported().map_or(0, |exported| exported.streams);
        self.noise = (streams > 0).then(|| Noise::new(streams, seed, rank));
    }

    /// `None` for an exported network.
    #[must_use]
    pub fn architecture(&self) -> Option<&'static Architecture> {
        self.source.architecture()
    }

    /// The architecture's name, or the path of the exported file.
    #[must_use]
    pub fn name(&self) -> &str {
        self.source.name()
    }

    #[must_use]
    pub fn classes(&self) -> u32 {
        self.classes
    }

    /// Height and width of the images that an exported network takes. The zoo's take any.
    #[must_use]
    pub fn image_size(&self) -> Option<[u32; 2]> {
        Some(self.source.exported()?.image_size)
    }

    /// Whether there is a feature map, which can be divided into regions.
    #[must_use]
    pub fn has_map(&self) -> bool {
        self.architecture().is_some() || self.source.pooled_map().is_some()
    }

    /// Height and width of the feature map of images of `side` pixels.
    #[must_use]
    pub fn map_size(&self, side: u32) -> Option<[u32; 2]> {
        self.source.map_size(side)
    }

    /// Elements per image of the largest map of images of `side` pixels.
    #[must_use]
    pub fn largest_map(&self, side: u32) -> u64 {
        self.source.largest_value(self.classes, side)
    }

    /// Every tensor of the state dict, in PyTorch's order.
    #[must_use]
    pub fn weights(&self) -> &[Weight] {
        &self.weights[..self.state]
    }

    /// Indices in [`weights`](Self::weights) of what the head has: of the zoo's networks the classifier's weight and
    /// bias.
    #[must_use]
    pub fn head_weights(&self) -> Vec<usize> {
        self.training.head.weights().filter(|&index| index < self.state).collect()
    }

    /// The names of the tensors of the head in the state dict.
    #[must_use]
    pub fn head_names(&self) -> HashSet<&str> {
        self.head_weights().into_iter().map(|index| self.weights[index].name.as_str()).collect()
    }

    /// The tensors that an optimiser updates, in order.
    pub fn trained(&self) -> impl Iterator<Item = &Tensor> {
        self.weights().iter().filter(|weight| weight.trained).map(|weight| &weight.tensor)
    }

    /// Those of the [`trained`](Self::trained) tensors on which logits depend.
    pub fn trained_and_used(&self) -> impl Iterator<Item = &Tensor> {
        let used: HashSet<usize> = self.training.body.weights().chain(self.training.head.weights()).collect();
        let weights = self.weights().iter().enumerate().filter(|(_, weight)| weight.trained);
        weights.filter(move |(index, _)| used.contains(index)).map(|(_, weight)| &weight.tensor)
    }

    /// The number of trained parameters.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.trained().map(|tensor| tensor.numel() as u64).sum()
    }

    /// Moves the weights to a device and a kind. Convolution weights become channels-last.
    pub fn place(&mut self, device: Device, kind: Kind) {
        for weight in self.weights.iter().filter(|weight| weight.tied_to.is_none()) {
            replace(weight, |tensor| {
                let placed = tensor.to_device(device);
                let placed = if weight.is_float { placed.to_kind(kind) } else { placed };
                if weight.is_kernel { weight_channels_last(&placed) } else { placed }
            });
        }
        for index in 0..self.weights.len() {
            let Some(first) = self.weights[index].tied_to else { continue };
            let is_detached = !self.weights[index].tensor.requires_grad();
            self.weights[index].tensor = self.weights[first].shown(is_detached);
        }
        if let Some(noise) = &mut self.noise {
            noise.place(device);
        }
        self.output_order = self.output_order.as_ref().map(|order| order.to_device(device));
        self.kind = kind;
        self.compute = kind;
    }

    /// Computes feature maps in `kind`. Weights, statistics and head keep theirs.
    pub fn compute_in(&mut self, kind: Kind) {
        self.compute = kind;
    }

    /// Has kernels of our own compute batch norms of maps in training, with sum and ReLU. Comes after `compute_in`.
    ///
    /// # Errors
    /// They cannot be made for the device, or there are none for this kind.
    pub fn use_norm_kernel(&mut self, device: Device) -> Result<(), String> {
        NormKernel::new(device, self.compute).map(|kernel| self.norm_kernel = Some(kernel))
    }

    /// Makes the network [`constant`](Self::constant), in the kind that it computes in. On a GPU it also tries out
    /// which nodes cuDNN can fuse, which takes a moment, and returns how many.
    pub fn freeze(&mut self, batch_size: u32, side: u32) -> Option<FusedCount> {
        *self = self.compiled(self.compute, batch_size, side, true);
        self.frozen.as_ref().and_then(Frozen::fused)
    }

    /// A constant copy of the network: without gradients, for evaluation only, with feature maps in `kind`. It is
    /// compiled for batches of `batch_size` images of `side` pixels; other sizes give the same values.
    #[must_use]
    pub fn constant(&self, kind: Kind, batch_size: u32, side: u32) -> Self {
        self.compiled(kind, batch_size, side, false)
    }

    fn compiled(&self, kind: Kind, batch_size: u32, side: u32, fuses: bool) -> Self {
        let program = self.source.program(self.classes, side);
        let copy = self.with_weights(&[]);
        let frozen = Some(Frozen::new(program, &copy.weights, kind, i64::from(batch_size), fuses));
        Self { compute: kind, frozen, ..copy }
    }

    /// A copy without gradients whose first weights are `values`, with their storage, and whose others are its own.
    #[must_use]
    pub fn with_weights(&self, values: &[Tensor]) -> Self {
        let constant = |(index, weight): (usize, &Weight)| Weight {
            name: weight.name.clone(),
            tensor: values.get(index).unwrap_or(&weight.tensor).detach(),
            trained: false,
            ..*weight
        };
        let Self { classes, state, kind, compute, .. } = *self;
        Self {
            source: self.source.clone(),
            classes,
            training: Arc::clone(&self.training),
            evaluation: Arc::clone(&self.evaluation),
            weights: self.weights.iter().enumerate().map(constant).collect(),
            state,
            output_order: self.output_order.as_ref().map(Tensor::shallow_clone),
            noise: None,
            norm_kernel: None,
            kind,
            compute,
            frozen: None,
        }
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
