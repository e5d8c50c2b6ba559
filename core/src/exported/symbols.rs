//! Nodes that compute sizes rather than tensors.

use super::arguments::Arguments;
use super::error::OrFault;
use super::schema::{self, Argument};
use super::scope::ValueScope;
use super::size::Size;

/// The size that a node computes. `None` if it computes something else.
pub(super) fn read(node: &schema::NodeRecord, scope: &ValueScope) -> Option<OrFault<Size>> {
    let combine: fn(Size, Size) -> Option<Size> = match node.target.as_str() {
        "torch.ops.aten.sym_size.int" => return Some(size_of(node, scope)),
        "_operator.mul" => Size::times,
        "_operator.add" => Size::plus,
        "_operator.floordiv" => Size::divided_by,
        _ => return None,
    };
    Some(combined(node, scope, combine))
}

fn size_of(node: &schema::NodeRecord, scope: &ValueScope) -> OrFault<Size> {
    let mut arguments = Arguments::new(scope, &node.inputs);
    let tensor = arguments.tensor("self")?;
    let dimension = arguments.dimension("dim", None, tensor.shape.len())?;
    arguments.finish()?;
    Ok(tensor.shape[dimension])
}

fn combined(node: &schema::NodeRecord, scope: &ValueScope, combine: fn(Size, Size) -> Option<Size>) -> OrFault<Size> {
    let mut sizes = node.inputs.iter().map(|argument| match &argument.arg {
        Argument::SymInt(size) => scope.size(size),
        Argument::Int(size) => scope.size(&schema::SizeArgument::Int(*size)),
        _ => Err("computes a size of something else".to_owned()),
    });
    match (sizes.next(), sizes.next(), sizes.next()) {
        (Some(one), Some(two), None) => {
            let size = combine(one?, two?);
            size.ok_or_else(|| "computes a size that is no multiple of the batch size".to_owned())
        }
        _ => Err("computes a size of another number of sizes than two".to_owned()),
    }
}
