//! What a network was made of: its graph without weights.

use std::sync::Arc;

use tch::Tensor;

use super::lower::{self, Subgraph};
use super::program::Program;
use super::zoo;
use distillery_core::architecture::{Architecture, Map};
use distillery_core::exported::{Graph, MapLayout};

#[derive(Clone)]
pub(super) enum NetworkSource {
    Zoo(&'static Architecture),
    Exported(Arc<Exported>),
}

/// An exported network without its weights.
pub(super) struct Exported {
    /// The path of its file, for people.
    pub name: String,
    pub graph: Graph,
    /// Height and width of images.
    pub image_size: [u32; 2],
    /// From the images to the map, or without one to what the last layer takes.
    pub body: Subgraph,
    pub map: Option<PooledMap>,
    /// Number of streams of random numbers.
    pub streams: u32,
    /// Counters of batches, by how often a step counts.
    pub counters: Vec<(i64, Vec<usize>)>,
}

/// The feature map of an exported network.
pub(super) struct PooledMap {
    pub layout: MapLayout,
    /// Channels, height, width.
    pub shape: [i64; 3],
    /// The shape in which the head takes vectors of C numbers.
    pub vectors: Vec<i64>,
}

impl NetworkSource {
    pub(super) fn architecture(&self) -> Option<&'static Architecture> {
        if let Self::Zoo(architecture) = self { Some(architecture) } else { None }
    }

    pub(super) fn exported(&self) -> Option<&Exported> {
        if let Self::Exported(exported) = self { Some(exported) } else { None }
    }

    pub(super) fn pooled_map(&self) -> Option<&PooledMap> {
        self.exported()?.map.as_ref()
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Zoo(architecture) => architecture.name,
            Self::Exported(exported) => &exported.name,
        }
    }

    /// Height and width of the feature map of images of `side` pixels.
    pub(super) fn map_size(&self, side: u32) -> Option<[u32; 2]> {
        match self {
            Self::Zoo(architecture) => {
                let [_, height, width] = architecture.layout_at(1, side).feature_map;
                Some([height, width])
            }
            Self::Exported(exported) => {
                let [_, height, width] = exported.map.as_ref()?.shape;
                Some([height, width].map(|size| u32::try_from(size).unwrap_or(u32::MAX)))
            }
        }
    }

    /// Elements per image of the largest value in evaluation.
    pub(super) fn largest_value(&self, classes: u32, side: u32) -> u64 {
        match self {
            Self::Zoo(architecture) => {
                let elements = |map: Map| u64::from(map.channels) * u64::from(map.side).pow(2);
                let layout = architecture.layout_at(classes, side);
                layout.nodes.iter().map(|node| elements(node.map)).max().unwrap_or(1)
            }
            Self::Exported(exported) => {
                let values = exported.graph.values.iter();
                values
                    .map(|value| value.shape.iter().fold(1, |all, size| size.per_image().saturating_mul(all)))
                    .max()
                    .unwrap_or(1)
            }
        }
    }

    /// From images of `side` pixels, as in evaluation, to what the head takes.
    pub(super) fn program(&self, classes: u32, side: u32) -> Program {
        match self {
            Self::Zoo(architecture) => zoo::program(&architecture.layout_at(classes, side), false),
            Self::Exported(exported) => {
                lower::program(&exported.graph, exported.body, false).expect("its body begins with the images")
            }
        }
    }

    /// The map that the body makes, as [B, C, H, W].
    pub(super) fn channels_first(&self, made: Tensor) -> Tensor {
        let Some(PooledMap { layout, shape: [channels, height, width], .. }) = self.pooled_map() else { return made };
        match layout {
            MapLayout::ChannelsFirst => made,
            MapLayout::ChannelsLast => made.permute([0, 3, 1, 2]),
            MapLayout::Tokens => made.permute([0, 2, 1]).reshape([-1, *channels, *height, *width]),
        }
    }
}
