//! Dropout and stochastic depth follow from seed, rank and step, and do nothing in evaluation.

use distillery_trainer::models::Network;
use tch::{Device, Kind, Tensor, no_grad};

use super::networks::{Layers, batch_size, built, distance, drop_path, images, reordered, residual, set_values};
use super::programs::{self, B, flag, float, int, tensor};

fn placed(program: &programs::Network, seed: u64, rank: u32) -> Network {
    let mut network = built(program);
    network.draw_from(seed, rank);
    network.place(Device::Cpu, Kind::Double);
    set_values(&network);
    network
}

/// Training logits in a step.
fn in_step(network: &Network, step: i64) -> Tensor {
    network.begin_step(&Tensor::from(step));
    no_grad(|| network.logits(&images(), true))
}

/// The images after an operator, flattened to logits.
fn of_images(add: impl Fn(&mut programs::Network)) -> programs::Network {
    let mut program = programs::Network::new();
    add(&mut program);
    program.node("flatten.using_ints", "logits", &[("self", tensor("y")), ("start_dim", int(1))], &[B, 192]);
    program.result("logits");
    program
}

fn dropout(probability: f64, trains: bool) -> programs::Network {
    of_images(|program| {
        let arguments = [("input", tensor("x")), ("p", float(probability)), ("train", flag(trains))];
        program.node("dropout.default", "y", &arguments, &[B, 3, 8, 8]);
    })
}

#[test]
fn dropout_zeros_elements_and_scales_the_others() {
    let network = placed(&dropout(0.25, true), 1, 0);
    let whole = images().flatten(1, -1);
    let found = in_step(&network, 1);
    let ratio = &found / &whole;
    let is_kept = ratio.gt(0.5);
    assert!(distance(&found, &(&whole * is_kept.to_kind(Kind::Double) / 0.75)) < 1e-7);
    let share = is_kept.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    assert!((share - 0.75).abs() < 0.08, "{share}");
    // Whole images and whole channels are not dropped together.
    assert_eq!(is_kept.any_dim(1, false).all().int64_value(&[]), 1);
    assert_eq!(no_grad(|| network.logits(&images(), false)), whole);
    // A network that was exported in evaluation mode keeps its dropout off.
    assert_eq!(in_step(&placed(&dropout(0.25, false), 1, 0), 1), whole);
    assert_eq!(in_step(&placed(&dropout(1.0, true), 1, 0), 1), whole.zeros_like());
}

#[test]
fn a_step_is_repeatable_and_differs_from_other_steps_seeds_and_ranks() {
    let network = placed(&dropout(0.5, true), 1, 0);
    let first = in_step(&network, 7);
    assert_ne!(first, in_step(&network, 8));
    assert_eq!(first, in_step(&network, 7));
    assert_eq!(first, in_step(&placed(&dropout(0.5, true), 1, 0), 7));
    assert_ne!(first, in_step(&placed(&dropout(0.5, true), 2, 0), 7));
    assert_ne!(first, in_step(&placed(&dropout(0.5, true), 1, 1), 7));
}

#[test]
fn stochastic_depth_drops_whole_images_and_keeps_all_in_evaluation() {
    let program = of_images(|program| {
        batch_size(program);
        drop_path(program, "y", "x", 0.5, &[B, 3, 8, 8]);
    });
    let network = placed(&program, 3, 0);
    let whole = images().flatten(1, -1);
    let mut seen = [false; 2];
    for step in 0..8 {
        let found = in_step(&network, step);
        for image in 0..4 {
            let (found, whole) = (found.select(0, image), whole.select(0, image));
            let is_kept = found.norm().double_value(&[]) > 0.0;
            assert!(!is_kept || distance(&found, &(whole * 2.0)) < 1e-7);
            seen[usize::from(is_kept)] = true;
        }
    }
    assert_eq!(seen, [true; 2]);
    assert_eq!(no_grad(|| network.logits(&images(), false)), whole);
    assert_eq!(no_grad(|| network.constant(Kind::Double, 4, 8).logits(&images(), true)), whole);
}

#[test]
fn a_mask_of_stochastic_depth_without_scaling_keeps_all_in_evaluation() {
    let program = of_images(|program| {
        batch_size(program);
        let size = serde_json::json!({"as_sym_ints": [{"as_name": "b"}, {"as_int": 1}, {"as_int": 1}, {"as_int": 1}]});
        program.node("new_empty.default", "e", &[("self", tensor("x")), ("size", size)], &[B, 1, 1, 1]);
        program.node("bernoulli_.float", "m", &[("self", tensor("e")), ("p", float(0.25))], &[B, 1, 1, 1]);
        program.node("mul.Tensor", "y", &[("self", tensor("m")), ("other", tensor("x"))], &[B, 3, 8, 8]);
    });
    let network = placed(&program, 3, 0);
    assert_eq!(no_grad(|| network.logits(&images(), false)), images().flatten(1, -1));
}

#[test]
fn dropout_of_attention_weights_keeps_their_expectation() {
    let program = of_images(|program| {
        let arguments =
            [("query", tensor("x")), ("key", tensor("x")), ("value", tensor("x")), ("dropout_p", float(0.5))];
        program.node("scaled_dot_product_attention.default", "y", &arguments, &[B, 3, 8, 8]);
    });
    let network = placed(&program, 1, 0);
    let whole = no_grad(|| network.logits(&images(), false));
    let steps = 2000;
    let mut sum = whole.zeros_like();
    for step in 0..steps {
        sum += in_step(&network, step);
    }
    assert!(distance(&in_step(&network, 0), &whole) > 0.1);
    assert!(distance(&(sum / steps as f64), &whole) < 0.1);
}

#[test]
fn regions_of_an_image_drop_different_elements_of_a_head() {
    let network = placed(&residual(true), 1, 0);
    network.begin_step(&Tensor::from(1_i64));
    let features = Tensor::ones([2, 16, 8, 8], (Kind::Double, Device::Cpu));
    let regions = no_grad(|| network.regions(&features, &[1, 2], true));
    // Without dropout, all regions of such a map have the same logits.
    let first = regions.local.narrow(1, 0, 1).expand_as(&regions.local);
    assert!(distance(&regions.local, &first) > 0.01);
    let kept = no_grad(|| network.regions(&features, &[1, 2], false));
    assert!(distance(&kept.local, &kept.local.narrow(1, 0, 1).expand_as(&kept.local)) < reordered(Kind::Double));
}

#[test]
fn gradients_pass_through_what_was_kept() {
    let network = placed(&residual(true), 5, 0);
    network.begin_step(&Tensor::from(3_i64));
    network.logits(&images(), true).square().sum(Kind::Double).backward();
    let index = network.weights().iter().position(|weight| weight.name == "branch.weight").unwrap();
    let gradient = network.weights()[index].tensor.grad();
    let direction = gradient.sign();
    let moved = |by: f64| {
        let other = placed(&residual(true), 5, 0);
        other.set(index, &(&other.weights()[index].tensor + &direction * by));
        in_step(&other, 3).square().sum(Kind::Double).double_value(&[])
    };
    let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
    let wanted = (&gradient * &direction).sum(Kind::Double).double_value(&[]);
    assert!((slope - wanted).abs() < 1e-5 * wanted.abs(), "{slope} and {wanted}");
}

#[test]
fn two_uses_of_a_layer_count_two_batches() {
    let mut program = programs::Network::new();
    program.conv("c", "x", [3, 3, 3], 8);
    program.norm("n", "c", &[B, 3, 8, 8], true);
    // The same counter again.
    program.node("add_.Tensor", "again", &[("self", tensor("n.num_batches_tracked")), ("other", int(1))], &[]);
    program.recorded("again")["dtype"] = serde_json::json!(5);
    program.node("flatten.using_ints", "logits", &[("self", tensor("n")), ("start_dim", int(1))], &[B, 192]);
    program.result("logits");
    let network = placed(&program, 0, 0);
    for _ in 0..3 {
        let _ = in_step(&network, 0);
    }
    let counter = network.weights().iter().find(|weight| weight.name == "n.num_batches_tracked").unwrap();
    assert_eq!(i64::try_from(&counter.tensor).unwrap(), 6);
    let _ = no_grad(|| network.logits(&images(), false));
    assert_eq!(i64::try_from(&counter.tensor).unwrap(), 6);
}
