//! Optimisers, clipping and schedules against a float64 reimplementation, which also bounds the error of float32.

use distillery_core::spec::{OptimizerSpec, ScheduleSpec};
use distillery_trainer::run::optim::{Optimizer, learning_rate};
use tch::{Device, Kind, Tensor};

use crate::support::bounded::{Bounded, U};
use crate::support::torch::one_thread;

const SHAPES: [[i64; 4]; 2] = [[4, 3, 2, 2], [2, 1, 1, 1]];
const BETAS: [f64; 2] = [0.9, 0.99];

fn sgd(momentum: f64, nesterov: bool) -> OptimizerSpec {
    OptimizerSpec::Sgd { learning_rate: 0.1, momentum, weight_decay: 5e-2, nesterov }
}

fn adamw() -> OptimizerSpec {
    OptimizerSpec::Adamw { learning_rate: 0.1, beta1: BETAS[0], beta2: BETAS[1], weight_decay: 0.1 }
}

/// Irregular numbers, so that no mistake is hidden by a pattern.
fn numbers(count: usize, salt: usize) -> Vec<f64> {
    (0..count).map(|index| f64::from(((index * 7919 + salt * 104_729 + 13) % 997) as f32 / 498.5 - 1.0)).collect()
}

fn count(shape: [i64; 4]) -> usize {
    shape.iter().product::<i64>() as usize
}

fn tensor(values: &[f64], shape: [i64; 4]) -> Tensor {
    let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Two parameters, the first one channels-last.
fn parameters() -> Vec<(String, Tensor)> {
    one_thread();
    let mut named = Vec::new();
    for (index, shape) in SHAPES.into_iter().enumerate() {
        let mut value = tensor(&numbers(count(shape), index), shape);
        if index == 0 {
            value = value.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
            assert!(!value.is_contiguous());
        }
        named.push((format!("p{index}"), value.set_requires_grad(true)));
    }
    named
}

/// Sets the gradients of a step through a loss that is linear in the parameters.
fn backward(named: &[(String, Tensor)], step: usize) {
    let terms = named.iter().enumerate().map(|(index, (_, value))| {
        let shape = SHAPES[index];
        (value * tensor(&numbers(count(shape), 10 * step + index), shape)).sum(Kind::Float)
    });
    terms.sum::<Tensor>().backward();
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.detach().contiguous().view(-1)).unwrap()
}

/// One number of a parameter, with its moments.
#[derive(Clone, Copy)]
struct Scalar {
    value: Bounded,
    moments: [Bounded; 2],
}

fn scalar_step(scalar: &mut Scalar, mut gradient: Bounded, spec: &OptimizerSpec, rate: f64, step: i32) {
    let Scalar { value, moments } = scalar;
    let [rate, one] = [rate, 1.0].map(Bounded::rounded);
    match *spec {
        OptimizerSpec::Sgd { momentum, weight_decay, nesterov, .. } => {
            let [momentum, weight_decay] = [momentum, weight_decay].map(Bounded::rounded);
            gradient = gradient + weight_decay * *value;
            let buffer = if step == 1 { gradient } else { momentum * moments[0] + gradient };
            moments[0] = buffer;
            *value = *value - rate * if nesterov { gradient + momentum * buffer } else { buffer };
        }
        OptimizerSpec::Adamw { beta1, beta2, weight_decay, .. } => {
            let [weight_decay, epsilon] = [weight_decay, 1e-8].map(Bounded::rounded);
            let rounded = Bounded::rounded;
            *value = *value - rate * weight_decay * *value;
            moments[0] = rounded(beta1) * moments[0] + rounded(1.0 - beta1) * gradient;
            moments[1] = rounded(beta2) * moments[1] + rounded(1.0 - beta2) * gradient * gradient;
            let first = moments[0] / (one - rounded(beta1.powi(step)));
            let second = moments[1] / (one - rounded(beta2.powi(step)));
            *value = *value - rate * first / (second.sqrt() + epsilon);
        }
        OptimizerSpec::Lamb { .. } => unreachable!("recipe:: compares it with timm's"),
    }
}

/// Runs five steps of both at changing rates and compares the parameters.
fn compare(spec: &OptimizerSpec, clip: Option<f64>) {
    let named = parameters();
    let mut optimizer = Optimizer::new(spec, parameters_of(&named));
    let strides: Vec<Vec<i64>> = named.iter().map(|(_, value)| value.stride()).collect();
    let start = |index| numbers(count(SHAPES[index]), index).into_iter();
    let scalar = |value| Scalar { value: Bounded::exact(value), moments: [Bounded::exact(0.0); 2] };
    let mut expected: Vec<Vec<Scalar>> = (0..SHAPES.len()).map(|index| start(index).map(scalar).collect()).collect();
    for step in 1..=5_usize {
        let rate = 0.1 / step as f64;
        optimizer.drop_gradients();
        backward(&named, step);
        let gradients: Vec<Vec<f64>> =
            SHAPES.iter().enumerate().map(|(index, shape)| numbers(count(*shape), 10 * step + index)).collect();
        let norm = gradients.iter().flatten().map(|gradient| gradient * gradient).sum::<f64>().sqrt();
        // The sum of the squares in any order, and its root.
        let norm_error = U * (gradients.iter().map(Vec::len).sum::<usize>() as f64 + 4.0);
        let mut factor = Bounded::exact(1.0);
        if let Some(largest) = clip {
            let value = (largest / (norm + 1e-6)).min(1.0);
            factor = Bounded { value, error: (norm_error + 3.0 * U) * value };
            let found = f64::try_from(optimizer.clip_grad_norm(largest)).unwrap();
            Bounded { value: norm, error: norm_error * norm }.assert(found, &"norm");
        }
        optimizer.step(&self::rate(rate));
        for (scalars, gradients) in expected.iter_mut().zip(&gradients) {
            for (scalar, gradient) in scalars.iter_mut().zip(gradients) {
                scalar_step(scalar, Bounded::exact(*gradient) * factor, spec, rate, step as i32);
            }
        }
    }
    let spec_text = &format!("{spec:?}");
    for ((_, value), scalars) in named.iter().zip(&expected) {
        for (found, wanted) in flat(value).into_iter().zip(scalars) {
            // Twice, since implementations may multiply in another order.
            Bounded { error: 2.0 * wanted.value.error, ..wanted.value }.assert(found.into(), spec_text);
        }
    }
    assert_eq!(strides, named.iter().map(|(_, value)| value.stride()).collect::<Vec<_>>());
}

/// A learning rate as a step reads it.
fn rate(value: f64) -> Tensor {
    Tensor::from(value as f32)
}

fn parameters_of(named: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    named.iter().map(|(name, value)| (name.clone(), value.shallow_clone())).collect()
}

#[test]
fn sgd_follows_pytorchs_formulas() {
    for (momentum, nesterov) in [(0.0, false), (0.9, false), (0.9, true)] {
        compare(&sgd(momentum, nesterov), None);
    }
}

#[test]
fn adamw_follows_pytorchs_formulas() {
    compare(&adamw(), None);
}

#[test]
fn clipping_scales_all_gradients_by_their_global_norm() {
    for spec in [sgd(0.9, false), adamw()] {
        compare(&spec, Some(0.5));
        compare(&spec, Some(1e3));
    }
}

#[test]
fn parameters_without_gradients_do_not_move() {
    let named = parameters();
    let before: Vec<_> = named.iter().map(|(_, value)| flat(value)).collect();
    let mut optimizer = Optimizer::new(&adamw(), parameters_of(&named));
    optimizer.drop_gradients();
    assert_eq!(f64::try_from(optimizer.clip_grad_norm(1.0)).unwrap(), 0.0);
    optimizer.step(&rate(0.1));
    assert_eq!(before, named.iter().map(|(_, value)| flat(value)).collect::<Vec<_>>());
}

fn train(optimizer: &mut Optimizer, named: &[(String, Tensor)], steps: std::ops::Range<usize>) {
    for step in steps {
        optimizer.drop_gradients();
        backward(named, step);
        let _ = optimizer.clip_grad_norm(1.0);
        optimizer.step(&rate(0.1));
    }
}

#[test]
fn a_restored_optimizer_continues_bit_for_bit() {
    let lamb = OptimizerSpec::Lamb { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, weight_decay: 0.1 };
    for spec in [sgd(0.0, false), sgd(0.9, true), adamw(), lamb] {
        let named = parameters();
        let mut optimizer = Optimizer::new(&spec, parameters_of(&named));
        train(&mut optimizer, &named, 1..4);
        // Contiguous copies, as in a checkpoint.
        let keep = |tensor: &Tensor| tensor.detach().contiguous().copy();
        let state: Vec<_> = optimizer.state().iter().map(|(name, tensor)| (name.clone(), keep(tensor))).collect();
        let weights: Vec<_> = named.iter().map(|(_, value)| keep(value)).collect();
        train(&mut optimizer, &named, 4..7);

        let resumed = parameters();
        for ((_, value), weights) in resumed.iter().zip(&weights) {
            tch::no_grad(|| value.shallow_clone().copy_(weights));
        }
        let mut other = Optimizer::new(&spec, parameters_of(&resumed));
        other.load_state(&state).unwrap();
        train(&mut other, &resumed, 4..7);
        let bits = |named: &[(String, Tensor)]| -> Vec<u32> {
            named.iter().flat_map(|(_, value)| flat(value)).map(f32::to_bits).collect()
        };
        assert_eq!(bits(&named), bits(&resumed), "{spec:?}");
        for ((name, one), (_, two)) in optimizer.state().iter().zip(&other.state()) {
            assert!(one.equal(two), "{spec:?}: {name}");
        }
    }
}

#[test]
fn optimizer_states_have_the_documented_names() {
    let names =
        |spec| Optimizer::new(&spec, parameters()).state().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(sgd(0.0, false)), ["step"]);
    assert_eq!(names(sgd(0.9, false)), ["step", "momentum.p0", "momentum.p1"]);
    assert_eq!(names(adamw()), ["step", "exp_avg.p0", "exp_avg_sq.p0", "exp_avg.p1", "exp_avg_sq.p1"]);
}

#[test]
fn the_state_of_another_optimizer_is_refused() {
    let mut optimizer = Optimizer::new(&sgd(0.9, false), parameters());
    let fresh = || Optimizer::new(&sgd(0.9, false), parameters()).state();
    assert!(optimizer.load_state(&fresh()[..2]).unwrap_err().contains("no momentum.p1"));
    assert!(optimizer.load_state(&fresh()[1..]).unwrap_err().contains("no step"));
    let mut state = fresh();
    state[1].1 = Tensor::zeros([1], (Kind::Float, Device::Cpu));
    assert!(optimizer.load_state(&state).unwrap_err().contains("has shape [1] instead of [4, 3, 2, 2]"));
    let mut state = fresh();
    state.push(("exp_avg.p0".to_owned(), Tensor::from(0.0)));
    assert!(optimizer.load_state(&state).unwrap_err().contains("exp_avg.p0"));
}

#[test]
fn a_milestone_lowers_the_rate_of_later_epochs() {
    let schedule = ScheduleSpec::Multistep { milestones: vec![150, 180, 210], gamma: 0.1 };
    for (epoch, wanted) in [(0, 0.05), (149, 0.05), (150, 5e-3), (179, 5e-3), (180, 5e-4), (210, 5e-5), (239, 5e-5)] {
        let rate = learning_rate(&schedule, 0.05, epoch, 240, 3, 10);
        assert!((rate - wanted).abs() < 1e-12, "{epoch}: {rate}");
    }
    assert_eq!(learning_rate(&ScheduleSpec::Constant, 0.05, 7, 8, 3, 10), 0.05);
}

#[test]
fn a_cosine_schedule_warms_up_and_falls_to_zero() {
    let schedule = ScheduleSpec::Cosine { warmup_epochs: 2 };
    let rate = |epoch, step| learning_rate(&schedule, 1.0, epoch, 12, step, 10);
    assert!((rate(0, 0) - 0.05).abs() < 1e-12);
    assert!((rate(1, 9) - 1.0).abs() < 1e-12);
    assert!((rate(2, 0) - 1.0).abs() < 1e-12);
    assert!((rate(7, 0) - 0.5).abs() < 1e-12);
    // One step before the end; steps can be counted from the beginning of the run as well.
    let last = 0.5 * (1.0 + (std::f64::consts::PI * 0.99).cos());
    assert!((rate(11, 9) - last).abs() < 1e-12);
    assert_eq!(rate(11, 9), rate(11, 119));
    // A schedule that is all warm-up does not divide by zero.
    assert!(learning_rate(&ScheduleSpec::Cosine { warmup_epochs: 3 }, 1.0, 2, 3, 0, 0).is_finite());
}
