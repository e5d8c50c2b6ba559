//! Networks that compare.

use serde_json::json;

use super::cases::{Case, Inputs};
use crate::exported::programs::{B, float, tensor};

const MAP: [i64; 4] = [B, 4, 8, 8];

/// The latest value where a comparison of it holds, else zero.
fn kept_where(mut case: Case, operator: &str, other: (&'static str, serde_json::Value)) -> Case {
    case.network.node(operator, "holds", &[("self", tensor(case.value)), other], &MAP);
    case.network.recorded("holds")["dtype"] = json!(12);
    case.then("mul.Tensor", "y", vec![("other", tensor("holds"))], &MAP)
}

pub fn comparisons(cases: &mut Vec<(String, Case)>) {
    for kind in ["lt", "le", "gt", "ge", "eq", "ne"] {
        // Zeros are equal.
        let case = || Case::map().then("relu.default", "act", Vec::new(), &MAP);
        let scalar = format!("{kind}.Scalar");
        cases.push((scalar.clone(), kept_where(case(), &scalar, ("other", float(0.0)))));
        let tensors = format!("{kind}.Tensor");
        let case = case().parameters(&[("w", &[4, 1, 1])]);
        cases.push((tensors.clone(), kept_where(case, &tensors, ("other", tensor("w")))));
    }
    let limits: [(&str, Inputs); 3] = [
        ("clamp.Tensor", vec![("min", tensor("w")), ("max", tensor("v"))]),
        ("clamp_min.Tensor", vec![("min", tensor("w"))]),
        ("clamp_max.Tensor", vec![("max", tensor("w"))]),
    ];
    for (operator, inputs) in limits {
        let parameters: [(&str, &[i64]); 2] = [("w", &[4, 1, 1]), ("v", &[8])];
        let case = Case::map().parameters(&parameters[..inputs.len()]);
        cases.push((operator.to_owned(), case.then(operator, "y", inputs, &MAP)));
    }
    let functions: [(&str, Inputs); 3] = [
        ("threshold.default", vec![("threshold", float(0.1)), ("value", float(-2.0))]),
        ("hardshrink.default", vec![("lambd", float(0.3))]),
        ("softshrink.default", vec![("lambd", float(0.3))]),
    ];
    for (operator, inputs) in functions {
        cases.push((operator.to_owned(), Case::map().then(operator, "y", inputs, &MAP)));
    }
}
