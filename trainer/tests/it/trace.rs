//! The operators of a step, of which a CUDA graph is made: none of them waits for the device or draws random numbers,
//! and every step issues the same ones.
//!
//! Networks compute in float64, for which they have no kernels of our own, so that the operators are those of libtorch
//! that a GPU runs as well. Whether tensors are on different devices cannot be seen on a machine with one.

use distillery_core::spec::TrainingPlan;
use distillery_trainer::device::trace::{Operator, operators};
use distillery_trainer::ranks::Ranks;
use distillery_trainer::run::cuda_graphs::{ExecutionMode, StepExecutor};
use distillery_trainer::run::step::step;
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::support::torch::hashed;
use crate::support::training::{Training, plain, specification};

/// The host waits for their result, or for its size.
const WAITING: &[&str] = &[
    "_local_scalar_dense",
    "_unique2",
    "allclose",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "nonzero_numpy",
    "unique_consecutive",
    "unique_dim",
];

/// They draw from libtorch's generator, so that a replay would differ from the steps that are issued one by one.
const RANDOM: &[&str] = &[
    "bernoulli",
    "bernoulli_",
    "exponential_",
    "multinomial",
    "native_dropout",
    "normal_",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "random_",
    "randperm",
    "rrelu_with_noise",
    "uniform_",
];

/// The fused optimisers read the learning rate on the device, but on the CPU by operators of their own.
const ON_THE_DEVICE: &[&str] = &["_fused_adamw_", "_fused_sgd_"];

fn base(operator: &Operator) -> &str {
    operator.name.strip_prefix("aten::").unwrap_or(&operator.name)
}

/// Without those that are part of [`ON_THE_DEVICE`].
fn of_any_device(operators: Vec<Operator>) -> Vec<Operator> {
    let mut inside: Option<usize> = None;
    operators
        .into_iter()
        .filter(|operator| {
            if inside.is_some_and(|depth| operator.depth > depth) {
                return false;
            }
            inside = ON_THE_DEVICE.contains(&base(operator)).then_some(operator.depth);
            true
        })
        .collect()
}

/// The operators of two steps of whole batches with other images, learning rates and weights of the loss.
fn two_steps(spec: &TrainingPlan) -> [Vec<Operator>; 2] {
    let mut run = Training::new(spec, Device::Cpu, Kind::Double, StepExecutor::in_mode(ExecutionMode::Eager));
    // The third batch of an epoch is smaller.
    (0..3).for_each(|_| drop(run.step(None)));
    [0, 1].map(|_| {
        let inputs = run.inputs(None);
        let Training { student, objective, optimizer, meter, .. } = &mut run;
        let (_, issued) =
            operators(|| step(student, objective, optimizer, meter, &mut Ranks::single(), &inputs, |_| {}));
        of_any_device(issued)
    })
}

fn cases() -> Vec<(&'static str, TrainingPlan)> {
    let adamw = json!({"training": {"optimizer": {"type": "adamw", "learning_rate": 0.01}, "clip_grad_norm": 0.5}});
    let of_all =
        json!({"distillation": {"method": "sdd_dist", "logit_standardisation": true, "weights": {"clustering": 2}}});
    vec![
        ("sdd_kd", specification(json!({}))),
        ("shufflenet_v1", specification(json!({"student": {"architecture": "shufflenet_v1"}}))),
        ("adamw", specification(adamw)),
        ("sdd_dkd", specification(json!({"distillation": {"method": "sdd_dkd"}}))),
        ("sdd_nkd", specification(json!({"distillation": {"method": "sdd_nkd"}}))),
        ("sdd_wttm", specification(json!({"distillation": {"method": "sdd_wttm"}}))),
        ("sdd_dist with clustering", specification(of_all)),
        ("none", plain()),
    ]
}

#[test]
fn no_operator_of_a_step_waits_for_the_device_or_draws_random_numbers() {
    for (name, spec) in cases() {
        let [operators, _] = two_steps(&spec);
        assert!(operators.len() > 100, "{name}: only {} operators were seen", operators.len());
        for operator in &operators {
            let is_denied = WAITING.contains(&base(operator)) || RANDOM.contains(&base(operator));
            assert!(!is_denied, "{name}: a step issues {operator:?}");
        }
    }
}

#[test]
fn two_steps_issue_the_same_operators_with_the_same_numbers_and_shapes() {
    for (name, spec) in cases() {
        let [one, other] = two_steps(&spec);
        for (index, (one, other)) in one.iter().zip(&other).enumerate() {
            assert_eq!(one, other, "{name}: operator {index}");
        }
        assert_eq!(one.len(), other.len(), "{name}: one step issues more operators");
    }
}

#[test]
fn a_trace_shows_what_waits_what_draws_and_which_numbers_are_used() {
    let x = hashed(&[4, 3], 1);
    let names = |issued: &[Operator]| issued.iter().map(|operator| base(operator).to_owned()).collect::<Vec<_>>();
    let (_, read) = operators(|| x.sum(Kind::Double).double_value(&[]));
    assert!(names(&read).iter().any(|name| WAITING.contains(&name.as_str())), "{read:?}");
    let (_, chosen) = operators(|| x.masked_select(&x.gt(0.0)));
    assert!(names(&chosen).contains(&"masked_select".to_owned()), "{chosen:?}");
    let (_, drawn) = operators(|| Tensor::empty([2], (Kind::Float, Device::Cpu)).uniform_(0.0, 1.0));
    assert!(names(&drawn).contains(&"uniform_".to_owned()), "{drawn:?}");
    let scaled = |by: f64| operators(|| &x * by).1;
    assert_eq!(scaled(0.5), scaled(0.5));
    assert_ne!(scaled(0.5), scaled(0.25));
    // What an operator is made of is deeper than the operator.
    let (_, nested) = operators(|| x.linear(&x, None::<&Tensor>));
    assert!(nested.iter().any(|operator| operator.depth > 0), "{nested:?}");
}
