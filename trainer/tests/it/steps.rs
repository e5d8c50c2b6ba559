//! Steps on fixed tensors, as CUDA graphs need them, equal eager steps.

use distillery_core::spec::TrainingPlan;
use distillery_trainer::ranks::Ranks;
use distillery_trainer::run::cuda_graphs::{ExecutionMode, StepExecutor};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::support::training::{Training, plain, specification};

fn training(spec: &TrainingPlan, kind: Kind, mode: ExecutionMode) -> Training {
    Training::new(spec, Device::Cpu, kind, StepExecutor::in_mode(mode))
}

fn assert_same(mut one: Training, mut other: Training, of: &str) {
    for ((name, one), (_, other)) in one.outcome().iter().zip(&other.outcome()) {
        assert!(one.equal(other), "{of}: {name} differs");
    }
}

#[test]
fn a_step_on_fixed_tensors_changes_the_same_bytes_as_an_eager_one() {
    let adamw = json!({"training": {"optimizer": {"type": "adamw", "learning_rate": 0.01}, "clip_grad_norm": 0.5}});
    let of_regions = json!({"distillation": {"method": "sdd_dkd", "scales": [2]}});
    let of_all =
        json!({"distillation": {"method": "sdd_dist", "logit_standardisation": true, "weights": {"clustering": 2}}});
    let cases = [
        ("sdd_kd", specification(json!({})), Kind::Float),
        ("bfloat16", specification(json!({})), Kind::BFloat16),
        ("adamw", specification(adamw), Kind::Float),
        ("sdd_dkd without the whole image", specification(of_regions), Kind::Float),
        ("sdd_nkd", specification(json!({"distillation": {"method": "sdd_nkd"}})), Kind::Float),
        ("none", plain(), Kind::Float),
        ("sdd_dist with clustering", specification(of_all), Kind::Float),
        ("sdd_wttm", specification(json!({"distillation": {"method": "sdd_wttm"}})), Kind::Float),
    ];
    for (name, spec, kind) in cases {
        let (mut eager, mut fixed) =
            (training(&spec, kind, ExecutionMode::Eager), training(&spec, kind, ExecutionMode::Rehearsal));
        // More steps than are eager in every mode, with smaller batches in between.
        for step in 0..9 {
            match (eager.step(None), fixed.step(None)) {
                (Some(one), Some(other)) => assert!(one.equal(&other), "{name}: other logits in step {step}"),
                (one, other) => assert!(one.is_none() && other.is_none(), "{name}"),
            }
        }
        assert_same(eager, fixed, name);
    }
}

#[test]
fn cached_teacher_logits_give_the_same_steps_as_fresh_ones() {
    let spec = specification(json!({}));
    let mut asked = training(&spec, Kind::Float, ExecutionMode::Eager);
    let said: Vec<Option<Tensor>> = (0..9).map(|_| asked.step(None)).collect();
    for mode in [ExecutionMode::Eager, ExecutionMode::Rehearsal] {
        let mut known = training(&spec, Kind::Float, mode.clone());
        for logits in &said {
            known.step(logits.as_ref().map(Tensor::copy));
        }
        let mut again = training(&spec, Kind::Float, ExecutionMode::Eager);
        (0..9).for_each(|_| drop(again.step(None)));
        assert_same(known, again, &format!("{mode:?}"));
    }
    // Some logits are cached and some are not, as in a half filled view.
    let mut mixed = training(&spec, Kind::Float, ExecutionMode::Rehearsal);
    for (index, logits) in said.iter().enumerate() {
        mixed.step(logits.as_ref().filter(|_| index % 2 == 0).map(Tensor::copy));
    }
    assert_same(mixed, asked, "mixed");
}

#[test]
fn the_first_step_with_a_non_finite_loss_is_reported() {
    for mode in [ExecutionMode::Eager, ExecutionMode::Rehearsal] {
        let mut run = training(&specification(json!({})), Kind::Float, mode);
        for step in 1..=9 {
            let mut inputs = run.inputs(None);
            if step == 7 {
                inputs.scalars.distillation_weight = Tensor::from(f32::NAN);
            }
            let Training { student, objective, optimizer, meter, executor, .. } = &mut run;
            let _ = executor.run(student, objective, optimizer, meter, &mut Ranks::single(), inputs);
        }
        let error = run.meter.read(&Ranks::single()).unwrap_err();
        assert!(error.message.contains("not finite at step 7:"), "{error}");
    }
}
