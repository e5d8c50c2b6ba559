//! Whether a network can compute with the weights of a checkpoint.

use std::collections::BTreeMap;

use super::error::{Error, shown};
use super::{Checkpoint, Tensor};
use crate::architecture::{self, Architecture, Role};

/// Weights of trained networks are far below this.
const LARGE: f32 = 1e6;

/// What can be said of the weights of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Soundness {
    Sound,
    /// A network can compute with them, and they are so large that they are probably broken. The sentence names their
    /// tensor.
    Doubtful(String),
    /// What keeps the network from computing, with its tensor's name: weights that are no floating-point numbers, or
    /// that make every output NaN, because one is not finite or a negative variance. A predicate that continues "the
    /// checkpoint".
    Unsound(String),
}

impl Checkpoint {
    /// [`soundness`](Self::soundness) for the network that has these keys and shapes. Where several have, they use the
    /// same weights. Sound also if there is no such network.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn soundness_as_it_fits(&self) -> Result<Soundness, Error> {
        match architecture::fits(&self.shapes()).first() {
            Some(fit) => self.soundness(fit.architecture, fit.classes),
            None => Ok(Soundness::Sound),
        }
    }

    /// Whether the network can compute with the weights. Reads those that it uses.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn soundness(&self, architecture: &Architecture, classes: u32) -> Result<Soundness, Error> {
        let named = |tensor| Some((architecture.canonical_key(Tensor::name(tensor))?, tensor));
        let found: BTreeMap<&str, &Tensor> = self.tensors().iter().filter_map(named).collect();
        let mut doubt = None;
        for entry in architecture.layout(classes).entries {
            let Some(tensor) = found.get(entry.key.as_str()) else { continue };
            let name = shown(tensor.name());
            if !tensor.dtype().is_float() {
                return Ok(Soundness::Unsound(format!(
                    "cannot be used: {name} has elements of type {}, and weights are floating-point numbers: save the \
                     network as it was before it was quantised",
                    tensor.dtype()
                )));
            }
            match Soundness::of(&name, entry.role == Role::RunningVar, &self.floats(tensor)?) {
                Soundness::Sound => {}
                Soundness::Doubtful(what) => doubt = doubt.or(Some(what)),
                unsound @ Soundness::Unsound(_) => return Ok(unsound),
            }
        }
        Ok(doubt.map_or(Soundness::Sound, Soundness::Doubtful))
    }
}

impl Soundness {
    /// What can be said of the values of one tensor, whose name is fit to be shown.
    #[must_use]
    pub fn of(name: &str, is_variance: bool, values: &[f32]) -> Self {
        if let Some(what) = unsound(is_variance, values) {
            return Self::Unsound(format!("cannot be used: {name} {what}"));
        }
        too_large(is_variance, values).map_or(Self::Sound, |what| Self::Doubtful(format!("{name} {what}")))
    }
}

/// What is doubtful about the values of a tensor, as a predicate.
fn too_large(is_variance: bool, values: &[f32]) -> Option<String> {
    // A variance is a square.
    let bound = if is_variance { LARGE * LARGE } else { LARGE };
    let large = values.iter().filter(|value| value.abs() > bound).count();
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    (large > 0).then(|| {
        format!(
            "has {large} of {} values beyond {bound:e}, the largest of size {largest:e}: weights of trained networks \
             are far smaller, so the file is probably broken",
            values.len()
        )
    })
}

/// What is wrong with the values of a tensor, as a predicate.
fn unsound(is_variance: bool, values: &[f32]) -> Option<String> {
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
