//! Pooling. PyTorch's windows that reach beyond a map are written as padding, because runtimes differ in how they round
//! up the number of windows.

use super::builder::{OnnxBuilder, signed};
use super::proto::AttributeProto;
use crate::export::{Result, refused};
use crate::exported::{Node, Size, Window};

fn ints(name: &str, numbers: &[u64]) -> AttributeProto {
    AttributeProto::ints(name, numbers.iter().copied().map(signed).collect())
}

/// Height and width.
fn sides(shape: &[Size]) -> [u64; 2] {
    [2, 3].map(|dimension| shape[dimension].per_image())
}

/// How far the last windows reach beyond the padding behind the map.
fn beyond(window: Window, input: [u64; 2], output: [u64; 2]) -> [u64; 2] {
    [0, 1].map(|side| {
        let covered = (output[side] - 1) * window.stride[side] + window.dilation[side] * (window.size[side] - 1) + 1;
        covered.saturating_sub(input[side] + 2 * window.padding[side])
    })
}

impl OnnxBuilder<'_> {
    fn beyond(&self, node: &Node, window: Window) -> [u64; 2] {
        beyond(window, sides(self.sizes(node.inputs[0])), sides(self.sizes(node.outputs[0])))
    }

    /// A map with `amounts` of a number before and after its rows and columns.
    fn padded(&mut self, base: &str, map: String, before: [u64; 2], after: [u64; 2], value: f64) -> String {
        let [top, left, bottom, right] = [before[0], before[1], after[0], after[1]].map(signed);
        let pads = self.ints(&[0, 0, top, left, 0, 0, bottom, right]);
        let value = self.float(value);
        self.step(base, "Pad", vec![map, pads, value], Vec::new())
    }

    pub(super) fn max_pool(&mut self, node: &Node, window: Window) -> Result<()> {
        let mut input = self.name(node.inputs[0])?;
        let beyond = self.beyond(node, window);
        let mut padding = window.padding;
        if beyond != [0, 0] {
            let after = [0, 1].map(|side| padding[side] + beyond[side]);
            input = self.padded(&node.name, input, padding, after, f64::NEG_INFINITY);
            padding = [0, 0];
        }
        let attributes = vec![
            ints("kernel_shape", &window.size),
            ints("strides", &window.stride),
            ints("pads", &[padding, padding].concat()),
            ints("dilations", &window.dilation),
        ];
        self.result(node, "MaxPool", vec![input], attributes)
    }

    pub(super) fn average_pool(&mut self, node: &Node, window: Window, counts_padding: bool) -> Result<()> {
        if window.dilation != [1, 1] {
            return refused(format!("{} averages windows with gaps, which ONNX's opset 17 does not have", node.name));
        }
        let mut input = self.name(node.inputs[0])?;
        let beyond = self.beyond(node, window);
        let mut padding = window.padding;
        let mut counts = counts_padding && padding != [0, 0];
        // PyTorch never counts what is beyond the padding: where it counts the padding, that becomes part of the map.
        if counts && beyond != [0, 0] {
            input = self.padded(&node.name, input, padding, padding, 0.0);
            (padding, counts) = ([0, 0], false);
        }
        let after = [0, 1].map(|side| padding[side] + beyond[side]);
        let attributes = vec![
            ints("kernel_shape", &window.size),
            ints("strides", &window.stride),
            ints("pads", &[padding, after].concat()),
            AttributeProto::int("count_include_pad", i64::from(counts)),
        ];
        self.result(node, "AveragePool", vec![input], attributes)
    }

    /// Position i of n averages the positions from ⌊i·N/n⌋ to ⌈(i+1)·N/n⌉ of N.
    pub(super) fn adaptive_average_pool(&mut self, node: &Node, size: [u64; 2]) -> Result<()> {
        let input = self.name(node.inputs[0])?;
        let map = sides(self.sizes(node.inputs[0]));
        if size == [1, 1] {
            return self.result(node, "GlobalAveragePool", vec![input], Vec::new());
        }
        if (0..2).all(|side| map[side].is_multiple_of(size[side])) {
            let window = [0, 1].map(|side| map[side] / size[side]);
            return self.result(
                node,
                "AveragePool",
                vec![input],
                vec![ints("kernel_shape", &window), ints("strides", &window)],
            );
        }
        let weight = |position: u64, of: u64, from: u64, at: u64| {
            let (start, end) = (position * from / of, ((position + 1) * from).div_ceil(of));
            if (start..end).contains(&at) { 1.0 / (end - start) as f32 } else { 0.0 }
        };
        let rows = self.matrix(size[0], map[0], |position, at| weight(position, size[0], map[0], at))?;
        let columns = self.matrix(map[1], size[1], |at, position| weight(position, size[1], map[1], at))?;
        let fewer = self.step(&node.name, "MatMul", vec![rows, input], Vec::new());
        self.result(node, "MatMul", vec![fewer, columns], Vec::new())
    }

    /// The same windows: the positions of each become a dimension of their own, in which shorter windows repeat their
    /// last position.
    pub(super) fn adaptive_max_pool(&mut self, node: &Node, size: [u64; 2]) -> Result<()> {
        let map = sides(self.sizes(node.inputs[0]));
        let [rows, columns] = [0, 1].map(|side| self.windows(size[side], map[side]));
        let axis = |axis: i64| vec![AttributeProto::int("axis", axis)];
        let largest = |axis: i64| vec![AttributeProto::ints("axes", vec![axis]), AttributeProto::int("keepdims", 0)];
        let input = self.name(node.inputs[0])?;
        let by_row = self.step(&node.name, "Gather", vec![input, rows?], axis(2));
        let of_rows = self.step(&node.name, "ReduceMax", vec![by_row], largest(3));
        let by_column = self.step(&node.name, "Gather", vec![of_rows, columns?], axis(3));
        self.result(node, "ReduceMax", vec![by_column], largest(4))
    }

    /// The positions of each of `count` windows of `from` positions.
    fn windows(&mut self, count: u64, from: u64) -> Result<String> {
        let longest = from.div_ceil(count).saturating_add(u64::from(!from.is_multiple_of(count))).min(from);
        self.integers(count, longest, |window, at| {
            let (start, end) = (window * from / count, ((window + 1) * from).div_ceil(count));
            (start + at).min(end - 1)
        })
    }
}
