//! A head classifies every region as it classifies whole images.

use distillery_trainer::models::Network;
use serde_json::json;
use tch::{Kind, Tensor, no_grad};

use super::networks::{Layers, built, distance, images, pool, reordered, set_values};
use super::programs::{self, B, expression, flag, float, int, ints, tensor};

/// Places a network in float64 and gives it values.
fn placed(network: &programs::Network) -> Network {
    let mut network = built(network);
    network.place(tch::Device::Cpu, Kind::Double);
    set_values(&network);
    network
}

fn weight<'a>(network: &'a Network, key: &str) -> &'a Tensor {
    &network.weights().iter().find(|weight| weight.name == key).unwrap_or_else(|| panic!("{key}")).tensor
}

/// A map [B, 4, 8, 8] named `map`, from which heads begin.
fn with_map() -> programs::Network {
    let mut network = programs::Network::new();
    network.conv("stem", "x", [3, 4, 3], 8);
    network.node("silu.default", "map", &[("self", tensor("stem"))], &[B, 4, 8, 8]);
    network
}

/// The means of the whole map and of its 2×2 regions, row by row: [B, 5, C].
fn means(map: &Tensor) -> Tensor {
    let mean = |part: &Tensor| part.mean_dim([2_i64, 3].as_slice(), false, None::<Kind>);
    let quarter = |row: i64, column: i64| mean(&map.narrow(2, 4 * row, 4).narrow(3, 4 * column, 4));
    let regions = [mean(map), quarter(0, 0), quarter(0, 1), quarter(1, 0), quarter(1, 1)];
    Tensor::stack(&regions, 1)
}

/// Asserts that the regions' logits are those of `head` applied to each region's mean, and the first the network's own.
fn assert_regions(network: &Network, head: impl Fn(&Tensor) -> Tensor) {
    let _guard = tch::no_grad_guard();
    let features = network.features(&images(), false);
    assert_eq!(features.size(), [4, 4, 8, 8]);
    let found = network.regions(&features, &[1, 2], false);
    let vectors = means(&features);
    let each: Vec<Tensor> = (0..5).map(|region| head(&vectors.select(1, region))).collect();
    let wanted = Tensor::stack(&each, 1);
    assert!(distance(&found.local, &wanted) < reordered(Kind::Double), "{}", distance(&found.local, &wanted));
    assert!(distance(&found.global, &network.logits(&images(), false)) < reordered(Kind::Double));
}

#[test]
fn a_linear_head_classifies_regions() {
    let mut network = with_map();
    pool(&mut network, "vector", "map", 4);
    network.linear("classifier", "vector", [4, 6]);
    network.result("classifier");
    let network = placed(&network);
    let [scale, shift] = ["classifier.weight", "classifier.bias"].map(|key| weight(&network, key));
    assert_regions(&network, |vector| vector.matmul(&scale.tr()) + shift);
}

#[test]
fn a_head_of_convolutions_takes_vectors_as_maps_of_one_pixel() {
    let mut network = with_map();
    let mean = [("self", tensor("map")), ("dim", ints(&[2, 3])), ("keepdim", flag(true))];
    network.node("mean.dim", "vector", &mean, &[B, 4, 1, 1]);
    network.conv("hidden", "vector", [4, 8, 1], 1);
    network.node("hardswish.default", "act", &[("self", tensor("hidden"))], &[B, 8, 1, 1]);
    network.node("flatten.using_ints", "flat", &[("self", tensor("act")), ("start_dim", int(1))], &[B, 8]);
    network.linear("classifier", "flat", [8, 6]);
    network.result("classifier");
    let network = placed(&network);
    let [hidden, scale, shift] =
        ["hidden.weight", "classifier.weight", "classifier.bias"].map(|key| weight(&network, key));
    assert_regions(&network, |vector| {
        let hidden = vector.matmul(&hidden.view([8, 4]).tr());
        let act = &hidden * (&hidden + 3.0).clamp(0.0, 6.0) / 6.0;
        act.matmul(&scale.tr()) + shift
    });
}

#[test]
fn a_head_after_channels_last_normalises_each_regions_vector() {
    let mut network = with_map();
    network.node("permute.default", "last", &[("self", tensor("map")), ("dims", ints(&[0, 2, 3, 1]))], &[B, 8, 8, 4]);
    network.node("mean.dim", "vector", &[("self", tensor("last")), ("dim", ints(&[1, 2]))], &[B, 4]);
    let norm = [("input", tensor("vector")), ("normalized_shape", ints(&[4])), ("eps", float(1e-3))];
    network.node("layer_norm.default", "norm", &norm, &[B, 4]);
    network.linear("classifier", "norm", [4, 6]);
    network.result("classifier");
    let network = placed(&network);
    let [scale, shift] = ["classifier.weight", "classifier.bias"].map(|key| weight(&network, key));
    assert_regions(&network, |vector| {
        let centred = vector - vector.mean_dim([1_i64].as_slice(), true, None::<Kind>);
        let variance = centred.square().mean_dim([1_i64].as_slice(), true, None::<Kind>);
        (centred / (variance + 1e-3).sqrt()).matmul(&scale.tr()) + shift
    });
}

#[test]
fn a_head_after_tokens_may_cut_vectors_into_pieces() {
    let mut network = with_map();
    network.node("flatten.using_ints", "rows", &[("self", tensor("map")), ("start_dim", int(2))], &[B, 4, 64]);
    let swap = [("self", tensor("rows")), ("dim0", int(1)), ("dim1", int(2))];
    network.node("transpose.int", "tokens", &swap, &[B, 64, 4]);
    let mean = [("self", tensor("tokens")), ("dim", ints(&[1])), ("keepdim", flag(true))];
    network.node("mean.dim", "vector", &mean, &[B, 1, 4]);
    // Pieces of all vectors in one dimension, with a function that mixes those of one vector only.
    network.node("reshape.default", "pieces", &[("self", tensor("vector")), ("shape", ints(&[-1, 2]))], &[B, 2]);
    network.recorded("pieces")["sizes"][0] = expression("Mul(Integer(2), Symbol('s77', positive=True, integer=True))");
    network.node("softmax.int", "soft", &[("self", tensor("pieces")), ("dim", int(1))], &[B, 2]);
    network.recorded("soft")["sizes"][0] = expression("Mul(Integer(2), Symbol('s77', positive=True, integer=True))");
    network.node("reshape.default", "whole", &[("self", tensor("soft")), ("shape", ints(&[-1, 4]))], &[B, 4]);
    network.linear("classifier", "whole", [4, 6]);
    network.result("classifier");
    let network = placed(&network);
    let [scale, shift] = ["classifier.weight", "classifier.bias"].map(|key| weight(&network, key));
    assert_regions(&network, |vector| {
        let halves = [0, 2].map(|from| {
            let powers = vector.narrow(1, from, 2).exp();
            &powers / powers.sum_dim_intlist([1_i64].as_slice(), true, None::<Kind>)
        });
        Tensor::cat(&halves, 1).matmul(&scale.tr()) + shift
    });
}

/// A head with batch norm.
fn with_norm() -> programs::Network {
    let mut network = with_map();
    pool(&mut network, "vector", "map", 4);
    network.norm("norm", "vector", &[B, 4], true);
    network.linear("classifier", "norm", [4, 6]);
    network.result("classifier");
    network
}

#[test]
fn a_batch_norm_in_a_head_uses_and_tracks_the_statistics_of_whole_images() {
    let network = placed(&with_norm());
    let alone = placed(&with_norm());
    let found = no_grad(|| network.regions(&network.features(&images(), true), &[1, 2, 4], true));
    let own = no_grad(|| alone.logits(&images(), true));
    // What the finer scales see changes neither the whole images' logits nor what evaluation will use.
    assert!(distance(&found.global, &own) < reordered(Kind::Double));
    for (one, other) in network.weights().iter().zip(alone.weights()) {
        assert!(distance(&one.tensor, &other.tensor) < reordered(Kind::Double), "{}", one.name);
    }
    assert_eq!(i64::try_from(weight(&network, "norm.num_batches_tracked")).unwrap(), 1);
    // Every region passes the same function.
    let fresh = placed(&with_norm());
    let vectors = means(&no_grad(|| fresh.features(&images(), false)));
    let whole = vectors.select(1, 0);
    let mean = whole.mean_dim([0_i64].as_slice(), false, None::<Kind>);
    let variance = (&whole - &mean).square().mean_dim([0_i64].as_slice(), false, None::<Kind>);
    let [norm_scale, norm_shift, scale, shift] =
        ["norm.weight", "norm.bias", "classifier.weight", "classifier.bias"].map(|key| weight(&fresh, key));
    let normalised = (&vectors - &mean) / (&variance + 1e-3).sqrt() * norm_scale + norm_shift;
    let wanted = normalised.matmul(&scale.tr()) + shift;
    assert!(distance(&found.local.narrow(1, 0, 5), &wanted) < reordered(Kind::Double));
    let unbiased = variance * 4.0 / 3.0;
    let tracked = weight(&fresh, "norm.running_var") * 0.7 + unbiased * 0.3;
    assert!(distance(weight(&network, "norm.running_var"), &tracked) < reordered(Kind::Double));
}

#[test]
fn gradients_of_a_batch_norm_in_a_head_pass_through_its_statistics() {
    let loss = |network: &Network| {
        let regions = network.regions(&network.features(&images(), true), &[1, 2], true);
        (regions.local.square() * 0.5).sum(Kind::Double)
    };
    let network = placed(&with_norm());
    loss(&network).backward();
    for key in ["stem.weight", "norm.weight", "norm.bias", "classifier.weight"] {
        let gradient = weight(&network, key).grad();
        // Along one direction, by central differences.
        let direction = gradient.sign();
        let moved = |by: f64| {
            let other = placed(&with_norm());
            no_grad(|| {
                let index = other.weights().iter().position(|weight| weight.name == key).unwrap();
                other.set(index, &(weight(&other, key) + &direction * by));
                loss(&other).double_value(&[])
            })
        };
        let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
        let wanted = (&gradient * &direction).sum(Kind::Double).double_value(&[]);
        assert!((slope - wanted).abs() < 1e-6 * wanted.abs().max(1.0), "{key}: {slope} and {wanted}");
    }
}

#[test]
fn a_batch_norm_with_one_value_per_channel_uses_its_running_statistics() {
    let network = placed(&with_norm());
    let image = images().narrow(0, 0, 1);
    let before = weight(&network, "norm.running_var").copy();
    let trained = no_grad(|| network.logits(&image, true));
    assert!(distance(&trained, &no_grad(|| network.logits(&image, false))) < reordered(Kind::Double));
    assert_eq!(*weight(&network, "norm.running_var"), before);
    let regions = no_grad(|| network.regions(&network.features(&image, true), &[1, 2], true));
    assert!(distance(&regions.global, &trained) < reordered(Kind::Double));
}

#[test]
fn a_network_without_a_map_has_scale_one() {
    let network = placed(&super::networks::without_map());
    assert!(!network.has_map());
    let regions = no_grad(|| network.regions(&network.features(&images(), false), &[1], false));
    let logits = no_grad(|| network.logits(&images(), false));
    assert_eq!(regions.global, logits);
    assert_eq!(regions.local, logits.unsqueeze(1));
    assert_eq!(json!(network.map_size(8)), json!(null));
}
