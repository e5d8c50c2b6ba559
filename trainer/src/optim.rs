//! Optimisers in PyTorch's formulation, whose state can be saved and restored, and learning rate schedules.
//!
//! libtorch's own optimisers do not give away their momentum, so that a run could not be resumed exactly. Everything
//! here stays on the parameters' device: nothing waits for the device.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use tch::{Device, Kind, Tensor};

use distillery::spec::{OptimizerSpec, ScheduleSpec};

/// Keeps AdamW's denominator from zero, as PyTorch's default does.
const EPSILON: f64 = 1e-8;

/// An optimiser of some parameters (float32, any strides), which it changes in place.
#[derive(Debug)]
pub struct Optimizer {
    spec: OptimizerSpec,
    parameters: Vec<Parameter>,
    steps: i64,
}

/// A parameter with its moments: one of SGD's where there is momentum, two of AdamW's, of the parameter's strides.
#[derive(Debug)]
struct Parameter {
    name: String,
    value: Tensor,
    moments: Vec<Tensor>,
}

impl Optimizer {
    /// An optimiser that has not done a step. The tensors share their storage with the network's parameters, which
    /// have to be leaves that require gradients; they must have moved to their device before.
    #[must_use]
    pub fn new(spec: &OptimizerSpec, named_parameters: Vec<(String, Tensor)>) -> Self {
        let count = moment_names(spec).len();
        let parameters = named_parameters
            .into_iter()
            .map(|(name, value)| {
                // Of the same strides as the parameter, so that a step reads and writes in one order.
                let moments = (0..count).map(|_| tch::no_grad(|| value.zeros_like())).collect();
                Parameter { name, value, moments }
            })
            .collect();
        Self { spec: *spec, parameters, steps: 0 }
    }

    /// Changes the parameters by their gradients. A parameter without a gradient stays as it is. The gradients are
    /// only read.
    pub fn step(&mut self, learning_rate: f64) {
        self.steps += 1;
        let (spec, steps) = (self.spec, self.steps);
        tch::no_grad(|| {
            for parameter in &mut self.parameters {
                let gradient = parameter.value.grad();
                if !gradient.defined() {
                    continue;
                }
                match spec {
                    OptimizerSpec::Sgd { momentum, weight_decay, nesterov, .. } => {
                        parameter.sgd(gradient, learning_rate, momentum, weight_decay, nesterov);
                    }
                    OptimizerSpec::Adamw { beta1, beta2, weight_decay, .. } => {
                        parameter.adamw(&gradient, learning_rate, [beta1, beta2], weight_decay, steps);
                    }
                }
            }
        });
    }

    /// Scales all gradients in place so that their common L2 norm is at most `largest`. Gives the norm before that: a
    /// float32 scalar on the gradients' device. Without gradients it is zero.
    pub fn clip_grad_norm(&self, largest: f64) -> Tensor {
        tch::no_grad(|| {
            let mut gradients = self.gradients();
            let norms: Vec<Tensor> = gradients.iter().map(Tensor::norm).collect();
            if norms.is_empty() {
                return Tensor::zeros([], (Kind::Float, Device::Cpu));
            }
            let norm = Tensor::stack(&norms, 0).norm();
            // Always multiplied, by one where the norm is small: to look at the norm would be to wait for the device.
            let factor = ((&norm + 1e-6).reciprocal() * largest).clamp_max(1.0);
            for gradient in &mut gradients {
                *gradient *= &factor;
            }
            norm
        })
    }

    /// Sets all gradients to zero, in place.
    pub fn zero_grad(&self) {
        tch::no_grad(|| {
            for mut gradient in self.gradients() {
                let _ = gradient.detach_().zero_();
            }
        });
    }

    /// What a resumed run needs, by name: `step` (int64 scalar, steps done) and, per parameter, `momentum.<name>`
    /// (SGD with momentum) or `exp_avg.<name>` and `exp_avg_sq.<name>` (AdamW), float32 of the parameter's shape.
    ///
    /// The moments share their storage with the optimiser, so the next step changes them, and they have the
    /// parameter's strides: not always contiguous.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![("step".to_owned(), Tensor::from(self.steps))];
        for parameter in &self.parameters {
            for (prefix, moment) in moment_names(&self.spec).iter().zip(&parameter.moments) {
                state.push((format!("{prefix}.{}", parameter.name), moment.shallow_clone()));
            }
        }
        state
    }

    /// Takes over a [`state`](Self::state), from any device: further steps are the same, to the last bit, as without
    /// the interruption. The values are copied.
    ///
    /// # Errors
    /// A tensor is missing, of another shape or of no use here. Nothing has changed then.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<(), String> {
        let mut given: BTreeMap<&str, &Tensor> = state.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let step = given.remove("step").ok_or("the optimizer's state has no step")?;
        let steps = i64::try_from(step).map_err(|error| format!("the optimizer's step is not a number: {error}"))?;
        let mut copies = Vec::new();
        for (name, own) in self.state().into_iter().skip(1) {
            let tensor = given.remove(name.as_str()).ok_or_else(|| format!("the optimizer's state has no {name}"))?;
            if tensor.size() != own.size() {
                let (found, wanted) = (tensor.size(), own.size());
                return Err(format!("the optimizer's {name} is of shape {found:?} instead of {wanted:?}"));
            }
            copies.push((own, tensor));
        }
        if let Some(name) = given.keys().next() {
            return Err(format!("the optimizer's state has {name}, which this optimizer does not use"));
        }
        tch::no_grad(|| copies.iter_mut().try_for_each(|(own, tensor)| own.f_copy_(tensor)))
            .map_err(|error| format!("the optimizer's state cannot be copied: {error}"))?;
        self.steps = steps;
        Ok(())
    }

    fn gradients(&self) -> Vec<Tensor> {
        self.parameters.iter().map(|parameter| parameter.value.grad()).filter(Tensor::defined).collect()
    }
}

impl Parameter {
    fn sgd(&mut self, gradient: Tensor, learning_rate: f64, momentum: f64, weight_decay: f64, nesterov: bool) {
        // Factors are tensors because only `addcmul` multiplies and adds in one kernel; filling one does not wait.
        let factor = |value: f64| Tensor::full([], value, (Kind::Float, gradient.device()));
        let mut update = match weight_decay {
            0.0 => gradient.shallow_clone(),
            decay => gradient.addcmul(&self.value, &factor(decay)),
        };
        if let Some(buffer) = self.moments.first_mut() {
            // It starts at zero, so that the first step makes it the gradient, as in PyTorch.
            *buffer *= momentum;
            *buffer += &update;
            update = if nesterov { update.addcmul(buffer, &factor(momentum)) } else { buffer.shallow_clone() };
        }
        let _ = self.value.addcmul_(&update, &factor(-learning_rate));
    }

    fn adamw(&mut self, gradient: &Tensor, learning_rate: f64, betas: [f64; 2], weight_decay: f64, steps: i64) {
        let [first, second] = self.moments.as_mut_slice() else { unreachable!("AdamW has two moments") };
        let corrections = betas.map(|beta| 1.0 - beta.powf(steps as f64));
        self.value *= 1.0 - learning_rate * weight_decay;
        let _ = first.lerp_(gradient, 1.0 - betas[0]);
        *second *= betas[1];
        let _ = second.addcmul_(gradient, &(gradient * (1.0 - betas[1])));
        let mut denominator = second.sqrt();
        denominator /= corrections[1].sqrt();
        denominator += EPSILON;
        let _ = self.value.addcdiv_(&(&*first * (-learning_rate / corrections[0])), &denominator);
    }
}

/// What the moments of one parameter are called in a checkpoint.
fn moment_names(spec: &OptimizerSpec) -> &'static [&'static str] {
    match spec {
        OptimizerSpec::Sgd { momentum: 0.0, .. } => &[],
        OptimizerSpec::Sgd { .. } => &["momentum"],
        OptimizerSpec::Adamw { .. } => &["exp_avg", "exp_avg_sq"],
    }
}

/// The learning rate of one step. Epochs and steps count from 0; `step` may be counted from the epoch's beginning or
/// from the run's.
///
/// Multistep: a milestone m leaves the first m epochs alone and lowers the rate of those that follow. Cosine: rises
/// linearly to `base` over the warm-up's steps, then falls along half a cosine that reaches zero when the last epoch
/// ends.
#[must_use]
pub fn learning_rate(
    schedule: &ScheduleSpec,
    base: f64,
    epoch: u32,
    epochs: u32,
    step: u64,
    steps_per_epoch: u64,
) -> f64 {
    match schedule {
        ScheduleSpec::Constant => base,
        ScheduleSpec::Multistep { milestones, gamma } => {
            let passed = milestones.iter().filter(|milestone| **milestone <= epoch).count();
            base * gamma.powf(passed as f64)
        }
        ScheduleSpec::Cosine { warmup_epochs } => {
            let per_epoch = steps_per_epoch.max(1);
            let done = (u64::from(epoch) * per_epoch + step % per_epoch) as f64;
            let [rise, whole] = [*warmup_epochs, epochs].map(|epochs| (u64::from(epochs) * per_epoch) as f64);
            if done < rise {
                return base * (done + 1.0) / rise;
            }
            let share = ((done - rise) / (whole - rise).max(1.0)).min(1.0);
            base * 0.5 * (1.0 + (PI * share).cos())
        }
    }
}
