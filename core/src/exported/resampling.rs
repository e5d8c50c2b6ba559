//! Reads what takes elements by fixed numbers: stacking, repeating, padding, indexing, windows, shuffling.

use super::arguments::{MOST_DIMENSIONS, unexpected};
use super::error::OrFault;
use super::lowering::{Lowering, Source};
use super::op::Op;
use super::size::{Size, shown_shape};
use crate::checkpoint::Dtype;

pub(super) fn stack(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let tensors = lowering.tensors("tensors")?;
    let shape = lowering.shape(tensors[0]);
    let dimension = lowering.arguments.dimension("dim", Some(0), shape.len() + 1)?;
    let mut raised = Vec::new();
    for tensor in tensors {
        let mut shape = lowering.shape(tensor);
        shape.insert(dimension.min(shape.len()), Size::Fixed(1));
        raised.push(lowering.reshape(tensor, shape)?);
    }
    Ok(vec![lowering.add(Op::Concat { dimension }, &raised)?])
}

/// Each dimension as often as the argument `counts` says.
pub(super) fn repeat(lowering: &mut Lowering<'_>, counts: &str) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let wanted = super::functions::known_shape(&mut lowering.arguments, counts)?;
    let shape = lowering.shape(input);
    let Some(new) = wanted.len().checked_sub(shape.len()) else {
        return Err("repeats fewer dimensions than its input has".to_owned());
    };
    // [d] as [1, d], expanded to [count, d], and merged.
    let (mut split, mut expanded, mut merged) = (Vec::new(), Vec::new(), Vec::new());
    for (at, &count) in wanted.iter().enumerate() {
        let size = at.checked_sub(new).map_or(Size::Fixed(1), |at| shape[at]);
        if count != Size::Fixed(1) {
            split.push(Size::Fixed(1));
            expanded.push(count);
        }
        split.push(size);
        expanded.push(size);
        merged.push(count.times(size).ok_or("repeats the batch, which is not supported")?);
    }
    let split = lowering.reshape(input, split)?;
    let expanded = lowering.add(Op::Expand { shape: expanded }, &[split])?;
    Ok(vec![lowering.reshape(expanded, merged)?])
}

/// Each slice of a dimension several times, one after the other.
pub(super) fn repeat_each(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let count = lowering.arguments.count("repeats", None)?;
    if lowering.arguments.is_missing("dim") {
        return Err("repeats the elements of all dimensions, which is not supported".to_owned());
    }
    let rank = lowering.value(input).shape.len();
    let dimension = lowering.arguments.dimension("dim", None, rank)?;
    lowering.arguments.pass(&["output_size"]);
    Ok(vec![each_repeated(lowering, input, dimension, count)?])
}

pub(super) fn each_repeated(
    lowering: &mut Lowering<'_>,
    input: Source,
    dimension: usize,
    count: u64,
) -> OrFault<Source> {
    let mut shape = lowering.shape(input);
    shape.insert(dimension + 1, Size::Fixed(1));
    let raised = lowering.reshape(input, shape.clone())?;
    shape[dimension + 1] = Size::Fixed(count);
    let expanded = lowering.add(Op::Expand { shape: shape.clone() }, &[raised])?;
    shape.remove(dimension + 1);
    shape[dimension] = shape[dimension].times(Size::Fixed(count)).ok_or("has too many elements")?;
    lowering.reshape(expanded, shape)
}

/// Each of several vectors along a dimension of its own.
pub(super) fn grid(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let vectors = lowering.tensors("tensors")?;
    if vectors.len() > MOST_DIMENSIONS {
        return Err(format!("makes a grid of {} vectors, and {MOST_DIMENSIONS} are read at most", vectors.len()));
    }
    let swaps = lowering.arguments.text("indexing", "ij")? == "xy" && vectors.len() > 1;
    let place = |at: usize| if swaps && at < 2 { 1 - at } else { at };
    let mut full = vec![Size::Fixed(1); vectors.len()];
    for (at, &vector) in vectors.iter().enumerate() {
        let shape = lowering.shape(vector);
        let [size] = shape[..] else { return Err(format!("makes a grid of {}", shown_shape(&shape))) };
        full[place(at)] = size;
    }
    let mut grids = Vec::new();
    for (at, &vector) in vectors.iter().enumerate() {
        let mut shape = vec![Size::Fixed(1); vectors.len()];
        shape[place(at)] = full[place(at)];
        let raised = lowering.reshape(vector, shape)?;
        grids.push(lowering.add(Op::Expand { shape: full.clone() }, &[raised])?);
    }
    Ok(grids)
}

pub(super) fn flip(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let mut flipped = lowering.tensor("self")?;
    let rank = lowering.value(flipped).shape.len();
    for dimension in lowering.arguments.dimensions("dims", rank)? {
        let size = lowering.fixed(flipped, dimension)?;
        flipped = lowering.take(flipped, dimension, size, |at| size - 1 - at)?;
    }
    Ok(vec![flipped])
}

pub(super) fn pad(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let mut padded = lowering.tensor("self")?;
    let rank = lowering.value(padded).shape.len();
    let mode = lowering.arguments.text("mode", "constant")?;
    let value = lowering.arguments.number("value", Some(0.0))?;
    let numbers = lowering.arguments.ints("pad")?.unwrap_or_default();
    let (pairs, rest) = numbers.as_chunks::<2>();
    if pairs.len() > rank || !rest.is_empty() {
        return Err("has another number of paddings than its input has sides".to_owned());
    }
    // PyTorch begins with the last dimension.
    for (dimension, pair) in (0..rank).rev().zip(pairs) {
        let [before, after] = pair.map(|amount| amount.clamp(-(1 << 32), 1 << 32));
        if before < 0 || after < 0 {
            let size = lowering.fixed(padded, dimension)?;
            let start = before.min(0).unsigned_abs();
            let end = size.saturating_sub(after.min(0).unsigned_abs());
            if start >= end {
                return Err("cuts away all of its input".to_owned());
            }
            padded = lowering.add(Op::Slice { dimension, start, end, step: 1 }, &[padded])?;
        }
        if mode != "constant" && (before > 0 || after > 0) {
            let size = lowering.fixed(padded, dimension)?;
            padded = mirrored(lowering, padded, dimension, Mirror { mode, size, before, after })?;
        }
    }
    let amounts: Vec<[u64; 2]> =
        pairs.iter().rev().map(|pair| pair.map(|amount| amount.max(0).unsigned_abs())).collect();
    if mode == "constant" && amounts.iter().any(|amounts| *amounts != [0, 0]) {
        padded = lowering.add(Op::Pad { amounts, value }, &[padded])?;
    }
    Ok(vec![padded])
}

/// A padding of one dimension with its own elements.
struct Mirror<'a> {
    mode: &'a str,
    size: u64,
    before: i64,
    after: i64,
}

fn mirrored(lowering: &mut Lowering<'_>, input: Source, dimension: usize, mirror: Mirror<'_>) -> OrFault<Source> {
    let Mirror { mode, size, .. } = mirror;
    let [before, after] = [mirror.before, mirror.after].map(|amount| amount.max(0));
    let length = i64::try_from(size).map_err(|_| unexpected("pad"))?;
    let most = match mode {
        "reflect" => length - 1,
        "circular" => length,
        "replicate" => i64::MAX,
        _ => return Err("has an unknown mode of padding".to_owned()),
    };
    if before > most || after > most {
        return Err(format!("pads {size} with {before} and {after} in mode {mode}"));
    }
    let number = |at: u64| {
        let number = match (mode, at as i64 - before) {
            ("reflect", at) if at < 0 => -at,
            ("reflect", at) if at >= length => 2 * (length - 1) - at,
            ("circular", at) => at.rem_euclid(length),
            (_, at) => at.clamp(0, length - 1),
        };
        number.unsigned_abs()
    };
    lowering.take(input, dimension, size + before.unsigned_abs() + after.unsigned_abs(), number)
}

/// One dimension by a tensor of numbers, those before it whole.
pub(super) fn index(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let table = lowering.tensor("self")?;
    let indices = lowering.arguments.optional_tensors("indices")?;
    let given: Vec<(usize, Source)> =
        indices.iter().enumerate().filter_map(|(at, id)| Some((at, Source::Value((*id)?)))).collect();
    let [(dimension, rows)] = given[..] else {
        return Err("takes elements by several indices at once, which is not supported".to_owned());
    };
    if dimension >= lowering.value(table).shape.len() {
        return Err("has more indices than dimensions".to_owned());
    }
    Ok(vec![lowering.take_rows(table, dimension, rows)?])
}

pub(super) fn index_select(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let table = lowering.tensor("self")?;
    let rank = lowering.value(table).shape.len();
    let dimension = lowering.arguments.dimension("dim", None, rank)?;
    let rows = lowering.tensor("index")?;
    Ok(vec![lowering.take_rows(table, dimension, rows)?])
}

pub(super) fn embedding(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let (table, rows) = (lowering.tensor("weight")?, lowering.tensor("indices")?);
    if lowering.arguments.int("padding_idx", Some(-1))? != -1
        || lowering.arguments.flag("scale_grad_by_freq", Some(false))?
    {
        return Err("has gradients of its own (padding_idx or scale_grad_by_freq), which is not supported".to_owned());
    }
    lowering.arguments.pass(&["sparse"]);
    Ok(vec![lowering.take_rows(table, 0, rows)?])
}

/// Windows of a dimension, whose elements become the last dimension.
pub(super) fn unfold(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let rank = lowering.value(input).shape.len();
    let dimension = lowering.arguments.dimension("dimension", None, rank)?;
    let (size, step) = (lowering.arguments.count("size", None)?, lowering.arguments.count("step", None)?);
    let length = lowering.fixed(input, dimension)?;
    let room = length.checked_sub(size).filter(|_| step > 0 && size > 0);
    let count = room.ok_or_else(|| format!("takes windows of {size} from a dimension of size {length}"))? / step + 1;
    let rows = lowering.constant(Dtype::I64, &[count, size], |at| (at / size * step + at % size) as f64)?;
    let taken = lowering.take_rows(input, dimension, rows)?;
    let order = (0..=rank).filter(|&at| at != dimension + 1).chain([dimension + 1]).collect();
    lowering.is_view();
    Ok(vec![lowering.permute(taken, order)?])
}

/// The geometry of windows whose elements are columns.
struct Columns {
    kernel: [u64; 2],
    stride: [u64; 2],
    padding: [u64; 2],
    dilation: [u64; 2],
}

impl Columns {
    fn of(lowering: &mut Lowering<'_>) -> OrFault<Self> {
        let mut pair = |name: &str| lowering.arguments.pair(name, None);
        let (kernel, dilation) = (pair("kernel_size")?, pair("dilation")?);
        Ok(Self { kernel, dilation, padding: pair("padding")?, stride: pair("stride")? })
    }

    /// Positions in a window.
    fn area(&self) -> u64 {
        self.kernel[0].saturating_mul(self.kernel[1])
    }

    /// Kernels [channels·area, 1, h, w] of which each takes one position of one channel.
    fn kernels(&self, lowering: &mut Lowering<'_>, channels: u64) -> OrFault<Source> {
        let ([height, width], area) = (self.kernel, self.area());
        let is_own = |at: u64| at / area % area == at % area;
        let shape = [area.saturating_mul(channels), 1, height, width];
        lowering.constant(Dtype::F32, &shape, |at| f64::from(u8::from(is_own(at))))
    }
}

/// The windows of a map as columns [B, C·h·w, positions]: a convolution with weights of 0 and 1.
pub(super) fn columns(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let columns = Columns::of(lowering)?;
    let groups = lowering.fixed(input, 1)?;
    let weight = columns.kernels(lowering, groups)?;
    let Columns { stride, padding, dilation, .. } = columns;
    let op = Op::Convolution { stride, padding, dilation, groups, bias: false };
    let map = lowering.add(op, &[input, weight])?;
    let positions = lowering.fixed(map, 2)?.saturating_mul(lowering.fixed(map, 3)?);
    let batch = lowering.value(input).shape[0];
    let many = columns.area().saturating_mul(groups);
    Ok(vec![lowering.reshape(map, vec![batch, Size::Fixed(many), Size::Fixed(positions)])?])
}

/// A map that columns [B, C·h·w, positions] are added up to: a transposed convolution with weights of 0 and 1.
pub(super) fn map_of_columns(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let size = lowering.arguments.pair("output_size", None)?;
    let columns = Columns::of(lowering)?;
    let shape = lowering.shape(input);
    let [batch, Size::Fixed(many), Size::Fixed(positions)] = shape[..] else {
        return Err(format!("needs columns [B, C·h·w, positions], and has {}", shown_shape(&shape)));
    };
    // How often the window moves along a side, and what is left over behind its last place.
    let side = |at: usize| -> Option<(u64, u64)> {
        let covered = columns.dilation[at].checked_mul(columns.kernel[at].checked_sub(1)?)?.checked_add(1)?;
        let room = size[at].checked_add(columns.padding[at].checked_mul(2)?)?.checked_sub(covered)?;
        Some((room.checked_div(columns.stride[at])?, room.checked_rem(columns.stride[at])?))
    };
    let places = side(0).zip(side(1)).map(|((rows, below), (across, right))| ([rows + 1, across + 1], [below, right]));
    let fits = |[rows, across]: [u64; 2]| rows.checked_mul(across) == Some(positions);
    let channels = many.checked_div(columns.area()).filter(|channels| channels * columns.area() == many);
    let (Some(([rows, across], output_padding)), Some(groups)) = (places.filter(|(sides, _)| fits(*sides)), channels)
    else {
        let kernel = columns.kernel;
        return Err(format!("adds up columns {} of windows {kernel:?} to a map of {size:?}", shown_shape(&shape)));
    };
    let map = lowering.reshape(input, vec![batch, Size::Fixed(many), Size::Fixed(rows), Size::Fixed(across)])?;
    let weight = columns.kernels(lowering, groups)?;
    let Columns { stride, padding, dilation, .. } = columns;
    let op = Op::TransposedConvolution { stride, padding, output_padding, dilation, groups, bias: false };
    Ok(vec![lowering.add(op, &[map, weight])?])
}

/// Batch, channels, height and width of a map.
fn sides(lowering: &Lowering<'_>, input: Source) -> OrFault<(Size, [u64; 3])> {
    let shape = &lowering.value(input).shape;
    if shape.len() != 4 {
        return Err(format!("needs a map [B, C, H, W], and has {}", shown_shape(shape)));
    }
    Ok((shape[0], [lowering.fixed(input, 1)?, lowering.fixed(input, 2)?, lowering.fixed(input, 3)?]))
}

/// Divides a dimension's size.
fn part(size: u64, by: u64) -> OrFault<u64> {
    let part = size.checked_div(by).filter(|part| part * by == size);
    part.ok_or_else(|| format!("divides a dimension of size {size} into {by} parts"))
}

/// A map in other blocks: reshaped, its dimensions in another order, and reshaped again.
fn regrouped(
    lowering: &mut Lowering<'_>,
    input: Source,
    [split, merged]: [&[u64]; 2],
    order: &[usize],
) -> OrFault<Vec<Source>> {
    let batch = lowering.value(input).shape[0];
    let with_batch = |sizes: &[u64]| [batch].into_iter().chain(sizes.iter().map(|&size| Size::Fixed(size))).collect();
    let split = lowering.reshape(input, with_batch(split))?;
    let sorted = lowering.permute(split, order.to_vec())?;
    Ok(vec![lowering.reshape(sorted, with_batch(merged))?])
}

pub(super) fn pixel_shuffle(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let (_, [channels, height, width]) = sides(lowering, input)?;
    let factor = lowering.arguments.count("upscale_factor", None)?.min(1 << 16);
    let left = part(channels, factor * factor)?;
    let split = [left, factor, factor, height, width];
    regrouped(lowering, input, [&split, &[left, height * factor, width * factor]], &[0, 1, 4, 2, 5, 3])
}

pub(super) fn pixel_unshuffle(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let (_, [channels, height, width]) = sides(lowering, input)?;
    let factor = lowering.arguments.count("downscale_factor", None)?.min(1 << 16);
    let (rows, columns) = (part(height, factor)?, part(width, factor)?);
    let split = [channels, rows, factor, columns, factor];
    let merged = [channels.saturating_mul(factor * factor), rows, columns];
    regrouped(lowering, input, [&split, &merged], &[0, 1, 3, 5, 2, 4])
}

pub(super) fn channel_shuffle(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let (_, [channels, height, width]) = sides(lowering, input)?;
    let groups = lowering.arguments.count("groups", None)?;
    let split = [groups, part(channels, groups)?, height, width];
    regrouped(lowering, input, [&split, &[channels, height, width]], &[0, 2, 1, 3, 4])
}
