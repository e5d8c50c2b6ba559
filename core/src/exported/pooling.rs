//! Reads poolings of maps and of sequences.

use super::arguments::{Arguments, unexpected};
use super::error::OrFault;
use super::layers::{one_row, without_row};
use super::lowering::{Lowering, Source};
use super::op::{Op, Window};
use super::size::{Size, shown_shape};

fn window(arguments: &mut Arguments<'_>) -> OrFault<Window> {
    let size = arguments.pair("kernel_size", None)?;
    Ok(Window {
        size,
        stride: arguments.pair("stride", Some(size))?,
        padding: arguments.pair("padding", Some([0, 0]))?,
        dilation: arguments.pair("dilation", Some([1, 1]))?,
        rounds_up: arguments.flag("ceil_mode", Some(false))?,
    })
}

pub(super) fn max_pool(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensor("self")?;
    window(arguments).map(Op::MaxPool)
}

pub(super) fn max_pool_with_places(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let window = window(&mut lowering.arguments)?;
    lowering.leaves_out("the positions of largest elements");
    Ok(vec![lowering.add(Op::MaxPool(window), &[input])?])
}

pub(super) fn average_pool(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensor("self")?;
    let window = window(arguments)?;
    let counts_padding = arguments.flag("count_include_pad", Some(true))?;
    if arguments.take("divisor_override").is_some() {
        return Err("divides by a number other than the window's size, which is not supported".to_owned());
    }
    Ok(Op::AveragePool { window, counts_padding })
}

pub(super) fn adaptive_average_pool(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensor("self")?;
    Ok(Op::AdaptiveAveragePool { size: arguments.pair("output_size", None)? })
}

pub(super) fn adaptive_max_pool(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let wanted = lowering.arguments.pair("output_size", None)?;
    lowering.leaves_out("the positions of largest elements");
    Ok(vec![adaptive_max(lowering, input, wanted)?])
}

/// If the sides are multiples of the wanted ones, PyTorch's windows are all of one size, as in other poolings.
fn adaptive_max(lowering: &mut Lowering<'_>, input: Source, wanted: [u64; 2]) -> OrFault<Source> {
    let sides = [lowering.fixed(input, 2)?, lowering.fixed(input, 3)?];
    if wanted.contains(&0) {
        return Err(format!("pools a map of {sides:?} to {wanted:?}, which leaves nothing"));
    }
    if (0..2).any(|at| sides[at] % wanted[at] != 0) {
        return lowering.add(Op::AdaptiveMaxPool { size: wanted }, &[input]);
    }
    let size = [0, 1].map(|at| sides[at] / wanted[at]);
    let window = Window { size, stride: size, padding: [0, 0], dilation: [1, 1], rounds_up: false };
    lowering.add(Op::MaxPool(window), &[input])
}

pub(super) fn adaptive_max_pool_1d(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let map = one_row(lowering, input)?;
    let [length, _] = lowering.arguments.pair("output_size", None)?;
    lowering.leaves_out("the positions of largest elements");
    let pooled = adaptive_max(lowering, map, [1, length])?;
    Ok(vec![without_row(lowering, pooled)?])
}

pub(super) fn adaptive_average_pool_1d(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let map = one_row(lowering, input)?;
    let [length, _] = lowering.arguments.pair("output_size", None)?;
    let pooled = lowering.add(Op::AdaptiveAveragePool { size: [1, length] }, &[map])?;
    Ok(vec![without_row(lowering, pooled)?])
}

#[derive(Debug, Clone, Copy)]
pub(super) enum PoolingKind {
    Average,
    Max,
}

/// A pooling of [B, C, L]: one of maps that are one row high.
pub(super) fn pool_1d(lowering: &mut Lowering<'_>, kind: PoolingKind) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let map = one_row(lowering, input)?;
    let one = |lowering: &mut Lowering<'_>, name: &str, default: Option<u64>| -> OrFault<u64> {
        match lowering.arguments.ints(name)?.unwrap_or_default().as_slice() {
            [] => default.ok_or_else(|| unexpected(name)),
            [number] => u64::try_from(*number).map_err(|_| unexpected(name)),
            _ => Err(unexpected(name)),
        }
    };
    let size = one(lowering, "kernel_size", None)?;
    let window = Window {
        size: [1, size],
        stride: [1, one(lowering, "stride", Some(size))?],
        padding: [0, one(lowering, "padding", Some(0))?],
        dilation: [1, one(lowering, "dilation", Some(1))?],
        rounds_up: lowering.arguments.flag("ceil_mode", Some(false))?,
    };
    let op = match kind {
        PoolingKind::Max => Op::MaxPool(window),
        PoolingKind::Average => {
            let counts_padding = lowering.arguments.flag("count_include_pad", Some(true))?;
            Op::AveragePool { window, counts_padding }
        }
    };
    let pooled = lowering.add(op, &[map])?;
    Ok(vec![without_row(lowering, pooled)?])
}

/// An average over [B, C, D, H, W], such as that of local response norm over channels: one over D, then one over H and
/// W. The windows of each count their own positions, whose product is what PyTorch divides by.
pub(super) fn average_pool_3d(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let size = three(&mut lowering.arguments, "kernel_size", None)?;
    let stride = three(&mut lowering.arguments, "stride", Some(size))?;
    let padding = three(&mut lowering.arguments, "padding", Some([0; 3]))?;
    let rounds_up = lowering.arguments.flag("ceil_mode", Some(false))?;
    let counts_padding = lowering.arguments.flag("count_include_pad", Some(true))?;
    if lowering.arguments.take("divisor_override").is_some() {
        return Err("divides by a number other than the window's size, which is not supported".to_owned());
    }
    let shape = lowering.shape(input);
    let [batch, channels, _, height, width] = shape[..] else {
        return Err(format!("needs a volume [B, C, D, H, W], and has {}", shown_shape(&shape)));
    };
    let merged = |one: Size, two: Size| one.times(two).ok_or_else(|| "has too many elements".to_owned());
    let dilation = [1, 1];
    let over_depth = [[size[0], 1], [stride[0], 1], [padding[0], 0]];
    let over_map = [size, stride, padding].map(|[_, height, width]| [height, width]);
    let mut pooled = input;
    for (at, [size, stride, padding]) in [over_depth, over_map].into_iter().enumerate() {
        if (size, stride, padding) == ([1, 1], [1, 1], [0, 0]) {
            continue;
        }
        let depth = lowering.shape(pooled)[2];
        let map = match at {
            0 => vec![batch, channels, depth, merged(height, width)?],
            _ => vec![batch, merged(channels, depth)?, height, width],
        };
        let map = lowering.reshape(pooled, map)?;
        let window = Window { size, stride, padding, dilation, rounds_up };
        let made = lowering.add(Op::AveragePool { window, counts_padding }, &[map])?;
        let sides = lowering.shape(made);
        let volume = match at {
            0 => vec![batch, channels, sides[2], height, width],
            _ => vec![batch, channels, depth, sides[2], sides[3]],
        };
        pooled = lowering.reshape(made, volume)?;
    }
    Ok(vec![pooled])
}

/// One or three numbers for depth, height and width.
fn three(arguments: &mut Arguments<'_>, name: &str, default: Option<[u64; 3]>) -> OrFault<[u64; 3]> {
    let numbers = arguments.ints(name)?.unwrap_or_default();
    let number = |number: i64| u64::try_from(number).map_err(|_| format!("has a negative {name}"));
    match *numbers.as_slice() {
        [] => default.ok_or_else(|| unexpected(name)),
        [all] => Ok([number(all)?; 3]),
        [depth, height, width] => Ok([number(depth)?, number(height)?, number(width)?]),
        _ => Err(unexpected(name)),
    }
}
