//! Scaled dot-product attention, which ONNX has as an operator only since opset 23.

use super::builder::{OnnxBuilder, signed};
use super::proto::{AttributeProto, DataType};
use crate::checkpoint::Dtype;
use crate::export::Result;
use crate::exported::Node;

impl OnnxBuilder<'_> {
    /// softmax(scale · Q·Kᵀ + mask) · V.
    pub(super) fn attention(&mut self, node: &Node, mask: bool, is_causal: bool, scale: Option<f64>) -> Result<()> {
        let name = &node.name;
        let [queries, keys, values] = [0, 1, 2].map(|input| self.name(node.inputs[input]));
        let shape = self.sizes(node.inputs[0]);
        let rank = shape.len();
        let (length, width) = (shape[rank - 2].per_image(), shape[rank - 1].per_image());
        let sources = self.sizes(node.inputs[1])[rank - 2].per_image();

        let factor = self.float(scale.unwrap_or_else(|| (width as f64).sqrt().recip()));
        let queries = self.step(name, "Mul", vec![queries?, factor], Vec::new());
        let mut order: Vec<i64> = (0..rank).map(|axis| signed(axis as u64)).collect();
        order.swap(rank - 2, rank - 1);
        let keys = self.step(name, "Transpose", vec![keys?], vec![AttributeProto::ints("perm", order)]);
        let mut scores = self.step(name, "MatMul", vec![queries, keys], Vec::new());
        let mut allowed = Vec::new();
        if mask {
            let given = self.name(node.inputs[3])?;
            if self.graph.values[node.inputs[3]].dtype == Dtype::Bool {
                allowed.push(given);
            } else {
                scores = self.step(name, "Add", vec![scores, given], Vec::new());
            }
        }
        if is_causal {
            allowed.push(self.causal(name, length, sources));
        }
        for mask in &allowed {
            let never = self.constant("never", DataType::Float, &[], f32::NEG_INFINITY.to_le_bytes().to_vec());
            scores = self.step(name, "Where", vec![mask.clone(), scores, never], Vec::new());
        }
        let mut weights = self.step(name, "Softmax", vec![scores], vec![AttributeProto::int("axis", -1)]);
        for mask in allowed {
            // The weights of a row that may look at nothing are 0, as in PyTorch, not NaN.
            let nothing = self.float(0.0);
            weights = self.step(name, "Where", vec![mask, weights, nothing], Vec::new());
        }
        self.result(node, "MatMul", vec![weights, values?], Vec::new())
    }

    /// Which positions each may look at: itself and those before, [length, sources].
    fn causal(&mut self, base: &str, length: u64, sources: u64) -> String {
        let [zero, one] = [0, 1].map(|number| self.int(number));
        let mut numbers = |count: u64, axis: i64| {
            let count = self.int(signed(count));
            let range = self.step(base, "Range", vec![zero.clone(), count, one.clone()], Vec::new());
            let axis = self.ints(&[axis]);
            self.step(base, "Unsqueeze", vec![range, axis], Vec::new())
        };
        let (rows, columns) = (numbers(length, 1), numbers(sources, 0));
        self.step(base, "GreaterOrEqual", vec![rows, columns], Vec::new())
    }
}
