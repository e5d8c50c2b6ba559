//! What each network is, without libtorch: keys, shapes, parameters, multiply-accumulates, final feature map.
//!
//! A family is one file that draws its layers once, in the order of PyTorch's state dict, and lists its networks. To add
//! one: the file, its variant of [`Family`], its networks in [`all`], its entries in
//! `tests/fixtures/architectures.json`, its PyTorch code for users in `static/snippets`. The trainer runs what is drawn
//! here; there is no second description.

mod builder;
mod cifar_resnet;
mod fit;
mod layout;
mod mobilenet;
mod resnet;
mod shufflenet;
mod vgg;
mod wide_resnet;

use std::sync::LazyLock;

pub use cifar_resnet::{CifarResnet, Shortcut};
pub use fit::{Certainty, Fit, Guess, Shapes, fits, guess, mismatch};
pub use layout::{Convolution, Entry, Init, Layout, Map, Node, Op, Pool, Role};
pub use mobilenet::Mobilenet;
pub use resnet::Resnet;
pub use shufflenet::Shufflenet;
pub use vgg::Vgg;
pub use wide_resnet::WideResnet;

/// One network.
#[derive(Debug, Clone)]
pub struct Architecture {
    /// The name in specifications.
    pub name: &'static str,
    /// Side, in pixels, of the square input that the network was made for.
    pub input_side: u32,
    /// Its family, with what tells it from the others there.
    pub family: Family,
}

/// The families and what their networks differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// ResNets of two convolutions per block for 32×32 images.
    CifarResnet(CifarResnet),
    /// Wide ResNets.
    WideResnet(WideResnet),
    /// VGG with batch norm.
    Vgg(Vgg),
    /// MobileNets.
    Mobilenet(Mobilenet),
    /// ShuffleNets.
    Shufflenet(Shufflenet),
    /// ResNets of four stages.
    Resnet(Resnet),
}

impl Family {
    /// The name in `GET /v1/architectures`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::CifarResnet(_) => "cifar_resnet",
            Self::WideResnet(_) => "wide_resnet",
            Self::Vgg(_) => "vgg",
            Self::Mobilenet(_) => "mobilenet",
            Self::Shufflenet(_) => "shufflenet",
            Self::Resnet(_) => "resnet",
        }
    }

    /// The name of the classifier in the state dict.
    fn classifier(&self) -> &'static str {
        match self {
            Self::CifarResnet(network) => network.classifier(),
            Self::WideResnet(_) => "fc",
            Self::Vgg(_) => "classifier",
            Self::Mobilenet(network) => network.classifier(),
            Self::Shufflenet(_) => "linear",
            Self::Resnet(network) => network.classifier(),
        }
    }
}

impl Architecture {
    /// The network at its own input size.
    #[must_use]
    pub fn layout(&self, classes: u32) -> Layout {
        self.layout_at(classes, self.input_side)
    }

    /// The network at another input size (at least 1): the map and the multiply-accumulates differ.
    #[must_use]
    pub fn layout_at(&self, classes: u32, side: u32) -> Layout {
        let side = side.max(1);
        match &self.family {
            Family::CifarResnet(network) => network.layout(classes, side),
            Family::WideResnet(network) => network.layout(classes, side),
            Family::Vgg(network) => network.layout(classes, side),
            Family::Mobilenet(network) => network.layout(classes, side),
            Family::Shufflenet(network) => network.layout(classes, side),
            Family::Resnet(network) => network.layout(classes, side),
        }
    }

    /// The side of the smallest images, in pixels, of which something is left at the end.
    #[must_use]
    pub fn smallest_side(&self) -> u32 {
        (1..self.input_side).find(|&side| self.layout_at(1, side).feature_map[1] > 0).unwrap_or(self.input_side)
    }

    /// The key of the classifier's weight.
    #[must_use]
    pub fn classifier_weight(&self) -> String {
        format!("{}.weight", self.family.classifier())
    }

    /// This network's own key for a checkpoint's: in the ResNets `fc` and `linear` name the same classifier. None for
    /// `num_batches_tracked`, which no network here uses.
    #[must_use]
    pub fn canonical_key<'a>(&self, key: &'a str) -> Option<&'a str> {
        if key == "num_batches_tracked" || key.ends_with(".num_batches_tracked") {
            return None;
        }
        if !matches!(self.family, Family::CifarResnet(_) | Family::Resnet(_)) {
            return Some(key);
        }
        Some(match (self.family.classifier(), key) {
            ("fc", "linear.weight") => "fc.weight",
            ("fc", "linear.bias") => "fc.bias",
            ("linear", "fc.weight") => "linear.weight",
            ("linear", "fc.bias") => "linear.bias",
            _ => key,
        })
    }
}

/// Every network, in the order of the documentation.
#[must_use]
pub fn all() -> &'static [Architecture] {
    static ALL: LazyLock<Vec<Architecture>> = LazyLock::new(|| {
        let families: [&[Architecture]; 8] = [
            &cifar_resnet::NETWORKS,
            &wide_resnet::NETWORKS,
            &vgg::NETWORKS,
            &mobilenet::SMALL,
            &shufflenet::NETWORKS,
            &resnet::SMALL,
            &resnet::LARGE,
            &mobilenet::LARGE,
        ];
        families.concat()
    });
    &ALL
}

/// The network of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Architecture> {
    all().iter().find(|architecture| architecture.name == name)
}

/// The known name that somebody who wrote `name` probably meant: at most two slips away, case and separators aside.
#[must_use]
pub fn suggest(name: &str) -> Option<&'static str> {
    // A long text is no slip, and the distance is quadratic.
    if name.len() > 64 {
        return None;
    }
    let plain = |name: &str| name.to_lowercase().replace(['-', '_', ' '], "");
    let wanted = plain(name);
    let distance = |architecture: &&Architecture| strsim::osa_distance(&wanted, &plain(architecture.name));
    let nearest = all().iter().min_by_key(distance)?;
    (distance(&nearest) <= 2).then_some(nearest.name)
}
