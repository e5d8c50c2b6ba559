//! Layer norm and group norm.

use super::builder::{OnnxBuilder, signed};
use super::proto::AttributeProto;
use crate::export::Result;
use crate::exported::Node;

impl OnnxBuilder<'_> {
    pub(super) fn layer_norm(
        &mut self,
        node: &Node,
        dimensions: usize,
        epsilon: f64,
        scale: bool,
        shift: bool,
    ) -> Result<()> {
        if scale {
            let inputs = self.names(&node.inputs)?;
            let axis = AttributeProto::int("axis", -signed(dimensions as u64));
            return self.result(
                node,
                "LayerNormalization",
                inputs,
                vec![axis, AttributeProto::float("epsilon", epsilon)],
            );
        }
        let input = self.name(node.inputs[0])?;
        let rank = self.sizes(node.inputs[0]).len();
        let axes = (rank - dimensions..rank).map(|axis| signed(axis as u64)).collect();
        let normalised = self.normalised(&node.name, input, axes, epsilon);
        if shift {
            let shift = self.name(node.inputs[1])?;
            return self.result(node, "Add", vec![normalised, shift], Vec::new());
        }
        self.result(node, "Identity", vec![normalised], Vec::new())
    }

    pub(super) fn group_norm(
        &mut self,
        node: &Node,
        groups: u64,
        epsilon: f64,
        scale: bool,
        shift: bool,
    ) -> Result<()> {
        let name = &node.name;
        let input = self.name(node.inputs[0])?;
        let sizes = self.sizes(node.inputs[0]);
        // The first size as it is, and of the rest what is left.
        let grouped = self.ints(&[0, signed(groups), -1]);
        let grouped = self.step(name, "Reshape", vec![input, grouped], Vec::new());
        let normalised = self.normalised(name, grouped, vec![2], epsilon);
        let rest = sizes[1..].iter().map(|size| signed(size.per_image()));
        let shape: Vec<i64> = std::iter::once(0).chain(rest).collect();
        let shape = self.ints(&shape);
        let mut current = self.step(name, "Reshape", vec![normalised, shape], Vec::new());
        // [C] becomes [C, 1, …], which is broadcast over the positions.
        let positions: Vec<i64> = (1..sizes.len() - 1).map(|axis| signed(axis as u64)).collect();
        let mut inputs = node.inputs[1..].iter();
        for (op_type, _) in [("Mul", scale), ("Add", shift)].into_iter().filter(|(_, is_given)| *is_given) {
            let mut vector = self.name(*inputs.next().expect("the operation has this input"))?;
            if !positions.is_empty() {
                let axes = self.ints(&positions);
                vector = self.step(name, "Unsqueeze", vec![vector, axes], Vec::new());
            }
            current = self.step(name, op_type, vec![current, vector], Vec::new());
        }
        self.result(node, "Identity", vec![current], Vec::new())
    }

    /// (x − mean) / √(variance + epsilon) over some dimensions.
    fn normalised(&mut self, base: &str, input: String, axes: Vec<i64>, epsilon: f64) -> String {
        let mean_of = |builder: &mut Self, value: String| {
            let attributes = vec![AttributeProto::ints("axes", axes.clone()), AttributeProto::int("keepdims", 1)];
            builder.step(base, "ReduceMean", vec![value], attributes)
        };
        let mean = mean_of(self, input.clone());
        let centred = self.step(base, "Sub", vec![input, mean], Vec::new());
        let square = self.step(base, "Mul", vec![centred.clone(), centred.clone()], Vec::new());
        let variance = mean_of(self, square);
        let epsilon = self.float(epsilon);
        let sum = self.step(base, "Add", vec![variance, epsilon], Vec::new());
        let deviation = self.step(base, "Sqrt", vec![sum], Vec::new());
        self.step(base, "Div", vec![centred, deviation], Vec::new())
    }
}
