//! Which operations PyTorch computes in float32 even where it computes others in fewer bits: those of regions in which
//! autocast is disabled, and what follows a conversion to float32.
//!
//! A network is exported in float32, where such a conversion changes nothing. One back to the type before looks the
//! same then, so the second of two conversions ends what the first one began.

use super::builder::Builder;
use super::graph::{Origin, ValueId};
use super::op::Op;
use super::schema::{self, Argument};
use crate::checkpoint::Dtype;

/// What a node converts a tensor to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conversion {
    /// A type that it names.
    Named,
    /// The type of another tensor.
    Others,
}

impl Builder<'_> {
    /// Whether an operation of a node is computed in float32. Convolutions and products of matrices are computed as
    /// others are, as by autocast, unless they are in a region of their own.
    pub(super) fn is_full_precision(
        &self,
        node: &schema::NodeRecord,
        op: &Op,
        inputs: &[ValueId],
        outputs: &[ValueId],
    ) -> bool {
        let is_float = outputs.iter().all(|&output| self.scope.value(output).dtype == Dtype::F32)
            || matches!(op, Op::Compare { .. });
        let takes_it = inputs.iter().any(|&input| match self.scope.value(input).origin {
            Origin::Node(index) => self.nodes.get(index).is_some_and(|node| node.full_precision),
            Origin::Images | Origin::Stored(_) => false,
        });
        let is_product = matches!(
            op,
            Op::Convolution { .. }
                | Op::TransposedConvolution { .. }
                | Op::Linear { .. }
                | Op::Matmul
                | Op::Attention { .. }
        );
        // Masks are ones and zeros in any type.
        let is_drawn = inputs.is_empty() || matches!(op, Op::Bernoulli { .. });
        is_float
            && !is_drawn
            && match conversion(node) {
                Some(conversion) => conversion == Conversion::Named && !takes_it,
                None => node.full_precision || (takes_it && !is_product),
            }
    }
}

fn conversion(node: &schema::NodeRecord) -> Option<Conversion> {
    let names_type = || {
        let mut arguments = node.inputs.iter();
        arguments.any(|argument| argument.name == "dtype" && matches!(argument.arg, Argument::ScalarType(_)))
    };
    match node.target.strip_prefix("torch.ops.aten.")? {
        "to.dtype" | "to.dtype_layout" | "_to_copy.default" if names_type() => Some(Conversion::Named),
        "to.other" | "type_as.default" => Some(Conversion::Others),
        _ => None,
    }
}
