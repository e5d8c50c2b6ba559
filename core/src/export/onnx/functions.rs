//! Functions of each element.

use super::builder::{OnnxBuilder, signed};
use super::proto::AttributeProto;
use crate::export::Result;
use crate::exported::{Activation, Node};

/// Beyond it, softplus is its argument in float32.
const LINEAR_SOFTPLUS: f64 = 20.0;

impl OnnxBuilder<'_> {
    pub(super) fn activation(&mut self, node: &Node, function: Activation) -> Result<()> {
        let float = AttributeProto::float;
        match function {
            Activation::Relu => self.plain(node, "Relu", Vec::new()),
            Activation::Clamp { low, high } => {
                let limits = vec![self.float(low), self.float(high)];
                self.with(node, "Clip", limits, Vec::new())
            }
            Activation::AtLeast { low } => {
                let limits = vec![self.float(low), self.float(f64::INFINITY)];
                self.with(node, "Clip", limits, Vec::new())
            }
            Activation::Hardswish => self.plain(node, "HardSwish", Vec::new()),
            Activation::Hardsigmoid => {
                self.plain(node, "HardSigmoid", vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)])
            }
            Activation::Silu => {
                let input = self.name(node.inputs[0])?;
                let gate = self.step(&node.name, "Sigmoid", vec![input], Vec::new());
                self.with(node, "Mul", vec![gate], Vec::new())
            }
            Activation::Sigmoid => self.plain(node, "Sigmoid", Vec::new()),
            Activation::Tanh => self.plain(node, "Tanh", Vec::new()),
            Activation::Gelu { tanh } => self.gelu(node, tanh),
            Activation::LeakyRelu { slope } => self.plain(node, "LeakyRelu", vec![float("alpha", slope)]),
            Activation::Elu { alpha, scale, input_scale } => self.elu(node, alpha, scale, input_scale),
            Activation::Softplus { beta, threshold } => self.softplus(node, beta, threshold),
            Activation::Power { exponent: 0.5 } => self.plain(node, "Sqrt", Vec::new()),
            Activation::Power { exponent: -1.0 } => self.plain(node, "Reciprocal", Vec::new()),
            Activation::Power { exponent } => {
                let exponent = self.float(exponent);
                self.with(node, "Pow", vec![exponent], Vec::new())
            }
            Activation::Exp => self.plain(node, "Exp", Vec::new()),
            Activation::ExpMinusOne => {
                let input = self.name(node.inputs[0])?;
                let exponential = self.step(&node.name, "Exp", vec![input], Vec::new());
                let one = self.float(1.0);
                self.result(node, "Sub", vec![exponential, one], Vec::new())
            }
            Activation::Log => self.plain(node, "Log", Vec::new()),
            Activation::LogOfOnePlus => {
                let (input, one) = (self.name(node.inputs[0])?, self.float(1.0));
                let sum = self.step(&node.name, "Add", vec![input, one], Vec::new());
                self.result(node, "Log", vec![sum], Vec::new())
            }
            Activation::Abs => self.plain(node, "Abs", Vec::new()),
            Activation::Erf => self.plain(node, "Erf", Vec::new()),
            Activation::Sign => self.plain(node, "Sign", Vec::new()),
            Activation::Sin => self.plain(node, "Sin", Vec::new()),
            Activation::Cos => self.plain(node, "Cos", Vec::new()),
        }
    }

    /// x/2 · (1 + erf(x/√2)), or x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))).
    fn gelu(&mut self, node: &Node, tanh: bool) -> Result<()> {
        let name = &node.name;
        let input = self.name(node.inputs[0])?;
        let inner = if tanh {
            let (three, factor) = (self.float(3.0), self.float(0.044_715));
            let cube = self.step(name, "Pow", vec![input.clone(), three], Vec::new());
            let cube = self.step(name, "Mul", vec![cube, factor], Vec::new());
            let sum = self.step(name, "Add", vec![input.clone(), cube], Vec::new());
            let factor = self.float((2.0 / std::f64::consts::PI).sqrt());
            let scaled = self.step(name, "Mul", vec![sum, factor], Vec::new());
            self.step(name, "Tanh", vec![scaled], Vec::new())
        } else {
            let root = self.float(std::f64::consts::SQRT_2);
            let scaled = self.step(name, "Div", vec![input.clone(), root], Vec::new());
            self.step(name, "Erf", vec![scaled], Vec::new())
        };
        let (one, half) = (self.float(1.0), self.float(0.5));
        let sum = self.step(name, "Add", vec![inner, one], Vec::new());
        let product = self.step(name, "Mul", vec![input, sum], Vec::new());
        self.result(node, "Mul", vec![product, half], Vec::new())
    }

    /// `Selu` has two of the three numbers. In general: scale · (max(x, 0) + alpha · (exp(input_scale · min(x, 0)) −
    /// 1)).
    fn elu(&mut self, node: &Node, alpha: f64, scale: f64, input_scale: f64) -> Result<()> {
        let float = AttributeProto::float;
        if input_scale == 1.0 {
            return self.plain(node, "Selu", vec![float("alpha", alpha), float("gamma", scale)]);
        }
        let name = &node.name;
        let input = self.name(node.inputs[0])?;
        let (zero, one) = (self.float(0.0), self.float(1.0));
        let (alpha, scale, input_scale) = (self.float(alpha), self.float(scale), self.float(input_scale));
        let positive = self.step(name, "Relu", vec![input.clone()], Vec::new());
        let negative = self.step(name, "Min", vec![input, zero], Vec::new());
        let scaled = self.step(name, "Mul", vec![negative, input_scale], Vec::new());
        let power = self.step(name, "Exp", vec![scaled], Vec::new());
        let difference = self.step(name, "Sub", vec![power, one], Vec::new());
        let negative = self.step(name, "Mul", vec![difference, alpha], Vec::new());
        let sum = self.step(name, "Add", vec![positive, negative], Vec::new());
        self.result(node, "Mul", vec![sum, scale], Vec::new())
    }

    /// ln(1 + exp(beta·x)) / beta; x where beta·x > threshold.
    fn softplus(&mut self, node: &Node, beta: f64, threshold: f64) -> Result<()> {
        let name = &node.name;
        let input = self.name(node.inputs[0])?;
        let (factor, limit) = (self.float(beta), self.float(threshold));
        let scaled = self.step(name, "Mul", vec![input.clone(), factor.clone()], Vec::new());
        let soft = self.step(name, "Softplus", vec![scaled.clone()], Vec::new());
        if threshold >= LINEAR_SOFTPLUS {
            return self.result(node, "Div", vec![soft, factor], Vec::new());
        }
        let soft = self.step(name, "Div", vec![soft, factor], Vec::new());
        let is_linear = self.step(name, "Greater", vec![scaled, limit], Vec::new());
        self.result(node, "Where", vec![is_linear, input, soft], Vec::new())
    }

    /// Slopes `[C]` become [C, 1, …], which is broadcast over the positions.
    pub(super) fn prelu(&mut self, node: &Node) -> Result<()> {
        let mut slopes = self.name(node.inputs[1])?;
        let positions: Vec<i64> = (2..self.sizes(node.inputs[0]).len()).map(|axis| signed(axis as u64 - 1)).collect();
        if !positions.is_empty() {
            let axes = self.ints(&positions);
            slopes = self.step(&node.name, "Unsqueeze", vec![slopes, axes], Vec::new());
        }
        self.with(node, "PRelu", vec![slopes], Vec::new())
    }
}
