//! Whether a network can compute with the weights of a checkpoint.

use std::collections::BTreeMap;

use super::error::{Error, shown};
use super::tensor::to_f32;
use super::{Checkpoint, Tensor};
use crate::architecture::{self, Architecture, Role};
use crate::byte_source::ByteSource;

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
            match self.soundness_of(tensor, entry.role == Role::RunningVar)? {
                Soundness::Sound => {}
                Soundness::Doubtful(what) => doubt = doubt.or(Some(what)),
                unsound @ Soundness::Unsound(_) => return Ok(unsound),
            }
        }
        Ok(doubt.map_or(Soundness::Sound, Soundness::Doubtful))
    }

    /// What can be said of the values of one tensor of floating-point numbers.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn soundness_of(&self, tensor: &Tensor, is_variance: bool) -> Result<Soundness, Error> {
        tensor.soundness(&self.source, is_variance)
    }
}

impl Tensor {
    /// What can be said of the values, of which some are in memory at a time.
    pub(crate) fn soundness(&self, source: &ByteSource, is_variance: bool) -> Result<Soundness, Error> {
        let mut check = SoundnessCheck::new(shown(self.name()), is_variance);
        self.pieces(source, |piece| check.add(&to_f32(self.dtype(), piece)))?;
        Ok(check.finish())
    }
}

/// Looks at the values of one tensor, some at a time.
struct SoundnessCheck {
    name: String,
    is_variance: bool,
    values: u64,
    not_finite: u64,
    negative: u64,
    large: u64,
    largest: f32,
}

impl SoundnessCheck {
    /// For a tensor whose name is fit to be shown.
    fn new(name: String, is_variance: bool) -> Self {
        Self { name, is_variance, values: 0, not_finite: 0, negative: 0, large: 0, largest: 0.0 }
    }

    /// Beyond it, values are doubtful. A variance is a square.
    fn bound(&self) -> f32 {
        if self.is_variance { LARGE * LARGE } else { LARGE }
    }

    /// Looks at some of the values, in any order.
    fn add(&mut self, values: &[f32]) {
        let bound = self.bound();
        let count = |is_meant: &dyn Fn(f32) -> bool| values.iter().filter(|&&value| is_meant(value)).count() as u64;
        self.values += values.len() as u64;
        self.not_finite += count(&|value| !value.is_finite());
        self.negative += count(&|value| value < 0.0);
        self.large += count(&|value| value.abs() > bound);
        self.largest = values.iter().fold(self.largest, |largest, value| largest.max(value.abs()));
    }

    /// What can be said of all values.
    fn finish(self) -> Soundness {
        let name = &self.name;
        if let Some(what) = self.unsound() {
            return Soundness::Unsound(format!("cannot be used: {name} {what}"));
        }
        self.too_large().map_or(Soundness::Sound, |what| Soundness::Doubtful(format!("{name} {what}")))
    }

    /// What is doubtful about the values, as a predicate.
    fn too_large(&self) -> Option<String> {
        let Self { large, values, largest, .. } = self;
        (*large > 0).then(|| {
            format!(
                "has {large} of {values} values beyond {:e}, the largest of size {largest:e}: weights of trained \
                 networks are far smaller, so the file is probably broken",
                self.bound()
            )
        })
    }

    /// What is wrong with the values, as a predicate.
    fn unsound(&self) -> Option<String> {
        let of_all = |bad: u64| format!("{bad} of {}", self.values);
        match (self.not_finite, self.negative) {
            (0, negative) if negative > 0 && self.is_variance => Some(format!(
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
}
