//! Network architectures as data, without libtorch: keys, shapes, parameters, multiply-accumulates, final feature map.
//!
//! Each family has one file that builds its layers, in the order of PyTorch's state dict, and lists its networks. To
//! add a family, add that file, a variant of [`Family`], its networks to [`all`], its entries to
//! `tests/fixtures/architectures.json`, and its PyTorch code for users to `static/snippets`. The trainer runs the
//! layers described here; there is no second description.

mod builder;
mod cifar_resnet;
mod fit;
mod layout;
mod mobilenet;
mod order;
mod resnet;
mod shufflenet;
mod vgg;
mod wide_resnet;

use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::{nearest, quoted};

pub use cifar_resnet::{CifarResnet, Shortcut};
pub use fit::{ArchitectureFit, ArchitectureGuess, Certainty, Shapes, class_mismatch, fits, guess, mismatch};
pub use layout::{Convolution, Entry, Init, Layout, LayoutNode, LayoutOp, Map, Pool, Role};
pub use mobilenet::Mobilenet;
pub use order::match_by_order;
pub use resnet::{Resnet, ResnetBlock};
pub use shufflenet::Shufflenet;
pub use vgg::Vgg;
pub use wide_resnet::WideResnet;

#[derive(Debug, Clone)]
pub struct Architecture {
    /// The name used in job specifications.
    pub name: &'static str,
    /// Side, in pixels, of the square input that the network was designed for.
    pub input_side: u32,
    /// The family, with the parameters of this network.
    pub family: Family,
}

/// Families of networks, with the parameters that distinguish their members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// ResNets for 32×32 images, with three stages.
    CifarResnet(CifarResnet),
    WideResnet(WideResnet),
    /// VGG with batch norm.
    Vgg(Vgg),
    Mobilenet(Mobilenet),
    Shufflenet(Shufflenet),
    /// ResNets with four stages.
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

    /// Prefix of the classifier's keys in the state dict.
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
    /// The layout at the network's own input size.
    #[must_use]
    pub fn layout(&self, classes: u32) -> Layout {
        self.layout_at(classes, self.input_side)
    }

    /// The layout at another input size (at least 1), which changes the feature maps and multiply-accumulates.
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

    /// Key of the classifier's weight.
    #[must_use]
    pub fn classifier_weight(&self) -> String {
        format!("{}.weight", self.family.classifier())
    }

    /// Key of the classifier's bias.
    fn classifier_bias(&self) -> String {
        format!("{}.bias", self.family.classifier())
    }

    /// Translates a checkpoint's key to this network's: ResNets call their classifier `fc` or `linear`. `None` for
    /// [counters](is_counter).
    #[must_use]
    pub fn canonical_key<'a>(&self, key: &'a str) -> Option<&'a str> {
        if is_counter(key) {
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

/// Whether a key of a state dict counts something, which no network here uses: batches (batch norm), averaged models
/// (`AveragedModel`), operations and parameters (profilers).
#[must_use]
pub fn is_counter(key: &str) -> bool {
    let last = key.rsplit_once('.').map_or(key, |(_, last)| last);
    matches!(last, "num_batches_tracked" | "n_averaged" | "total_ops" | "total_params")
}

/// All networks, in the order of the documentation.
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

#[must_use]
pub fn find(name: &str) -> Option<&'static Architecture> {
    all().iter().find(|architecture| architecture.name == name)
}

/// Like [`find`], with an error for users.
///
/// # Errors
/// No network has this name. The message suggests a similar one and lists all.
pub fn named(name: &str) -> Result<&'static Architecture, UnknownArchitecture> {
    find(name).ok_or_else(|| UnknownArchitecture(name.to_owned()))
}

/// No network has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct UnknownArchitecture(String);

impl fmt::Display for UnknownArchitecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.0.chars().take(64).collect();
        write!(formatter, "unknown architecture {shown}", shown = quoted(&shown))?;
        if let Some(near) = suggest(&self.0) {
            write!(formatter, ", did you mean {near}?")?;
        }
        let known: Vec<_> = all().iter().map(|known| known.name).collect();
        write!(formatter, "; known: {}", known.join(", "))
    }
}

/// Written as its name.
impl Serialize for Architecture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for &'static Architecture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        named(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The name that was probably meant.
#[must_use]
pub fn suggest(name: &str) -> Option<&'static str> {
    nearest(name, all().iter().map(|known| known.name))
}
