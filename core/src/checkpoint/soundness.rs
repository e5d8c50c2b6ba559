//! Whether a network can compute with the weights of a checkpoint.

use std::collections::BTreeMap;

use super::error::{Error, shown};
use super::{Checkpoint, Tensor};
use crate::architecture::{self, Architecture, Role};

impl Checkpoint {
    /// [`unsound`](Self::unsound) for the network that has these keys and shapes. Where several have, they use the same
    /// weights. `None` also if there is no such network.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn unsound_as_it_fits(&self) -> Result<Option<String>, Error> {
        match architecture::fits(&self.shapes()).first() {
            Some(fit) => self.unsound(fit.architecture, fit.classes),
            None => Ok(None),
        }
    }

    /// What keeps the network from computing, with its tensor's name: weights that are no floating-point numbers, or
    /// that make every output NaN, because one is not finite or a negative variance. A predicate that continues "the
    /// checkpoint"; `None` if there is nothing of this kind. Reads the weights that the network uses.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn unsound(&self, architecture: &Architecture, classes: u32) -> Result<Option<String>, Error> {
        let named = |tensor| Some((architecture.canonical_key(Tensor::name(tensor))?, tensor));
        let found: BTreeMap<&str, &Tensor> = self.tensors().iter().filter_map(named).collect();
        for entry in architecture.layout(classes).entries {
            let Some(tensor) = found.get(entry.key.as_str()) else { continue };
            if !tensor.dtype().is_float() {
                return Ok(Some(format!(
                    "cannot be used: {} has elements of type {}, and weights are floating-point numbers: save the \
                     network as it was before it was quantised",
                    shown(tensor.name()),
                    tensor.dtype()
                )));
            }
            let unsound = unsound(entry.role == Role::RunningVar, &self.floats(tensor)?);
            if let Some(what) = unsound {
                return Ok(Some(format!("cannot be used: {} {what}", shown(tensor.name()))));
            }
        }
        Ok(None)
    }
}

/// What is wrong with the values of a tensor, as a predicate. `None` if nothing is.
#[must_use]
pub fn unsound(is_variance: bool, values: &[f32]) -> Option<String> {
    let count = |is_bad: fn(&f32) -> bool| values.iter().filter(|value| is_bad(value)).count();
    let of_all = |bad: usize| format!("{bad} of {}", values.len());
    match (count(|value| !value.is_finite()), count(|&value| value < 0.0)) {
        (0, negative) if negative > 0 && is_variance => Some(format!(
            "is a variance and has {} values below zero, so every output would be NaN: use another checkpoint",
            of_all(negative)
        )),
        (0, _) => None,
        (bad, _) => Some(format!(
            "has {} values that are not finite (NaN, infinity, or beyond float32), so outputs would be NaN: use \
             another checkpoint",
            of_all(bad)
        )),
    }
}
