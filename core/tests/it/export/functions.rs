//! Functions of single elements in double precision.

use distillery_core::exported::Activation;

pub fn activation(function: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match function {
        Activation::Relu => x.max(0.0),
        Activation::Clamp { low, high } => x.max(low).min(high),
        Activation::AtLeast { low } => x.max(low),
        Activation::Hardswish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Activation::Hardsigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Activation::Silu => x * sigmoid(x),
        Activation::Sigmoid => sigmoid(x),
        Activation::Tanh => x.tanh(),
        Activation::Gelu { tanh: true } => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            x / 2.0 * (1.0 + inner.tanh())
        }
        Activation::Gelu { tanh: false } => x / 2.0 * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                x
            } else {
                slope * x
            }
        }
        Activation::Elu { alpha, scale, input_scale } => {
            scale * if x > 0.0 { x } else { alpha * (input_scale * x).exp_m1() }
        }
        Activation::Softplus { beta, threshold } => {
            if beta * x > threshold {
                x
            } else {
                (beta * x).exp().ln_1p() / beta
            }
        }
        Activation::Power { exponent } => x.powf(exponent),
        Activation::Exp => x.exp(),
        Activation::ExpMinusOne => x.exp_m1(),
        Activation::Log => x.ln(),
        Activation::LogOfOnePlus => x.ln_1p(),
        Activation::Abs => x.abs(),
        Activation::Erf => erf(x),
        Activation::Sign => f64::from(u8::from(x > 0.0)) - f64::from(u8::from(x < 0.0)),
        Activation::Sin => x.sin(),
        Activation::Cos => x.cos(),
    }
}

/// The error function, from its series.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}
