//! `/v1/architectures`

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::architecture;
use crate::http::List;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Architecture)]
pub struct ArchitectureSummary {
    /// The name used in job specifications.
    #[schema(example = "resnet32x4")]
    pub name: String,
    /// Family of related architectures, such as `resnet`.
    pub family: String,
    /// Number of trained parameters, with 100 classes.
    pub parameters: u64,
    /// Multiply-accumulate operations per image of `input_side`, with 100 classes.
    pub macs: u64,
    /// Side, in pixels, of the square input it was designed for.
    pub input_side: u32,
    /// Side of the final feature map for that input. Scales up to this side divide the map without overlapping regions.
    pub feature_map_side: u32,
    /// Channels of the final feature map.
    pub feature_map_channels: u32,
}

impl ArchitectureSummary {
    fn new(architecture: &architecture::Architecture) -> Self {
        let layout = architecture.layout(100);
        let [feature_map_channels, feature_map_side, _] = layout.feature_map;
        Self {
            name: architecture.name.to_owned(),
            family: architecture.family.name().to_owned(),
            parameters: layout.parameters,
            macs: layout.macs,
            input_side: architecture.input_side,
            feature_map_side,
            feature_map_channels,
        }
    }
}

/// List architectures
///
/// All networks that can be a teacher or a student.
#[utoipa::path(get, path = "/v1/architectures", tag = "server", operation_id = "list_architectures",
    responses((status = 200, body = List<ArchitectureSummary>)))]
pub async fn list() -> Json<List<ArchitectureSummary>> {
    Json(List { data: architecture::all().iter().map(ArchitectureSummary::new).collect() })
}
