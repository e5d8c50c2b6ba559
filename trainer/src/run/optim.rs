//! Optimisers in PyTorch's formulation, whose state can be saved and restored, and learning rate schedules.
//!
//! libtorch's own optimisers do not expose their momentum, so a run could not resume exactly. These are made of
//! libtorch's operators over all parameters at once. Everything stays on the parameters' device, including a step's
//! learning rate and number: nothing waits for the device.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use tch::{Device, Kind, Tensor};

use super::average::WeightAverage;
use crate::device::optimizers;
use distillery_core::spec::{OptimizerSpec, ScheduleSpec};

/// Added to AdamW's denominator: PyTorch's default.
const ADAMW_EPSILON: f64 = 1e-8;
/// Added to LAMB's denominator: timm's default.
const LAMB_EPSILON: f64 = 1e-6;

/// An optimiser that updates its parameters (float32, any strides) in place.
#[derive(Debug)]
pub struct Optimizer {
    spec: OptimizerSpec,
    names: Vec<String>,
    values: Vec<Tensor>,
    /// For each [moment](moment_names), a tensor per parameter, with its strides.
    moments: Vec<Vec<Tensor>>,
    /// Steps done: an int64 scalar on the parameters' device.
    steps: Tensor,
    /// The parameters of the body, if they have another learning rate.
    body: Option<Body>,
    /// Whether tensors of one dimension have weight decay.
    decays_vectors: bool,
    average: Option<WeightAverage>,
}

/// The parameters whose learning rate is scaled.
#[derive(Debug)]
struct Body {
    rate_scale: f64,
    /// For each parameter, whether its learning rate is scaled.
    is_body: Vec<bool>,
}

impl Optimizer {
    /// The tensors share their storage with the network's parameters, which must be leaves that require gradients and
    /// must already be on their device.
    #[must_use]
    pub fn new(spec: &OptimizerSpec, named_parameters: Vec<(String, Tensor)>) -> Self {
        let (names, values): (Vec<_>, Vec<_>) = named_parameters.into_iter().unzip();
        // zeros_like keeps the strides, so that a step reads and writes in one order.
        let zeros = || tch::no_grad(|| values.iter().map(Tensor::zeros_like).collect());
        let moments = moment_names(spec).iter().map(|_| zeros()).collect();
        let device = values.first().map_or(Device::Cpu, Tensor::device);
        let steps = Tensor::zeros([], (Kind::Int64, device));
        Self { spec: *spec, names, moments, values, steps, body: None, decays_vectors: true, average: None }
    }

    /// Multiplies the learning rate of all parameters but those whose names `is_head` recognises.
    #[must_use]
    pub fn with_body_rate(self, rate_scale: f64, is_head: impl Fn(&str) -> bool) -> Self {
        let is_body = self.names.iter().map(|name| !is_head(name)).collect();
        Self { body: Some(Body { rate_scale, is_body }), ..self }
    }

    /// Leaves biases and norms, which are the tensors of one dimension at most, without weight decay.
    #[must_use]
    pub fn without_decay_of_vectors(self) -> Self {
        Self { decays_vectors: false, ..self }
    }

    /// Updates this average after each step.
    #[must_use]
    pub fn averaging(self, average: WeightAverage) -> Self {
        Self { average: Some(average), ..self }
    }

    /// The average that [`averaging`](Self::averaging) was given.
    #[must_use]
    pub fn average(&self) -> Option<&WeightAverage> {
        self.average.as_ref()
    }

    /// Updates the parameters by their gradients, which are only read, and then the average. The learning rate is a
    /// float32 scalar on their device. A parameter without a gradient stays as it is.
    pub fn step(&mut self, learning_rate: &Tensor) {
        tch::no_grad(|| {
            self.steps += 1;
            let (indices, gradients) = self.gradients();
            let Some(Body { rate_scale, is_body }) = &self.body else {
                self.update(&indices, &gradients, learning_rate);
                return;
            };
            let of_body = learning_rate * *rate_scale;
            for (is_wanted, rate) in [(true, &of_body), (false, learning_rate)] {
                let (indices, gradients) = chosen(&indices, &gradients, |index| is_body[index] == is_wanted);
                self.update(&indices, &gradients, rate);
            }
        });
        if let Some(average) = &self.average {
            average.update();
        }
    }

    /// Updates the parameters at `indices`.
    fn update(&self, indices: &[usize], gradients: &[Tensor], learning_rate: &Tensor) {
        if self.decays_vectors {
            return self.update_by(self.spec, indices, gradients, learning_rate);
        }
        for (is_vector, spec) in [(false, self.spec), (true, without_decay(self.spec))] {
            let is_wanted = |index: usize| (self.values[index].dim() <= 1) == is_vector;
            let (indices, gradients) = chosen(indices, gradients, is_wanted);
            self.update_by(spec, &indices, &gradients, learning_rate);
        }
    }

    /// Updates the parameters at `indices` as `spec` says.
    fn update_by(&self, spec: OptimizerSpec, indices: &[usize], gradients: &[Tensor], learning_rate: &Tensor) {
        let of = |tensors: &[Tensor]| indices.iter().map(|&index| tensors[index].shallow_clone()).collect::<Vec<_>>();
        let values = of(&self.values);
        let moments: Vec<Vec<Tensor>> = self.moments.iter().map(|moments| of(moments)).collect();
        match (spec, moments.as_slice()) {
            _ if indices.is_empty() => {}
            (OptimizerSpec::Sgd { momentum, weight_decay, nesterov, .. }, buffers) => {
                let buffers = buffers.first().map(Vec::as_slice);
                let sgd = optimizers::Sgd { weight_decay, momentum, nesterov };
                optimizers::sgd(&values, gradients, buffers, learning_rate, sgd);
            }
            (OptimizerSpec::Adamw { beta1, beta2, weight_decay, .. }, [first, second]) => {
                let state = optimizers::AdaptiveState { values: &values, gradients, first, second };
                let adaptive = optimizers::Adaptive { beta1, beta2, weight_decay, epsilon: ADAMW_EPSILON };
                optimizers::adamw(&state, learning_rate, &self.steps, adaptive);
            }
            (OptimizerSpec::Lamb { beta1, beta2, weight_decay, .. }, [first, second]) => {
                let state = optimizers::AdaptiveState { values: &values, gradients, first, second };
                let adaptive = optimizers::Adaptive { beta1, beta2, weight_decay, epsilon: LAMB_EPSILON };
                optimizers::lamb(&state, learning_rate, &self.steps, adaptive);
            }
            (OptimizerSpec::Adamw { .. } | OptimizerSpec::Lamb { .. }, _) => unreachable!("they have two moments"),
        }
    }

    /// Scales all gradients in place so that their total L2 norm is at most `largest`. Returns the norm before that: a
    /// float32 scalar on the gradients' device, or zero without gradients.
    pub fn clip_grad_norm(&self, largest: f64) -> Tensor {
        let (_, gradients) = self.gradients();
        if gradients.is_empty() {
            return Tensor::zeros([], (Kind::Float, Device::Cpu));
        }
        tch::no_grad(|| optimizers::clip(&gradients, largest))
    }

    /// Removes the gradients from the parameters.
    pub fn drop_gradients(&self) {
        optimizers::drop_gradients(&self.values);
    }

    /// What a resumed run needs, by name: `step` (int64 scalar, steps done) and, per parameter, `momentum.<name>`
    /// (SGD with momentum) or `exp_avg.<name>` and `exp_avg_sq.<name>` (AdamW, LAMB), float32 of the parameter's shape;
    /// and `average.<name>` of each averaged tensor.
    ///
    /// The tensors share their storage with the optimiser, so the next step changes them. Moments have their
    /// parameter's strides, and so are not always contiguous.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![("step".to_owned(), self.steps.shallow_clone())];
        for (index, name) in self.names.iter().enumerate() {
            for (prefix, moments) in moment_names(&self.spec).iter().zip(&self.moments) {
                state.push((format!("{prefix}.{name}"), moments[index].shallow_clone()));
            }
        }
        state.extend(self.average.iter().flat_map(WeightAverage::state));
        state
    }

    /// Copies a [`state`](Self::state) from any device. Further steps are the same, to the last bit, as without the
    /// interruption.
    ///
    /// # Errors
    /// A tensor is missing, has another shape, or does not belong here. Nothing has changed then.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<(), String> {
        let mut given: BTreeMap<&str, &Tensor> = state.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let step = given.remove("step").ok_or("the optimizer's state has no step")?;
        let steps = i64::try_from(step).map_err(|error| format!("the optimizer's step is not a number: {error}"))?;
        let mut copies = Vec::new();
        for (name, own) in self.state().into_iter().skip(1) {
            let tensor = given.remove(name.as_str()).ok_or_else(|| format!("the optimizer's state has no {name}"))?;
            if tensor.size() != own.size() {
                let (found, wanted) = (tensor.size(), own.size());
                return Err(format!("the optimizer's {name} has shape {found:?} instead of {wanted:?}"));
            }
            copies.push((own, tensor));
        }
        if let Some(name) = given.keys().next() {
            return Err(format!("the optimizer's state has {name}, which this optimizer does not use"));
        }
        tch::no_grad(|| copies.iter_mut().try_for_each(|(own, tensor)| own.f_copy_(tensor)))
            .map_err(|error| format!("the optimizer's state cannot be copied: {error}"))?;
        let _ = tch::no_grad(|| self.steps.fill_(steps));
        Ok(())
    }

    /// The indices of the parameters that have gradients, and the gradients.
    fn gradients(&self) -> (Vec<usize>, Vec<Tensor>) {
        let gradients = self.values.iter().map(Tensor::grad).enumerate();
        gradients.filter(|(_, gradient)| gradient.defined()).unzip()
    }
}

/// Those of the parameters at `indices` that are wanted, with their gradients.
fn chosen(indices: &[usize], gradients: &[Tensor], is_wanted: impl Fn(usize) -> bool) -> (Vec<usize>, Vec<Tensor>) {
    let pairs = indices.iter().zip(gradients).filter(|&(&index, _)| is_wanted(index));
    pairs.map(|(index, gradient)| (*index, gradient.shallow_clone())).unzip()
}

/// The same optimiser with a weight decay of 0.
fn without_decay(spec: OptimizerSpec) -> OptimizerSpec {
    let mut spec = spec;
    match &mut spec {
        OptimizerSpec::Sgd { weight_decay, .. }
        | OptimizerSpec::Adamw { weight_decay, .. }
        | OptimizerSpec::Lamb { weight_decay, .. } => *weight_decay = 0.0,
    }
    spec
}

/// The names of a parameter's moments in a checkpoint.
fn moment_names(spec: &OptimizerSpec) -> &'static [&'static str] {
    match spec {
        OptimizerSpec::Sgd { momentum: 0.0, .. } => &[],
        OptimizerSpec::Sgd { .. } => &["momentum"],
        OptimizerSpec::Adamw { .. } | OptimizerSpec::Lamb { .. } => &["exp_avg", "exp_avg_sq"],
    }
}

/// The learning rate of one step. Epochs and steps count from 0; `step` may count from the beginning of the epoch or of
/// the run.
///
/// Multistep multiplies the rate by `gamma` after each milestone's number of epochs. Cosine rises linearly to `base`
/// during the warm-up, then falls along half a cosine to zero at the end of the last epoch.
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
            let fraction = ((done - rise) / (whole - rise).max(1.0)).min(1.0);
            base * 0.5 * (1.0 + (PI * fraction).cos())
        }
    }
}
