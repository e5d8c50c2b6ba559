//! What each network is, without libtorch: keys, shapes, parameters, multiply-accumulates, final feature map.
//!
//! A family is one file that walks its layers once, in the order of PyTorch's state dict, and lists its networks. To add
//! one: the file, its variant of [`Family`], its networks in [`all`], its entries in
//! `tests/fixtures/architectures.json`.

mod cifar_resnet;
mod fit;
mod layout;

use std::sync::LazyLock;

pub use cifar_resnet::{CifarResnet, Shortcut};
pub use fit::{Fit, Shapes, fits, mismatch};
pub use layout::{Convolution, Entry, Layout, Role};

/// One network.
#[derive(Debug)]
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
    /// ResNets for 32×32 images.
    CifarResnet(CifarResnet),
}

impl Family {
    /// The name in `GET /v1/architectures`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::CifarResnet(_) => "cifar_resnet",
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
        match &self.family {
            Family::CifarResnet(resnet) => resnet.layout(classes, side.max(1)),
        }
    }

    /// The key of the classifier's weight.
    #[must_use]
    pub fn classifier_weight(&self) -> &'static str {
        match &self.family {
            Family::CifarResnet(resnet) if resnet.classifier() == "linear" => "linear.weight",
            Family::CifarResnet(_) => "fc.weight",
        }
    }

    /// This network's own key for a checkpoint's: `fc` and `linear` name the same classifier. None for
    /// `num_batches_tracked`, which no network here uses.
    #[must_use]
    pub fn canonical_key<'a>(&self, key: &'a str) -> Option<&'a str> {
        if key == "num_batches_tracked" || key.ends_with(".num_batches_tracked") {
            return None;
        }
        let Family::CifarResnet(resnet) = &self.family;
        Some(match (resnet.classifier(), key) {
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
    static ALL: LazyLock<Vec<Architecture>> = LazyLock::new(|| cifar_resnet::NETWORKS.into());
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
