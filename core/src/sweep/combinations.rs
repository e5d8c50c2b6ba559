//! Which values of the axes belong together, and the documents of their jobs.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::pointer::{escaped, is_within, set, tokens};
use super::{Strategy, SweepSpec};
use crate::spec::Fault;

/// Longest name of a job, in characters.
const LONGEST_JOB_NAME: usize = 200;

/// A value for each axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Combination {
    /// From 1, in the order of the axes; the last axis changes first.
    pub number: u32,
    /// For each axis, the index of the value in its list.
    pub places: Vec<usize>,
}

impl SweepSpec {
    /// Number of combinations of the axes; `None` if it overflows.
    #[must_use]
    pub fn grid(&self) -> Option<u64> {
        self.axes.iter().try_fold(1_u64, |product, axis| product.checked_mul(axis.values.len() as u64))
    }

    /// The combinations to try. Those of a random strategy depend on its seed alone.
    #[must_use]
    pub fn combinations(&self) -> Vec<Combination> {
        let grid = self.grid().unwrap_or(u64::MAX);
        let indices: Vec<u64> = match &self.strategy {
            Strategy::Random { jobs, seed } => draw(u64::from(jobs / self.seeds), grid, *seed),
            Strategy::Grid | Strategy::Halving { .. } => (0..grid).collect(),
        };
        (1..).zip(indices).map(|(number, index)| Combination { number, places: self.places(index) }).collect()
    }

    fn places(&self, index: u64) -> Vec<usize> {
        let mut rest = index;
        let mut places: Vec<usize> = self
            .axes
            .iter()
            .rev()
            .map(|axis| {
                let count = axis.values.len() as u64;
                let place = usize::try_from(rest % count).unwrap_or(0);
                rest /= count;
                place
            })
            .collect();
        places.reverse();
        places
    }

    /// The value of each axis, in the order of the axes.
    #[must_use]
    pub fn settings(&self, combination: &Combination) -> Vec<Value> {
        let pairs = self.axes.iter().zip(&combination.places);
        pairs.map(|(axis, place)| axis.values[*place].clone()).collect()
    }

    /// The settings for people: `temperature 4, scales [1,2]`.
    #[must_use]
    pub fn summary(&self, combination: &Combination) -> String {
        let last = |pointer: &str| tokens(pointer).and_then(|mut names| names.pop()).unwrap_or_default();
        let is_alone = |name: &str| self.axes.iter().filter(|axis| last(&axis.pointer) == name).count() == 1;
        let settings = self.axes.iter().zip(self.settings(combination)).map(|(axis, value)| {
            let name = last(&axis.pointer);
            let name = if is_alone(&name) { name } else { axis.pointer[1..].to_owned() };
            match value {
                Value::String(text) => format!("{name} {text}"),
                value => format!("{name} {value}"),
            }
        });
        settings.collect::<Vec<_>>().join(", ")
    }

    /// The document of a job: the base with the settings of a combination, the seed and a name.
    ///
    /// # Errors
    /// The base has no place for the setting of an axis.
    pub fn document(&self, combination: &Combination, seed: u32) -> Result<Value, Fault> {
        let mut document = self.base.clone();
        for (axis, value) in self.axes.iter().zip(self.settings(combination)) {
            set(&mut document, &axis.pointer, value)
                .map_err(|detail| Fault { pointer: format!("/axes/{}", escaped(&axis.pointer)), detail })?;
        }
        if let Strategy::Halving { rungs, .. } = &self.strategy
            && document.pointer("/training/epochs").is_none_or(Value::is_null)
            && let Some(last) = rungs.last()
        {
            // A base whose training is no object has a fault of its own.
            let _ = set(&mut document, "/training/epochs", json!(last));
        }
        if self.seeds > 1 {
            let first = document.pointer("/training/seed").cloned().unwrap_or(Value::Null);
            if let Some(first) = if first.is_null() { Some(0) } else { first.as_u64() } {
                let _ = set(&mut document, "/training/seed", json!(first.saturating_add(u64::from(seed))));
            }
        }
        if let Some(members) = document.as_object_mut() {
            members.insert("name".into(), json!(self.job_name(combination, seed)));
        }
        Ok(document)
    }

    fn job_name(&self, combination: &Combination, seed: u32) -> String {
        let of_seed = if self.seeds > 1 { format!(", run {}", seed + 1) } else { String::new() };
        let name = format!("{}: {}{of_seed}", self.name, self.summary(combination));
        if name.chars().count() <= LONGEST_JOB_NAME && !name.chars().any(char::is_control) {
            return name;
        }
        format!("{} #{}{of_seed}", self.name, combination.number)
    }

    /// A fault of a job's document, at its place in the sweep's.
    #[must_use]
    pub fn fault(&self, combination: &Combination, fault: Fault) -> Fault {
        let Fault { pointer, detail } = fault;
        let axis = self.axes.iter().zip(&combination.places).find(|(axis, _)| is_within(&pointer, &axis.pointer));
        match axis {
            Some((axis, place)) => {
                let rest = &pointer[axis.pointer.len()..];
                Fault { pointer: format!("/axes/{}/{place}{rest}", escaped(&axis.pointer)), detail }
            }
            None => Fault { pointer: format!("/base{pointer}"), detail },
        }
    }
}

/// `count` different numbers below `limit`, in ascending order; all of them if there are no more.
fn draw(count: u64, limit: u64, seed: u64) -> Vec<u64> {
    if count >= limit {
        return (0..limit).collect();
    }
    let mut drawn = BTreeSet::new();
    let mut hashes = (0_u64..).map(|number| Sha256::digest([seed.to_le_bytes(), number.to_le_bytes()].concat()));
    while (drawn.len() as u64) < count
        && let Some(hash) = hashes.next()
    {
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        drawn.insert(u64::from_le_bytes(first) % limit);
    }
    drawn.into_iter().collect()
}

/// How many combinations continue after a rung: the given part of them, rounded up, and at least one.
#[must_use]
pub fn kept(combinations: usize, keep: f64) -> usize {
    // A third of three is one, although 3 × 0.3333… may be a little more.
    let part = (combinations as f64 * keep - 1e-9).ceil();
    (part as usize).clamp(1, combinations.max(1))
}

/// How many combinations train up to each rung.
#[must_use]
pub fn halving_counts(combinations: usize, rungs: usize, keep: f64) -> Vec<usize> {
    std::iter::successors(Some(combinations), |count| Some(kept(*count, keep))).take(rungs).collect()
}
