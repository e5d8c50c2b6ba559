//! The networks of a valid specification: what they cost, and how a dry run describes them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::estimate::NetworkCost;
use crate::architecture::{self, Architecture};
use crate::spec::{DescribedNetwork, DistillationSpec};

/// A network at the job's image size and number of classes.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NetworkFacts {
    /// The architecture, or the exported network's name.
    pub name: String,
    /// A name of `GET /v1/architectures`; null for an exported network.
    pub architecture: Option<String>,
    /// Trained parameters.
    pub parameters: u64,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Channels, height and width of the final feature map; null for an exported network without one.
    pub feature_map: Option<[u64; 3]>,
}

/// A network of a valid specification.
#[derive(Debug)]
pub enum JobNetwork<'a> {
    Known(&'static Architecture),
    Exported(&'a DescribedNetwork),
}

impl<'a> JobNetwork<'a> {
    pub fn new(architecture: Option<&str>, exported: Option<&'a DescribedNetwork>) -> Self {
        match (architecture.and_then(architecture::find), exported) {
            (Some(architecture), _) => Self::Known(architecture),
            (None, exported) => Self::Exported(exported.expect("the specification names known networks")),
        }
    }

    pub fn cost(&self, classes: u32, side: u32) -> NetworkCost {
        match self {
            Self::Known(architecture) => NetworkCost::of(&architecture.layout_at(classes, side)),
            Self::Exported(network) => NetworkCost::of_exported(&network.description),
        }
    }

    pub fn fine_scales(&self, distillation: &DistillationSpec, role: &str, side: u32) -> Vec<String> {
        match self {
            Self::Known(architecture) => distillation.fine_scales(architecture, role, side).collect(),
            Self::Exported(network) => network.fine_scales(distillation, role).collect(),
        }
    }

    pub fn facts(self, classes: u32, side: u32) -> NetworkFacts {
        let NetworkCost { parameters, macs, .. } = self.cost(classes, side);
        let (name, architecture, feature_map) = match self {
            Self::Known(architecture) => {
                let name = architecture.name.to_owned();
                let feature_map = architecture.layout_at(classes, side).feature_map.map(u64::from);
                (name.clone(), Some(name), Some(feature_map))
            }
            Self::Exported(DescribedNetwork { name, description }) => {
                (name.clone(), None, description.feature_map.as_ref().map(|map| map.shape))
            }
        };
        NetworkFacts { name, architecture, parameters, macs, feature_map }
    }
}
