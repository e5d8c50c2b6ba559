//! `/v1/architectures`

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::architecture;
use crate::http::List;

/// One network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Architecture)]
pub struct ArchitectureSummary {
    /// The name in specifications.
    #[schema(example = "resnet32x4")]
    pub name: String,
    /// What it belongs to.
    pub family: String,
    /// Trained parameters, with 100 classes.
    pub parameters: u64,
    /// Multiply-accumulates for one image of `input_side`, with 100 classes.
    pub macs: u64,
    /// Side, in pixels, of the square input that it was made for.
    pub input_side: u32,
    /// Side of the final feature map for such an input: scales up to it split the map without repeating cells.
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

/// Architectures
///
/// Every network that can be a teacher or a student.
#[utoipa::path(get, path = "/v1/architectures", tag = "server", operation_id = "list_architectures",
    responses((status = 200, body = List<ArchitectureSummary>)))]
pub async fn list() -> Json<List<ArchitectureSummary>> {
    Json(List { data: architecture::all().iter().map(ArchitectureSummary::new).collect() })
}
