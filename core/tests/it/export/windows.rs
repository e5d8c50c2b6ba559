//! Convolutions and poolings in double precision, element by element.

use distillery_core::exported::Window;

use super::reference::Tensor;

pub fn convolution(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
    groups: usize,
    shape: &[usize],
) -> Tensor {
    let [outputs, inputs, height, width] = [0, 1, 2, 3].map(|at| weight.shape[at]);
    Tensor::build(shape, |index| {
        let first = index[1] / (outputs / groups) * inputs;
        let mut sum = bias.map_or(0.0, |bias| bias.data[index[1]]);
        for (y, z) in (0..height).flat_map(|y| (0..width).map(move |z| (y, z))) {
            let row_or_column = |side: usize, at: usize| {
                let at = index[2 + side] * window.stride[side] as usize + at * window.dilation[side] as usize;
                at.checked_sub(window.padding[side] as usize).filter(|&at| at < x.shape[2 + side])
            };
            let (Some(row), Some(column)) = (row_or_column(0, y), row_or_column(1, z)) else { continue };
            // Plain indices: most of the time of these tests is spent here.
            let mut place = ((index[0] * x.shape[1] + first) * x.shape[2] + row) * x.shape[3] + column;
            let mut factor = (index[1] * inputs * height + y) * width + z;
            for _ in 0..inputs {
                sum += x.data[place] * weight.data[factor];
                place += x.shape[2] * x.shape[3];
                factor += height * width;
            }
        }
        sum
    })
}

/// Output o takes what input i spreads to it: o + padding = i·stride + at·dilation, for each place `at` of the kernel.
pub fn transposed_convolution(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
    groups: usize,
    shape: &[usize],
) -> Tensor {
    let [inputs, outputs, height, width] = [0, 1, 2, 3].map(|at| weight.shape[at]);
    Tensor::build(shape, |index| {
        let (group, output) = (index[1] / outputs, index[1] % outputs);
        let source = |side: usize, at: usize| {
            let spread = index[2 + side] + window.padding[side] as usize;
            let from = spread.checked_sub(at * window.dilation[side] as usize)?;
            let stride = window.stride[side] as usize;
            Some(from / stride).filter(|&place| from % stride == 0 && place < x.shape[2 + side])
        };
        let mut sum = bias.map_or(0.0, |bias| bias.data[index[1]]);
        for (y, z) in (0..height).flat_map(|y| (0..width).map(move |z| (y, z))) {
            let (Some(row), Some(column)) = (source(0, y), source(1, z)) else { continue };
            for input in group * inputs / groups..(group + 1) * inputs / groups {
                sum += x.at(&[index[0], input, row, column]) * weight.at(&[input, output, y, z]);
            }
        }
        sum
    })
}

/// `reduce` gets the values in a window, and the number of its places in the map and its padding.
pub fn pool(x: &Tensor, window: Window, shape: &[usize], reduce: impl Fn(&[f64], usize) -> f64) -> Tensor {
    Tensor::build(shape, |index| {
        let places = |side: usize| {
            let start = index[2 + side] * window.stride[side] as usize;
            let end = x.shape[2 + side] + 2 * window.padding[side] as usize;
            let at = move |at: u64| start + (at * window.dilation[side]) as usize;
            (0..window.size[side]).map(at).filter(move |&at| at < end).collect::<Vec<_>>()
        };
        let inside = |side: usize, places: &[usize]| {
            let places = places.iter().filter_map(|at| at.checked_sub(window.padding[side] as usize));
            places.filter(|&at| at < x.shape[2 + side]).collect::<Vec<_>>()
        };
        let (rows, columns) = (places(0), places(1));
        let mut values = Vec::new();
        for row in inside(0, &rows) {
            values.extend(inside(1, &columns).iter().map(|&column| x.at(&[index[0], index[1], row, column])));
        }
        reduce(&values, rows.len() * columns.len())
    })
}

pub fn adaptive_pool(x: &Tensor, size: [u64; 2], shape: &[usize], reduce: impl Fn(&[f64]) -> f64) -> Tensor {
    Tensor::build(shape, |index| {
        let range = |side: usize| {
            let (at, of, from) = (index[2 + side], size[side] as usize, x.shape[2 + side]);
            at * from / of..((at + 1) * from).div_ceil(of)
        };
        let places = range(0).flat_map(|row| range(1).map(move |column| (row, column)));
        let values: Vec<f64> = places.map(|(row, column)| x.at(&[index[0], index[1], row, column])).collect();
        reduce(&values)
    })
}
