//! The shapes of what windows that move over maps make.

use super::error::OrFault;
use super::graph::Value;
use super::op::Window;
use super::size::{Shape, Size, shown_shape};

/// A map [B, C, H, W] whose channels and sides are known.
pub(super) fn map(shape: &[Size]) -> OrFault<[Size; 4]> {
    match *shape {
        [batch, Size::Fixed(channels), Size::Fixed(height), Size::Fixed(width)] => {
            Ok([batch, Size::Fixed(channels), Size::Fixed(height), Size::Fixed(width)])
        }
        _ => Err(format!("needs a map [B, C, H, W], and has {}", shown_shape(shape))),
    }
}

pub(super) fn convolution(inputs: &[&Value], mut window: Window, groups: u64) -> OrFault<Shape> {
    let [batch, channels, height, width] = map(&inputs[0].shape)?;
    let weight = &inputs[1].shape;
    let [Size::Fixed(outputs), Size::Fixed(per_group), Size::Fixed(kernel_height), Size::Fixed(kernel_width)] =
        **weight
    else {
        return Err(format!("has a weight {}", shown_shape(weight)));
    };
    window.size = [kernel_height, kernel_width];
    let fits = per_group.checked_mul(groups).map(Size::Fixed) == Some(channels);
    if groups == 0 || outputs % groups != 0 || !fits {
        return Err(format!("has {channels} channels, {groups} groups and a weight {}", shown_shape(weight)));
    }
    if inputs.get(2).is_some_and(|bias| bias.shape != [Size::Fixed(outputs)]) {
        return Err(format!("has {outputs} outputs and a bias {}", shown_shape(&inputs[2].shape)));
    }
    let [height, width] = sides([height, width], window)?;
    Ok(vec![batch, Size::Fixed(outputs), height, width])
}

/// Every element of the input spreads over a window of the result; `output_padding` adds to the far end of each side.
pub(super) fn transposed_convolution(
    inputs: &[&Value],
    mut window: Window,
    output_padding: [u64; 2],
    groups: u64,
) -> OrFault<Shape> {
    let [batch, channels, height, width] = map(&inputs[0].shape)?;
    let weight = &inputs[1].shape;
    let [first, Size::Fixed(per_group), Size::Fixed(kernel_height), Size::Fixed(kernel_width)] = **weight else {
        return Err(format!("has a weight {}", shown_shape(weight)));
    };
    window.size = [kernel_height, kernel_width];
    let is_divided = groups > 0 && channels.per_image() % groups == 0;
    let outputs = per_group.checked_mul(groups).filter(|_| is_divided && first == channels);
    let Some(outputs) = outputs else {
        return Err(format!("has {channels} channels, {groups} groups and a weight {}", shown_shape(weight)));
    };
    if inputs.get(2).is_some_and(|bias| bias.shape != [Size::Fixed(outputs)]) {
        return Err(format!("has {outputs} outputs and a bias {}", shown_shape(&inputs[2].shape)));
    }
    let input = [height, width];
    let side = |at: usize| -> Option<u64> {
        let (stride, dilation, more) = (window.stride[at], window.dilation[at], output_padding[at]);
        let steps = input[at].fixed()?.checked_sub(1)?.checked_mul(stride)?;
        let covered = dilation.checked_mul(window.size[at].checked_sub(1)?)?.checked_add(1)?;
        let all = steps.checked_add(covered)?.checked_add(more)?;
        let is_sound = stride > 0 && dilation > 0 && more < stride.max(dilation);
        all.checked_sub(window.padding[at].checked_mul(2)?).filter(|side| *side > 0 && is_sound)
    };
    match (side(0), side(1)) {
        (Some(height), Some(width)) => Ok(vec![batch, Size::Fixed(outputs), Size::Fixed(height), Size::Fixed(width)]),
        _ => Err(format!(
            "spreads a map of {height}×{width} over windows of {:?} with stride {:?}, dilation {:?}, padding {:?} and \
             output_padding {output_padding:?}, which leaves nothing or does not fit",
            window.size, window.stride, window.dilation, window.padding
        )),
    }
}

pub(super) fn pooled(shape: &[Size], window: Window) -> OrFault<Shape> {
    let [batch, channels, height, width] = map(shape)?;
    if (0..2).any(|side| window.padding[side] > window.size[side] / 2) {
        return Err("has a padding of more than half its window".to_owned());
    }
    let [height, width] = sides([height, width], window)?;
    Ok(vec![batch, channels, height, width])
}

/// Height and width after moving a window over a map.
fn sides(sides: [Size; 2], window: Window) -> OrFault<[Size; 2]> {
    let side = |at: usize| -> Option<u64> {
        let (input, stride, padding) = (sides[at].fixed()?, window.stride[at], window.padding[at]);
        let covered = window.dilation[at].checked_mul(window.size[at].checked_sub(1)?)?.checked_add(1)?;
        let room = input.checked_add(padding.checked_mul(2)?)?.checked_sub(covered)?;
        if stride == 0 || window.dilation[at] == 0 {
            return None;
        }
        let steps = if window.rounds_up { room.div_ceil(stride) } else { room / stride };
        // A window that would begin in the padding behind the map is left out.
        let is_beyond = window.rounds_up && steps.checked_mul(stride)? >= input + padding;
        Some(steps + 1 - u64::from(is_beyond))
    };
    match (side(0), side(1)) {
        (Some(height), Some(width)) => Ok([Size::Fixed(height), Size::Fixed(width)]),
        _ => Err(format!(
            "moves a window of {:?} with stride {:?} and dilation {:?} over a map of {}×{}, where it has no place",
            window.size, window.stride, window.dilation, sides[0], sides[1]
        )),
    }
}
