//! Layers and activations as int8, in the form that runtimes look for: a value is quantised and at once dequantised
//! (`QuantizeLinear`, `DequantizeLinear`), and the operations between compute as before.

use super::builder::{OnnxBuilder, signed};
use super::initializer::{Elements, Initializer};
use super::operators::convolution;
use super::proto::{AttributeProto, DataType};
use crate::export::Result;
use crate::export::int8::{BatchNormScale, Scales};
use crate::exported::{Node, Op, ValueId};

/// A layer's weights and bias as they are after folding.
struct FoldedWeights {
    fold: Option<BatchNormScale>,
    scales: Scales,
    bias: Option<Vec<f32>>,
}

impl OnnxBuilder<'_> {
    /// Quantises and dequantises an activation, if that is planned, and returns the name of the result.
    pub(super) fn quantised_value(&mut self, value: ValueId, name: String) -> Result<String> {
        let Some(plan) = self.plan.as_ref().filter(|plan| plan.layers.values.contains(&value)) else { return Ok(name) };
        let (scale, zero) = plan.ranges.scale(value)?;
        let scale = self.float(scale.into());
        let zero = self.constant("zero", DataType::Int8, &[], vec![zero as u8]);
        let quantised = self.step(&name, "QuantizeLinear", vec![name.clone(), scale.clone(), zero.clone()], Vec::new());
        Ok(self.step(&name, "DequantizeLinear", vec![quantised, scale, zero], Vec::new()))
    }

    /// Writes a node with int8 weights, if that is planned. Returns whether it was.
    pub(super) fn quantised_layer(&mut self, index: usize, node: &Node) -> Result<bool> {
        let Some(plan) = &self.plan else { return Ok(false) };
        if plan.is_folded(index) {
            return Ok(true);
        }
        let Some(&norm) = plan.layers.nodes.get(&index) else { return Ok(false) };
        let input_value = self.evaluation.root(node.inputs[0]);
        let (input_scale, _) = plan.ranges.scale(input_value)?;
        let norm = norm.map(|norm| &self.graph.nodes[norm]);
        let weights = self.weights(node, norm)?;
        let input = self.name(node.inputs[0])?;
        let result = Node { outputs: norm.unwrap_or(node).outputs.clone(), ..node.clone() };
        let is_product = matches!(node.op, Op::Linear { .. }) && self.sizes(node.inputs[0]).len() != 2;
        let bias = weights.bias.as_ref().map(|bias| self.int32_bias(node, bias, &weights.scales, input_scale));
        let weight = self.int8_weight(node, weights, is_product);
        if is_product {
            let Some(bias) = bias else {
                self.result(&result, "MatMul", vec![input, weight], Vec::new())?;
                return Ok(true);
            };
            let product = self.step(&node.name, "MatMul", vec![input, weight], Vec::new());
            self.result(&result, "Add", vec![product, bias], Vec::new())?;
            return Ok(true);
        }
        let (op_type, attributes) = match &node.op {
            Op::Convolution { stride, padding, dilation, groups, .. } => {
                ("Conv", convolution(*stride, *padding, *dilation, *groups))
            }
            _ => ("Gemm", vec![AttributeProto::int("transB", 1)]),
        };
        let inputs = [input, weight].into_iter().chain(bias).collect();
        self.result(&result, op_type, inputs, attributes)?;
        Ok(true)
    }

    /// The float32 elements of a stored input.
    fn vector(&self, value: ValueId) -> Result<Vec<f32>> {
        let (index, _) = self.student.stored(&self.graph.values[value]).expect("layers have stored weights");
        self.student.floats(index)
    }

    fn weights(&self, node: &Node, norm: Option<&Node>) -> Result<FoldedWeights> {
        let outputs = self.sizes(node.inputs[1])[0].per_image() as usize;
        let mut elements = self.vector(node.inputs[1])?;
        let mut bias = node.inputs.get(2).map(|&bias| self.vector(bias)).transpose()?;
        let mut fold = None;
        if let Some(norm) = norm {
            let Op::BatchNorm { epsilon, .. } = norm.op else { unreachable!("only batch norms are folded") };
            let [scale, shift, mean, variance] = [1, 2, 3, 4].map(|input| self.vector(norm.inputs[input]));
            let (scale, shift, mean, variance) = (scale?, shift?, mean?, variance?);
            let factor = |at: usize| f64::from(scale[at]) / (f64::from(variance[at]) + epsilon).sqrt();
            let before = bias.unwrap_or_else(|| vec![0.0; outputs]);
            let after = |at: usize| (f64::from(before[at]) - f64::from(mean[at])) * factor(at) + f64::from(shift[at]);
            bias = Some((0..outputs).map(|at| after(at) as f32).collect());
            let factors = BatchNormScale((0..outputs).map(|at| factor(at) as f32).collect());
            factors.apply(&mut elements);
            fold = Some(factors);
        }
        Ok(FoldedWeights { fold, scales: Scales::of(&elements, outputs), bias })
    }

    fn int8_weight(&mut self, node: &Node, weights: FoldedWeights, transposed: bool) -> String {
        let value = &self.graph.values[node.inputs[1]];
        let (index, mut dims) = self.student.stored(value).expect("layers have stored weights");
        if transposed {
            dims.reverse();
        }
        let name = format!("{}/int8", self.student.key(index));
        let FoldedWeights { fold, scales, .. } = weights;
        let outputs = scales.0.len() as u64;
        let scale = floats(&scales.0);
        let elements = Elements::Quantised { weight: index, fold, scales, transposed };
        let quantised = self.initializer(Initializer { name: name.clone(), dims, data_type: DataType::Int8, elements });
        let scale = self.constant(&format!("{name}/scale"), DataType::Float, &[outputs], scale);
        let zero = self.constant("zeros", DataType::Int8, &[outputs], vec![0; outputs as usize]);
        let axis = AttributeProto::int("axis", i64::from(transposed));
        self.step(&name, "DequantizeLinear", vec![quantised, scale, zero], vec![axis])
    }

    /// A bias in the numbers of the products of int8, which is how runtimes add it.
    fn int32_bias(&mut self, node: &Node, bias: &[f32], scales: &Scales, input: f32) -> String {
        let name = format!("{}/bias/int32", node.name);
        let scales: Vec<f32> = scales.0.iter().map(|scale| scale * input).collect();
        let integer = |(bias, scale): (&f32, &f32)| (f64::from(*bias) / f64::from(*scale)).round() as i32;
        let integers = bias.iter().zip(&scales).map(integer).flat_map(i32::to_le_bytes).collect();
        let outputs = signed(bias.len() as u64).unsigned_abs();
        let quantised = self.constant(&name, DataType::Int32, &[outputs], integers);
        let scale = self.constant(&format!("{name}/scale"), DataType::Float, &[outputs], floats(&scales));
        let zero = self.constant("zeros", DataType::Int32, &[outputs], vec![0; 4 * bias.len()]);
        self.step(&name, "DequantizeLinear", vec![quantised, scale, zero], vec![AttributeProto::int("axis", 0)])
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
