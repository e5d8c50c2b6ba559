//! Transposed convolutions compute what their definition says: see [`super::operators`].

use tch::{Kind, Tensor};

use super::operators::{Weights, assert_computes};
use super::programs::{self, B, int, ints, tensor};

/// Height and width.
#[derive(Clone, Copy)]
struct Geometry {
    stride: [i64; 2],
    padding: [i64; 2],
    output_padding: [i64; 2],
    dilation: [i64; 2],
    groups: i64,
}

/// Every element of `x` [4, 3, H, W], times the kernel, is added to the result at the places that the kernel covers.
fn spread(x: &Tensor, weight: &Tensor, geometry: Geometry) -> Tensor {
    let Geometry { stride, padding, output_padding, dilation, groups } = geometry;
    let (&[_, channels, height, width], &[_, each, rows, columns]) = (x.size().as_slice(), weight.size().as_slice())
    else {
        unreachable!("maps and kernels have four dimensions")
    };
    let grouped = x.reshape([4, groups, channels / groups, 1, height, width]);
    let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let parts = places.map(|(row, column)| {
        let place = weight.select(3, column).select(2, row).reshape([1, groups, channels / groups, each, 1, 1]);
        let products = (&grouped * place).sum_dim_intlist([2_i64].as_slice(), false, None::<Kind>);
        // Zeros between the elements.
        let apart = products
            .reshape([4, groups * each, height, 1, width, 1])
            .constant_pad_nd([0, stride[1] - 1, 0, 0, 0, stride[0] - 1])
            .reshape([4, groups * each, height * stride[0], width * stride[1]])
            .slice(2, 0, (height - 1) * stride[0] + 1, 1)
            .slice(3, 0, (width - 1) * stride[1] + 1, 1);
        let after = |side: usize, size: i64, at: i64| (size - 1 - at) * dilation[side] + output_padding[side];
        apart.constant_pad_nd([column * dilation[1], after(1, columns, column), row * dilation[0], after(0, rows, row)])
    });
    let sum = parts.reduce(|sum, part| sum + part).expect("a kernel has elements");
    let size = sum.size();
    sum.slice(2, padding[0], size[2] - padding[0], 1).slice(3, padding[1], size[3] - padding[1], 1)
}

#[test]
fn transposed_convolutions_with_every_geometry_are_computed_as_defined() {
    let plain = Geometry { stride: [2, 2], padding: [0, 0], output_padding: [0, 0], dilation: [1, 1], groups: 1 };
    let all = Geometry { stride: [2, 3], padding: [1, 2], output_padding: [1, 2], dilation: [3, 2], groups: 1 };
    for (geometry, kernel, has_bias) in [
        (plain, [5, 2, 2], false),
        (Geometry { stride: [1, 1], padding: [1, 1], ..plain }, [4, 3, 3], true),
        (all, [2, 3, 2], true),
        (Geometry { groups: 3, ..all }, [2, 2, 3], true),
        // Of one position each, with others between them.
        (Geometry { output_padding: [1, 1], ..plain }, [4, 1, 1], false),
        (Geometry { stride: [2, 3], output_padding: [0, 2], ..plain }, [4, 1, 1], true),
    ] {
        let [each, rows, columns] = kernel;
        let outputs = each * geometry.groups;
        let side = |at: usize, size: i64| {
            let Geometry { stride, padding, output_padding, dilation, .. } = geometry;
            7 * stride[at] - 2 * padding[at] + dilation[at] * (size - 1) + 1 + output_padding[at]
        };
        let shape = [B, outputs, side(0, rows), side(1, columns)];
        let build = |program: &mut programs::Network| {
            program.parameter("t.weight", &[3, each, rows, columns]);
            let mut inputs = vec![("input", tensor("x")), ("weight", tensor("t.weight"))];
            if has_bias {
                program.parameter("t.bias", &[outputs]);
                inputs.push(("bias", tensor("t.bias")));
            }
            inputs.extend([
                ("stride", ints(&geometry.stride)),
                ("padding", ints(&geometry.padding)),
                ("output_padding", ints(&geometry.output_padding)),
                ("groups", int(geometry.groups)),
                ("dilation", ints(&geometry.dilation)),
            ]);
            program.node("conv_transpose2d.input", "y", &inputs, &shape);
            ("y", shape.to_vec())
        };
        let define = |x: &Tensor, weights: &Weights| {
            let made = spread(x, &weights["t.weight"], geometry);
            if has_bias { made + weights["t.bias"].view([1, -1, 1, 1]) } else { made }
        };
        assert_computes("transposed convolution", false, &build, &define);
    }
}

#[test]
fn a_transposed_convolution_of_rows_is_one_of_maps_that_are_one_row_high() {
    let build = |program: &mut programs::Network| {
        program.node("flatten.using_ints", "rows", &[("self", tensor("x")), ("start_dim", int(2))], &[B, 3, 64]);
        program.parameter("t.weight", &[3, 2, 5]);
        let inputs = [
            ("input", tensor("rows")),
            ("weight", tensor("t.weight")),
            ("stride", ints(&[3])),
            ("padding", ints(&[2])),
            ("output_padding", ints(&[1])),
        ];
        program.node("conv_transpose1d.default", "y", &inputs, &[B, 2, 191]);
        ("y", vec![B, 2, 191])
    };
    let geometry = Geometry { stride: [1, 3], padding: [0, 2], output_padding: [0, 1], dilation: [1, 1], groups: 1 };
    let define = |x: &Tensor, weights: &Weights| {
        spread(&x.reshape([4, 3, 1, 64]), &weights["t.weight"].unsqueeze(2), geometry).squeeze_dim(2)
    };
    assert_computes("transposed convolution of rows", false, &build, &define);
}

#[test]
fn columns_are_added_up_to_the_map_whose_windows_they_are() {
    let build = |program: &mut programs::Network| {
        let all = [("self", tensor("x")), ("shape", ints(&[-1, 12, 16]))];
        program.node("reshape.default", "columns", &all, &[B, 12, 16]);
        let inputs = [
            ("self", tensor("columns")),
            ("output_size", ints(&[8, 12])),
            ("kernel_size", ints(&[2, 2])),
            ("dilation", ints(&[2, 2])),
            ("padding", ints(&[1, 1])),
            ("stride", ints(&[2, 3])),
        ];
        program.node("col2im.default", "y", &inputs, &[B, 3, 8, 12]);
        ("y", vec![B, 3, 8, 12])
    };
    assert_computes("columns", false, &build, &|x, _| {
        let columns = x.reshape([4, 3, 2, 2, 4, 4]);
        // The window of row 1 and column 2 begins one position before (2, 6).
        let mut sum = Tensor::zeros([4, 3, 10, 14], (Kind::Double, x.device()));
        for (row, column, at, across) in indices() {
            let element = columns.select(5, across).select(4, at).select(3, column).select(2, row);
            let place = [at * 2 + row * 2, across * 3 + column * 2];
            sum += element.view([4, 3, 1, 1]).constant_pad_nd([place[1], 13 - place[1], place[0], 9 - place[0]]);
        }
        sum.slice(2, 1, 9, 1).slice(3, 1, 13, 1)
    });
}

/// Rows and columns of a window of 2×2, and of its 4×4 places.
fn indices() -> impl Iterator<Item = (i64, i64, i64, i64)> {
    (0..64).map(|at| (at / 32, at / 16 % 2, at / 4 % 4, at % 4))
}
