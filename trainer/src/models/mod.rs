//! The networks, one file per family of [`distillery::architecture`], with the keys and shapes that are described there.
//!
//! A network is two functions, since SDD classifies parts of the feature map: [`Network::features`] and
//! [`Network::classify`]. A new family is a file with a `build` function and an arm of the match in [`build`].

mod init;
pub mod layers;
mod resnet_cifar;

use tch::{Device, Kind, Tensor, no_grad};

use distillery::architecture::{Architecture, Family};

use layers::{Builder, Linear, Weight, channels_last, replace};

/// Everything before the classifier.
pub trait Backbone {
    /// `xs` [B, 3, H, W] to the final feature map [B, C, H', W'].
    fn forward(&self, xs: &Tensor, train: bool) -> Tensor;
}

/// What a family makes: the layers in front of the classifier, and the classifier.
type Parts = (Box<dyn Backbone>, Linear);

/// A network and its weights.
pub struct Network {
    architecture: &'static Architecture,
    classes: u32,
    backbone: Box<dyn Backbone>,
    classifier: Linear,
    weights: Vec<Weight>,
    compute: Kind,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with {} classes", self.architecture.name, self.classes)
    }
}

/// The network with `classes` classes and the initial weights that `seed` decides, on the CPU in float32.
#[must_use]
pub fn build(architecture: &'static Architecture, classes: u32, seed: u64) -> Network {
    let builder = Builder::new(seed);
    let (backbone, classifier) = match &architecture.family {
        Family::CifarResnet(network) => resnet_cifar::build(network, &builder.root(), i64::from(classes)),
    };
    Network { architecture, classes, backbone, classifier, weights: builder.finish(), compute: Kind::Float }
}

impl Network {
    /// The final feature map [B, C, H', W'] of `xs` [B, 3, H, W], in the kind of the weights.
    pub fn features(&self, xs: &Tensor, train: bool) -> Tensor {
        let xs = channels_last(&xs.to_kind(self.compute));
        self.backbone.forward(&xs, train).to_kind(self.classifier.kind())
    }

    /// Logits [*, K] of pooled features [*, C].
    pub fn classify(&self, pooled: &Tensor) -> Tensor {
        self.classifier.forward(pooled)
    }

    /// Logits [B, K] of whole images.
    pub fn logits(&self, xs: &Tensor, train: bool) -> Tensor {
        let pooled = self.features(xs, train).mean_dim([2_i64, 3].as_slice(), false, None::<Kind>);
        self.classify(&pooled)
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
                if placed.dim() == 4 { channels_last(&placed) } else { placed }
            });
        }
        self.compute = kind;
    }

    /// Computes feature maps in `kind`; weights, statistics and classifier stay as they are.
    pub fn compute_in(&mut self, kind: Kind) {
        self.compute = kind;
    }

    /// Makes the network a constant: no gradients, and kernels kept in the kind that they are computed in.
    pub fn freeze(&mut self) {
        for weight in &self.weights {
            let _ = weight.tensor.set_requires_grad(false);
            if weight.tensor.dim() == 4 {
                replace(weight, |tensor| tensor.to_kind(self.compute));
            }
        }
    }

    /// Overwrites one tensor of the state dict; the caller has checked names and shapes.
    pub fn set(&self, index: usize, value: &Tensor) {
        no_grad(|| self.weights[index].tensor.shallow_clone().copy_(value));
    }
}
