//! Reads poolings of maps and of sequences.

use super::arguments::{Arguments, unexpected};
use super::error::OrFault;
use super::layers::{one_row, without_row};
use super::lowering::{Lowering, Source};
use super::op::{Op, Window};

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

pub(super) fn average_pool(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensor("self")?;
    let window = window(arguments)?;
    let counts_padding = arguments.flag("count_include_pad", Some(true))?;
    if arguments.take("divisor_override").is_some() {
        return Err("divides by another number than the window's size, which is not supported".to_owned());
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

/// Windows of PyTorch's are of one size, as those of other poolings, if the sides are multiples of the wanted ones.
fn adaptive_max(lowering: &mut Lowering<'_>, input: Source, wanted: [u64; 2]) -> OrFault<Source> {
    let sides = [lowering.fixed(input, 2)?, lowering.fixed(input, 3)?];
    if wanted.contains(&0) {
        return Err(format!("pools {sides:?} to {wanted:?}"));
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
