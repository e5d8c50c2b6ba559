//! Reads the operators that move elements and compute nothing.

use super::arguments::{Arguments, MOST_DIMENSIONS, WantedSize, dimension};
use super::error::OrFault;
use super::op::Op;
use super::size::{Size, product, shown_shape};

pub(super) fn reshape(arguments: &mut Arguments<'_>, shape: &str) -> OrFault<Op> {
    let input = arguments.tensor("self")?;
    let wanted = arguments.shape(shape)?;
    Ok(Op::Reshape { shape: filled(&wanted, &input.shape)? })
}

pub(super) fn reshape_as(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensor("self")?;
    let shape = arguments.tensor("other")?.shape.clone();
    // It gives the shape alone.
    arguments.tensors.truncate(1);
    Ok(Op::Reshape { shape })
}

/// A shape whose open size is what the elements of `input` leave over.
fn filled(wanted: &[WantedSize], input: &[Size]) -> OrFault<Vec<Size>> {
    let known: Vec<Size> = wanted
        .iter()
        .filter_map(|size| match size {
            WantedSize::Known(size) => Some(*size),
            WantedSize::Open => None,
        })
        .collect();
    if known.len() + 1 < wanted.len() {
        return Err("leaves more than one size open".to_owned());
    }
    let too_large = || format!("has too many elements or the batch size twice: {}", shown_shape(input));
    let left = product(input).ok_or_else(too_large)?;
    let open = product(&known).and_then(|known| left.divided_by(known));
    let does_not_fit = || format!("cannot give {} the elements of {}", shown_shape(&known), shown_shape(input));
    wanted
        .iter()
        .map(|size| match size {
            WantedSize::Known(size) => Ok(*size),
            WantedSize::Open => open.ok_or_else(does_not_fit),
        })
        .collect()
}

pub(super) fn flatten(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let shape = &arguments.tensor("self")?.shape;
    let start = arguments.dimension("start_dim", Some(0), shape.len())?;
    let end = arguments.dimension("end_dim", Some(-1), shape.len())?;
    if start > end {
        return Err("flattens nothing: its last dimension is before its first".to_owned());
    }
    let merged = product(&shape[start..=end]).ok_or("has too many elements or the batch size twice")?;
    Ok(Op::Reshape { shape: [&shape[..start], &[merged], &shape[end + 1..]].concat() })
}

pub(super) fn unflatten(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let shape = &arguments.tensor("self")?.shape;
    let at = arguments.dimension("dim", None, shape.len())?;
    let parts = filled(&arguments.shape("sizes")?, &shape[at..=at])?;
    limited([&shape[..at], &parts, &shape[at + 1..]].concat())
}

/// A reshape to a shape that is not longer than is allowed.
fn limited(shape: Vec<Size>) -> OrFault<Op> {
    if shape.len() > MOST_DIMENSIONS {
        return Err(format!("has more than {MOST_DIMENSIONS} dimensions"));
    }
    Ok(Op::Reshape { shape })
}

pub(super) fn squeeze(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let shape = &arguments.tensor("self")?.shape;
    let wanted = match shape.is_empty() {
        true => Vec::new(),
        false => arguments.dimensions("dim", shape.len())?,
    };
    let stays = |(at, size): &(usize, &Size)| !wanted.contains(at) || **size != Size::Fixed(1);
    Ok(Op::Reshape { shape: shape.iter().enumerate().filter(stays).map(|(_, size)| *size).collect() })
}

pub(super) fn unsqueeze(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let mut shape = arguments.tensor("self")?.shape.clone();
    let at = arguments.dimension("dim", None, shape.len() + 1)?;
    shape.insert(at, Size::Fixed(1));
    limited(shape)
}

pub(super) fn expand(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let input = &arguments.tensor("self")?.shape;
    arguments.pass(&["implicit"]);
    let wanted = arguments.shape("size")?;
    let Some(new) = wanted.len().checked_sub(input.len()) else {
        return Err("expands to fewer dimensions than its input has".to_owned());
    };
    let size = |(at, wanted): (usize, &WantedSize)| match (wanted, at.checked_sub(new)) {
        (WantedSize::Known(size), _) => Ok(*size),
        (WantedSize::Open, Some(at)) => Ok(input[at]),
        (WantedSize::Open, None) => Err("leaves the size of a new dimension open".to_owned()),
    };
    Ok(Op::Expand { shape: wanted.iter().enumerate().map(size).collect::<OrFault<_>>()? })
}

pub(super) fn expand_as(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensor("self")?;
    let shape = arguments.tensor("other")?.shape.clone();
    arguments.tensors.truncate(1);
    Ok(Op::Expand { shape })
}

pub(super) fn permute(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    let numbers = arguments.ints("dims")?.unwrap_or_default();
    if numbers.len() != rank {
        return Err(format!("orders {} of {rank} dimensions", numbers.len()));
    }
    let order = numbers.into_iter().map(|number| dimension(number, rank)).collect::<OrFault<Vec<_>>>()?;
    if (0..rank).any(|dimension| !order.contains(&dimension)) {
        return Err("names a dimension twice".to_owned());
    }
    Ok(Op::Permute { order })
}

pub(super) fn transpose(arguments: &mut Arguments<'_>, names: [&str; 2]) -> OrFault<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    let one = arguments.dimension(names[0], None, rank)?;
    let two = arguments.dimension(names[1], None, rank)?;
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(one, two);
    Ok(Op::Permute { order })
}

/// Swaps the last two dimensions.
pub(super) fn matrix_transpose(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    if rank < 2 {
        return Err(format!("transposes a tensor with {rank} dimensions"));
    }
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(rank - 2, rank - 1);
    Ok(Op::Permute { order })
}

/// All dimensions in the opposite order.
pub(super) fn reverse(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    Ok(Op::Permute { order: (0..rank).rev().collect() })
}

pub(super) fn move_dimensions(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    let mut places = |name: &str| -> OrFault<Vec<usize>> {
        let numbers = arguments.ints(name)?.unwrap_or_default();
        let places = numbers.into_iter().map(|number| dimension(number, rank)).collect::<OrFault<Vec<_>>>()?;
        let is_twice = (0..places.len()).any(|at| places[..at].contains(&places[at]));
        if is_twice { Err("names a dimension twice".to_owned()) } else { Ok(places) }
    };
    let (from, to) = (places("source")?, places("destination")?);
    if from.len() != to.len() {
        return Err(format!("moves {} dimensions to {} places", from.len(), to.len()));
    }
    let mut left = (0..rank).filter(|dimension| !from.contains(dimension));
    let at = |place: usize| match to.iter().position(|&other| other == place) {
        Some(moved) => Some(from[moved]),
        None => left.next(),
    };
    let order: Option<Vec<usize>> = (0..rank).map(at).collect();
    Ok(Op::Permute { order: order.ok_or("moves dimensions that it does not have")? })
}

/// The dimension of the argument `name`, and its size, which must not depend on the batch.
fn fixed_dimension(arguments: &mut Arguments<'_>, default: Option<i64>) -> OrFault<(usize, u64)> {
    let shape = &arguments.tensor("self")?.shape;
    let at = arguments.dimension("dim", default, shape.len())?;
    let size = shape[at].fixed();
    Ok((at, size.ok_or("takes apart a dimension that depends on the batch size, which is not supported")?))
}

/// An index from the front; negative ones count from the end.
fn index(number: i64, size: u64) -> Option<u64> {
    let number = if number < 0 { i128::from(number) + i128::from(size) } else { i128::from(number) };
    u64::try_from(number).ok()
}

pub(super) fn slice(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let shape = arguments.tensor("self")?.shape.clone();
    let at = arguments.dimension("dim", Some(0), shape.len())?;
    let start = arguments.int("start", Some(0))?;
    let end = arguments.int("end", Some(i64::MAX))?;
    let step = arguments.count("step", Some(1))?;
    let Size::Fixed(size) = shape[at] else {
        // `x[:, 1:]` slices the batch, too, but leaves it whole.
        if (start, end, step) == (0, i64::MAX, 1) {
            return Ok(Op::Identity);
        }
        return Err("takes a part of the batch, which is not supported".to_owned());
    };
    let clamped = |number| index(number, size).unwrap_or(0).min(size);
    let (start, end) = (clamped(start), clamped(end));
    if step == 0 || start >= end {
        return Err("takes an empty slice".to_owned());
    }
    Ok(Op::Slice { dimension: at, start, end, step })
}

pub(super) fn narrow(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let (dimension, size) = fixed_dimension(arguments, None)?;
    let (start, length) = (arguments.int("start", None)?, arguments.count("length", None)?);
    let start = index(start, size).filter(|start| start.checked_add(length).is_some_and(|end| end <= size));
    match start {
        Some(start) if length > 0 => Ok(Op::Slice { dimension, start, end: start + length, step: 1 }),
        _ => Err(format!("takes {length} elements of a dimension of size {size} from where it has fewer")),
    }
}

pub(super) fn select(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let (dimension, size) = fixed_dimension(arguments, None)?;
    let number = arguments.int("index", None)?;
    let found = index(number, size).filter(|&index| index < size);
    let index = found.ok_or_else(|| format!("takes index {number} of a dimension of size {size}"))?;
    Ok(Op::Select { dimension, index })
}

pub(super) fn chunk(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let chunks = arguments.count("chunks", None)?;
    let (dimension, size) = fixed_dimension(arguments, Some(0))?;
    if chunks == 0 {
        return Err("splits into nothing".to_owned());
    }
    pieces(dimension, size, size.div_ceil(chunks))
}

pub(super) fn split(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let piece = arguments.count("split_size", None)?;
    let (dimension, size) = fixed_dimension(arguments, Some(0))?;
    pieces(dimension, size, piece)
}

pub(super) fn concat(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensors("tensors")?;
    let rank = arguments.scope.value(arguments.tensors[0]).shape.len();
    Ok(Op::Concat { dimension: arguments.dimension("dim", Some(0), rank)? })
}

/// Along the second dimension, or along the only one.
pub(super) fn concat_columns(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensors("tensors")?;
    match arguments.scope.value(arguments.tensors[0]).shape.len() {
        0 => Err("joins numbers, which is not supported".to_owned()),
        rank => Ok(Op::Concat { dimension: rank.min(2) - 1 }),
    }
}

pub(super) fn roll(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    let shifts = arguments.ints("shifts")?.unwrap_or_default();
    let numbers = arguments.ints("dims")?.unwrap_or_default();
    if numbers.is_empty() || shifts.len() != numbers.len() || numbers.len() > MOST_DIMENSIONS {
        return Err("has another number of shifts than of dimensions".to_owned());
    }
    let dimensions = numbers.into_iter().map(|number| dimension(number, rank)).collect::<OrFault<_>>()?;
    Ok(Op::Roll { shifts, dimensions })
}

/// Most results of a node.
pub(super) const MOST_RESULTS: u64 = 1024;

fn pieces(dimension: usize, size: u64, piece: u64) -> OrFault<Op> {
    if piece == 0 || size.div_ceil(piece) > MOST_RESULTS {
        return Err(format!("splits into more than {MOST_RESULTS} parts"));
    }
    let sizes = (0..size.div_ceil(piece)).map(|at| piece.min(size - at * piece)).collect();
    Ok(Op::Split { dimension, sizes })
}

pub(super) fn split_with_sizes(arguments: &mut Arguments<'_>, name: &str) -> OrFault<Op> {
    let (dimension, size) = fixed_dimension(arguments, Some(0))?;
    let numbers = arguments.ints(name)?.unwrap_or_default();
    let sizes: Vec<u64> = numbers.iter().filter_map(|&number| u64::try_from(number).ok()).collect();
    let sum = sizes.iter().try_fold(0_u64, |sum, &part| sum.checked_add(part));
    if sizes.len() != numbers.len() || sum != Some(size) || sizes.len() as u64 > MOST_RESULTS {
        return Err(format!("splits a dimension of size {size} into parts that do not make it up"));
    }
    Ok(Op::Split { dimension, sizes })
}

/// Into parts whose sizes differ by one at most.
pub(super) fn tensor_split(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let parts = arguments.count("sections", None)?;
    let (dimension, size) = fixed_dimension(arguments, Some(0))?;
    if parts == 0 || parts > size.min(MOST_RESULTS) {
        return Err(format!("splits a dimension of size {size} into {parts} parts"));
    }
    let sizes = (0..parts).map(|part| size / parts + u64::from(part < size % parts)).collect();
    Ok(Op::Split { dimension, sizes })
}

/// Into the parts between indices.
pub(super) fn tensor_split_at(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let indices = arguments.ints("indices")?.unwrap_or_default();
    let (dimension, size) = fixed_dimension(arguments, Some(0))?;
    let ends = indices.into_iter().map(|number| index(number, size).unwrap_or(0).min(size)).chain([size]);
    let (mut start, mut sizes) = (0, Vec::new());
    for end in ends {
        if end <= start || sizes.len() as u64 == MOST_RESULTS {
            return Err(format!("splits a dimension of size {size} at indices that leave a part empty"));
        }
        sizes.push(end - start);
        start = end;
    }
    Ok(Op::Split { dimension, sizes })
}

pub(super) fn unbind(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let (dimension, size) = fixed_dimension(arguments, Some(0))?;
    if size > MOST_RESULTS {
        return Err(format!("splits into more than {MOST_RESULTS} parts"));
    }
    Ok(Op::Unbind { dimension })
}
