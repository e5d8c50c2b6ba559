//! What is described of an exported network.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::graph::{Graph, Node};
use super::schema::{Bounds, SchemaVersion};
use super::stored::StoredTensor;

/// A network that was read from a file.
pub(super) struct DescriptionInput<'a> {
    pub(super) graph: &'a Graph,
    pub(super) tensors: &'a [StoredTensor],
    pub(super) schema: SchemaVersion,
    pub(super) torch: Option<&'a str>,
    pub(super) batch: Bounds,
}

/// The mode in which a network was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ExportMode)]
pub enum Mode {
    Training,
    Evaluation,
    /// Some operators compute as in training, some as in evaluation.
    Mixed,
    /// No operator depends on the mode.
    Either,
}

/// The name of the node in the file that a node was read from.
pub(super) fn name_in_pytorch(node: &Node) -> &str {
    match node.name.split_once('.') {
        Some((name, _)) if node.operator.is_empty() => name,
        _ => &node.name,
    }
}
