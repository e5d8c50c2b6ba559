//! Comparisons, and what is chosen or limited by them, compute what their definitions say: see [`super::operators`].

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use super::networks::built;
use super::operators::assert_computes;
use super::programs::{self, B, float, int, tensor};

const SHAPE: [i64; 4] = [B, 3, 8, 8];

/// A node whose result is bool.
fn condition(program: &mut programs::Network, operator: &str, name: &str, inputs: &[(&str, Value)]) {
    program.node(operator, name, inputs, &SHAPE);
    program.recorded(name)["dtype"] = json!(12);
}

/// 1 where a condition holds, else 0.
fn number(condition: &Tensor) -> Tensor {
    condition.to_kind(Kind::Double)
}

#[test]
fn conditions_are_ones_and_zeros_where_they_are_multiplied_with() {
    type Holds = fn(&Tensor, &Tensor) -> Tensor;
    let comparisons: [(&str, Holds); 6] = [
        ("lt", Tensor::lt_tensor),
        ("le", Tensor::le_tensor),
        ("gt", Tensor::gt_tensor),
        ("ge", Tensor::ge_tensor),
        ("eq", Tensor::eq_tensor),
        ("ne", Tensor::ne_tensor),
    ];
    for (name, holds) in comparisons {
        let build = |program: &mut programs::Network| {
            program.parameter("limits", &[8]);
            program.node("relu.default", "act", &[("self", tensor("x"))], &SHAPE);
            let inputs = [("self", tensor("act")), ("other", tensor("limits"))];
            condition(program, &format!("{name}.Tensor"), "one", &inputs);
            let inputs = [("self", tensor("act")), ("other", float(0.0))];
            condition(program, &format!("{name}.Scalar"), "two", &inputs);
            program.node("mul.Tensor", "first", &[("self", tensor("x")), ("other", tensor("one"))], &SHAPE);
            program.node("mul.Tensor", "second", &[("self", tensor("two")), ("other", tensor("limits"))], &SHAPE);
            program.node("add.Tensor", "y", &[("self", tensor("first")), ("other", tensor("second"))], &SHAPE);
            ("y", SHAPE.to_vec())
        };
        assert_computes(name, false, &build, &|x, weights| {
            let (act, limits) = (x.clamp_min(0.0), &weights["limits"]);
            x * number(&holds(&act, limits)) + limits * number(&holds(&act, &Tensor::from(0.0)))
        });
    }
}

#[test]
fn a_condition_may_be_multiplied_by_a_number() {
    let build = |program: &mut programs::Network| {
        condition(program, "gt.Scalar", "holds", &[("self", tensor("x")), ("other", float(-0.25))]);
        program.node("mul.Tensor", "factor", &[("self", tensor("holds")), ("other", float(0.5))], &SHAPE);
        program.node("mul.Tensor", "y", &[("self", tensor("x")), ("other", tensor("factor"))], &SHAPE);
        ("y", SHAPE.to_vec())
    };
    assert_computes("condition times number", false, &build, &|x, _| x * number(&x.gt(-0.25)) * 0.5);
}

#[test]
fn conditions_choose_and_are_combined() {
    let build = |program: &mut programs::Network| {
        condition(program, "gt.Scalar", "above", &[("self", tensor("x")), ("other", float(-0.5))]);
        condition(program, "lt.Scalar", "below", &[("self", tensor("x")), ("other", float(0.25))]);
        condition(program, "logical_and.default", "within", &[("self", tensor("above")), ("other", tensor("below"))]);
        condition(program, "bitwise_not.default", "beyond", &[("self", tensor("within"))]);
        condition(program, "__or__.Tensor", "any", &[("self", tensor("within")), ("other", tensor("beyond"))]);
        let conversion = [("self", tensor("beyond")), ("dtype", json!({"as_scalar_type": 7}))];
        program.node("to.dtype", "number", &conversion, &SHAPE);
        let inputs = [("condition", tensor("within")), ("self", tensor("x")), ("other", tensor("number"))];
        program.node("where.self", "chosen", &inputs, &SHAPE);
        program.node("mul.Tensor", "all", &[("self", tensor("chosen")), ("other", tensor("any"))], &SHAPE);
        let fill = [("self", tensor("all")), ("mask", tensor("beyond")), ("value", float(3.0))];
        program.node("masked_fill.Scalar", "filled", &fill, &SHAPE);
        program.node("add.Tensor", "y", &[("self", tensor("all")), ("other", tensor("filled"))], &SHAPE);
        ("y", SHAPE.to_vec())
    };
    assert_computes("combined conditions", false, &build, &|x, _| {
        let within = number(&x.gt(-0.5)) * number(&x.lt(0.25));
        let beyond: Tensor = &within * -1.0 + 1.0;
        (x * &within + &beyond) + (x * &within + beyond * 3.0)
    });
}

#[test]
fn limits_may_be_tensors() {
    for (operator, has_low, has_high) in
        [("clamp.Tensor", true, true), ("clamp_min.Tensor", true, false), ("clamp_max.Tensor", false, true)]
    {
        let build = |program: &mut programs::Network| {
            let mut inputs = vec![("self", tensor("x"))];
            for (name, key, is_there) in [("min", "low", has_low), ("max", "high", has_high)] {
                if is_there {
                    program.parameter(key, &[3, 1, 1]);
                    inputs.push((name, tensor(key)));
                }
            }
            program.node(operator, "y", &inputs, &SHAPE);
            ("y", SHAPE.to_vec())
        };
        assert_computes(operator, false, &build, &|x, weights| {
            let chosen = |condition: Tensor, yes: &Tensor, no: &Tensor| {
                let holds = number(&condition);
                yes * &holds + no * (holds * -1.0 + 1.0)
            };
            let mut limited = x.shallow_clone();
            if has_low {
                limited = chosen(limited.lt_tensor(&weights["low"]), &weights["low"], &limited);
            }
            if has_high {
                limited = chosen(limited.gt_tensor(&weights["high"]), &weights["high"], &limited);
            }
            limited
        });
    }
}

#[test]
fn thresholds_and_shrinking_are_computed_as_defined() {
    let function = |operator: &'static str, numbers: &[(&'static str, f64)], define: &dyn Fn(&Tensor) -> Tensor| {
        let build = |program: &mut programs::Network| {
            let numbers = numbers.iter().map(|(name, number)| (*name, float(*number)));
            let inputs: Vec<_> = [("self", tensor("x"))].into_iter().chain(numbers).collect();
            program.node(operator, "y", &inputs, &SHAPE);
            ("y", SHAPE.to_vec())
        };
        assert_computes(operator, false, &build, &|x, _| define(x));
    };
    function("threshold.default", &[("threshold", 0.25), ("value", -2.0)], &|x| {
        let holds = number(&x.gt(0.25));
        x * &holds - (holds * -1.0 + 1.0) * 2.0
    });
    function("hardshrink.default", &[("lambd", 0.25)], &|x| x * number(&x.abs().gt(0.25)));
    function("softshrink.default", &[("lambd", 0.25)], &|x| {
        (x - 0.25) * number(&x.gt(0.25)) + (x + 0.25) * number(&x.lt(-0.25))
    });
}

#[test]
fn what_is_no_number_is_not_replaced_by_one() {
    let shrink = vec![("self", tensor("x")), ("lambd", float(0.25))];
    let threshold = vec![("self", tensor("x")), ("threshold", float(0.25)), ("value", float(-2.0))];
    for (operator, inputs) in [("hardshrink.default", shrink), ("threshold.default", threshold)] {
        let mut program = programs::Network::new();
        program.node(operator, "y", &inputs, &SHAPE);
        let flatten = [("self", tensor("y")), ("start_dim", int(1))];
        program.node("flatten.using_ints", "logits", &flatten, &[B, 192]);
        program.result("logits");
        let mut network = built(&program);
        network.place(Device::Cpu, Kind::Float);
        let images = Tensor::full([4, 3, 8, 8], f64::NAN, (Kind::Float, Device::Cpu));
        let found = no_grad(|| network.logits(&images, false));
        assert_eq!(found.isnan().all().int64_value(&[]), 1, "{operator}");
    }
}

#[test]
fn one_or_all_elements_hold_and_one_of_two_conditions_does() {
    let build = |program: &mut programs::Network| {
        condition(program, "gt.Scalar", "above", &[("self", tensor("x")), ("other", float(0.25))]);
        condition(program, "lt.Scalar", "below", &[("self", tensor("x")), ("other", float(0.75))]);
        let inputs = [("self", tensor("above")), ("dim", int(1)), ("keepdim", json!({"as_bool": true}))];
        program.node("any.dim", "one", &inputs, &[B, 1, 8, 8]);
        let dimensions = json!({"as_ints": [1, 3]});
        let inputs = [("self", tensor("below")), ("dim", dimensions), ("keepdim", json!({"as_bool": true}))];
        program.node("all.dims", "all", &inputs, &[B, 1, 8, 1]);
        for name in ["one", "all"] {
            program.recorded(name)["dtype"] = json!(12);
        }
        condition(program, "__xor__.Tensor", "either", &[("self", tensor("above")), ("other", tensor("below"))]);
        program.node("mul.Tensor", "first", &[("self", tensor("x")), ("other", tensor("one"))], &SHAPE);
        program.node("mul.Tensor", "second", &[("self", tensor("x")), ("other", tensor("all"))], &SHAPE);
        program.node("mul.Tensor", "third", &[("self", tensor("x")), ("other", tensor("either"))], &SHAPE);
        program.node("sub.Tensor", "both", &[("self", tensor("first")), ("other", tensor("second"))], &SHAPE);
        let inputs = [("self", tensor("both")), ("other", tensor("third")), ("alpha", float(2.0))];
        program.node("add.Tensor", "y", &inputs, &SHAPE);
        ("y", SHAPE.to_vec())
    };
    assert_computes("one, all and either", false, &build, &|x, _| {
        let [above, below] = [number(&x.gt(0.25)), number(&x.lt(0.75))];
        let one = above.amax([1], true);
        let all = below.amin([1, 3], true);
        x * one - x * all + x * (above - below).abs() * 2.0
    });
}
