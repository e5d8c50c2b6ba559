//! What classifies the pooled vectors of a feature map.

use distillery_core::exported::Size;

use super::fusion::Plan;
use super::program::{GIVEN, Input, ProgramOp};

#[derive(Debug)]
pub(super) enum Head {
    /// What it is given are the logits.
    None,
    /// A linear layer of vectors [*, C], by the indices of its weights.
    Linear { weight: usize, bias: Option<usize> },
    /// Anything else.
    Plan(Plan),
}

impl Head {
    /// A head that runs as a plan, unless there is a faster way.
    pub(super) fn of(plan: Plan) -> Self {
        if plan.result == GIVEN {
            return Self::None;
        }
        linear(&plan).unwrap_or(Self::Plan(plan))
    }

    pub(super) fn weights(&self) -> Box<dyn Iterator<Item = usize> + '_> {
        match self {
            Self::None => Box::new(std::iter::empty()),
            Self::Linear { weight, bias } => Box::new([*weight].into_iter().chain(*bias)),
            Self::Plan(plan) => Box::new(plan.weights()),
        }
    }
}

/// A linear layer after nothing but other shapes for vectors.
fn linear(plan: &Plan) -> Option<Head> {
    let (last, before) = plan.steps.split_last()?;
    // A head has one precision.
    let are_shapes = before.iter().all(|step| matches!(step.op, ProgramOp::Reshape { .. } | ProgramOp::Convert { .. }));
    match (&last.op, last.inputs.as_slice()) {
        (ProgramOp::Linear, [Input::Value(vector), Input::Weight(weight), bias @ ..])
            if are_shapes && matches!(plan.shapes[*vector].as_slice(), [Size::Batch(1), Size::Fixed(_)]) =>
        {
            let bias = bias.first().map(|bias| bias.weight()).map_or(Some(None), |bias| bias.map(Some))?;
            Some(Head::Linear { weight: *weight, bias })
        }
        _ => None,
    }
}
