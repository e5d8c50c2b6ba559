//! Promise: resized rows and maps are sums of the elements, with the weights, that PyTorch takes.

use serde_json::{Value, json};

use super::programs::{B, Network, flag, int, ints, tensor};

#[test]
fn the_exactly_nearest_is_the_one_around_the_centre() {
    let rows = |from_factor: bool, columns: i64| {
        let mut network = Network::new();
        network.convolve();
        let none = json!({"as_none": true});
        let factors = json!({"as_floats": [1.0, columns as f64 / 8.0]});
        let (size, factors) = if from_factor { (none, factors) } else { (ints(&[8, columns]), none) };
        let inputs = [("input", tensor("conv")), ("output_size", size), ("scale_factors", factors)];
        network.node("_upsample_nearest_exact2d.vec", "resized", &inputs, &[B, 4, 8, columns]);
        network.pool_and_classify("resized");
        let read = network.read().unwrap();
        let weights =
            read.tensors().iter().find(|stored| stored.tensor.name().starts_with("resized.constant.")).unwrap();
        let (columns, weights) = (columns as usize, read.floats(weights).unwrap());
        (0..columns)
            .map(|column| (0..8).find(|row| weights[row * columns + column] == 1.0).unwrap())
            .collect::<Vec<_>>()
    };
    for from_factor in [false, true] {
        // ⌊(i + ½)·8/3⌋ and ⌊(i + ½)·8/12⌋; the nearest by edges would be 0, 2, 5 and so on.
        assert_eq!(rows(from_factor, 3), [1, 4, 6]);
        assert_eq!(rows(from_factor, 12), [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7]);
        assert_eq!(rows(from_factor, 16), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]);
    }
}

/// The weights [8, columns] that resize the rows of a map to this number of columns.
fn weights(operator: &str, columns: i64, more: &[(&'static str, Value)]) -> Vec<Vec<f32>> {
    let mut network = Network::new();
    network.convolve();
    let mut inputs = vec![("input", tensor("conv")), ("output_size", ints(&[8, columns]))];
    inputs.extend(more.iter().cloned());
    network.node(operator, "resized", &inputs, &[B, 4, 8, columns]);
    network.pool_and_classify("resized");
    let read = network.read().unwrap();
    let mut stored = read.tensors().iter().filter(|stored| stored.tensor.name().starts_with("resized.constant."));
    let elements = read.floats(stored.next().unwrap()).unwrap();
    assert!(stored.next().is_none(), "only columns are resized");
    let column = |column: usize| elements.iter().skip(column).step_by(columns as usize).copied().collect();
    (0..columns as usize).map(column).collect()
}

#[test]
fn an_antialiased_element_has_something_of_all_that_it_stands_for() {
    let aligned = [("align_corners", flag(false))];
    // Triangles of 2·2 elements around 1, 3, 5 and 7, cut off at the ends: ¼, ¾, ¾, ¼ over their sum.
    let halved = weights("_upsample_bilinear2d_aa.vec", 4, &aligned);
    let first = [3.0 / 7.0, 3.0 / 7.0, 1.0 / 7.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let second = [0.0, 0.125, 0.375, 0.375, 0.125, 0.0, 0.0, 0.0];
    let is_near = |found: &[f32], wanted: &[f64]| {
        found.len() == wanted.len() && found.iter().zip(wanted).all(|(one, two)| (f64::from(*one) - two).abs() < 1e-6)
    };
    assert!(is_near(&halved[0], &first) && is_near(&halved[1], &second), "{halved:?}");
    let mirrored: Vec<f64> = first.iter().rev().copied().collect();
    assert!(is_near(&halved[3], &mirrored), "{halved:?}");
    // Keys' kernel with a = −½ at distances of ¼, ¾, 1¼ and 1¾.
    let cubic = [111.0 / 128.0, 29.0 / 128.0, -9.0 / 128.0, -3.0 / 128.0];
    let third = weights("_upsample_bicubic2d_aa.vec", 4, &aligned).swap_remove(1);
    let sum = cubic[0] * 2.0 + cubic[1] * 2.0 + cubic[2] * 2.0 + cubic[3];
    let wanted = [2, 1, 0, 0, 1, 2, 3].map(|at| cubic[at] / sum);
    assert!(is_near(&third[..7], &wanted), "{third:?} and not {wanted:?}");
    // Enlarged, it is what it is without.
    let plain = weights("upsample_bilinear2d.vec", 16, &aligned);
    assert_eq!(weights("_upsample_bilinear2d_aa.vec", 16, &aligned), plain);
}

#[test]
fn a_factor_that_leaves_a_size_as_it_is_moves_what_the_plain_cubic_kernel_makes_alone() {
    for (operator, moves) in [
        ("upsample_bilinear2d.vec", false),
        ("_upsample_bilinear2d_aa.vec", false),
        ("upsample_bicubic2d.vec", true),
        ("_upsample_bicubic2d_aa.vec", false),
    ] {
        let mut network = Network::new();
        network.convolve();
        let inputs = [
            ("input", tensor("conv")),
            ("output_size", json!({"as_none": true})),
            ("align_corners", flag(false)),
            ("scale_factors", json!({"as_floats": [1.0625, 1.0625]})),
        ];
        network.node(operator, "resized", &inputs, &[B, 4, 8, 8]);
        network.pool_and_classify("resized");
        let read = network.read().unwrap();
        let has_weights = read.tensors().iter().any(|stored| stored.tensor.name().starts_with("resized.constant."));
        assert_eq!(has_weights, moves, "{operator}");
    }
}

#[test]
fn rows_are_resized_as_maps_are() {
    let mut network = Network::new();
    network.convolve();
    network.node("select.int", "rows", &[("self", tensor("conv")), ("dim", int(2)), ("index", int(0))], &[B, 4, 8]);
    let none = json!({"as_none": true});
    let inputs = [
        ("input", tensor("rows")),
        ("output_size", none),
        ("align_corners", flag(true)),
        ("scale_factors", json!({"as_floats": [0.5]})),
    ];
    network.node("upsample_linear1d.vec", "resized", &inputs, &[B, 4, 4]);
    network.node("mean.dim", "mean", &[("self", tensor("resized")), ("dim", ints(&[2]))], &[B, 4]);
    network.classify("mean");
    let read = network.read().unwrap();
    let stored = read.tensors().iter().find(|stored| stored.tensor.name().starts_with("resized.constant.")).unwrap();
    let elements = read.floats(stored).unwrap();
    // At 0, 7/3, 14/3 and 7.
    let wanted = |row: usize, column: usize| (1.0 - (column as f64 * 7.0 / 3.0 - row as f64).abs()).max(0.0);
    for (at, found) in elements.iter().enumerate() {
        assert!((f64::from(*found) - wanted(at / 4, at % 4)).abs() < 1e-6, "{at}: {found}");
    }
}
