//! Upper bounds that users set for a student, and whether it meets them.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::latencies;
use crate::db::latencies::{Latency, NetworkKey};

/// Upper bounds for a student. A missing one is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Constraints {
    /// Median time for one image on the server's CPU, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Median time for 64 images at a time, in milliseconds for all of them.
    pub latency_64_ms: Option<f64>,
    /// Size of its file of weights, in megabytes of 1,000,000 bytes.
    pub size_mb: Option<f64>,
    /// Number of trained parameters.
    pub parameters: Option<f64>,
}

/// What a student is, as far as it is known, in the units of [`Constraints`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measures {
    pub latency_ms: Option<f64>,
    pub latency_64_ms: Option<f64>,
    pub size_mb: Option<f64>,
    pub parameters: Option<f64>,
}

/// A constraint that a student does not meet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Missed {
    /// Its name.
    #[schema(example = "latency_ms")]
    pub constraint: String,
    /// The most that is allowed.
    pub most: f64,
    /// What the student has.
    pub value: f64,
}

/// Whether a student meets the constraints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// Null if no constraint is missed, but one cannot be judged.
    pub qualifies: Option<bool>,
    /// The constraints that it does not meet.
    pub missed: Vec<Missed>,
    /// Names of the constraints for which this is not known.
    pub unknown: Vec<String>,
}

/// What is known about a student before training, which changes neither its size nor its speed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Qualification {
    /// Whether it can meet the constraints.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Its size in megabytes at least: running statistics come on top of its parameters.
    pub size_mb: f64,
    /// The untrained network's latency on the server's CPU, or that of an earlier student with this network; null if
    /// no constraint needs it, or it is not known.
    pub latency: Option<Latency>,
    /// Why the latency is not known.
    pub latency_unknown: Option<String>,
}

/// Bytes of a megabyte.
pub const MEGABYTE: f64 = 1e6;

impl Constraints {
    /// # Errors
    /// A bound is not a positive number.
    pub fn checked(self) -> Result<Self, ApiError> {
        for (name, most, _) in self.pairs(Measures::default()) {
            if most.is_some_and(|most| !(most.is_finite() && most > 0.0)) {
                return Err(ApiError::malformed(format!("query parameters: {name}: expected a positive number")));
            }
        }
        Ok(self)
    }

    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn bound_latency(self) -> bool {
        self.latency_ms.is_some() || self.latency_64_ms.is_some()
    }

    /// What is said of an untrained network. Its latency, or why it is not known, is `None` if no bound needs it.
    fn qualification(self, network: &NetworkKey, latency: Option<Result<Latency, String>>) -> Qualification {
        let (latency, latency_unknown) = match latency {
            Some(Ok(latency)) => (Some(latency), None),
            Some(Err(reason)) => (None, Some(reason)),
            None => (None, None),
        };
        let parameters = network.parameters as f64;
        let size_mb = 4.0 * parameters / MEGABYTE;
        let verdict = self.judge(Measures::of(parameters, size_mb, latency.as_ref()));
        Qualification { verdict, size_mb, latency, latency_unknown }
    }

    /// Each constraint's name, its bound, and what a student has.
    fn pairs(self, has: Measures) -> [(&'static str, Option<f64>, Option<f64>); 4] {
        [
            ("latency_ms", self.latency_ms, has.latency_ms),
            ("latency_64_ms", self.latency_64_ms, has.latency_64_ms),
            ("size_mb", self.size_mb, has.size_mb),
            ("parameters", self.parameters, has.parameters),
        ]
    }

    /// Whether a student with these measures qualifies.
    pub fn judge(self, has: Measures) -> Verdict {
        let (mut missed, mut unknown) = (Vec::new(), Vec::new());
        for (name, most, value) in self.pairs(has) {
            match (most, value) {
                (Some(most), Some(value)) if value > most => {
                    missed.push(Missed { constraint: name.to_owned(), most, value });
                }
                (Some(_), None) => unknown.push(name.to_owned()),
                _ => {}
            }
        }
        let qualifies = if missed.is_empty() { unknown.is_empty().then_some(true) } else { Some(false) };
        Verdict { qualifies, missed, unknown }
    }
}

impl Measures {
    pub fn of(parameters: f64, size_mb: f64, latency: Option<&Latency>) -> Self {
        Self {
            latency_ms: latency.and_then(|latency| latency.median_ms(1)),
            latency_64_ms: latency.and_then(|latency| latency.median_ms(64)),
            size_mb: Some(size_mb),
            parameters: Some(parameters),
        }
    }
}

impl Qualification {
    /// The warning for people.
    pub fn warnings(&self) -> Vec<String> {
        let missed = self.verdict.missed.iter().map(|Missed { constraint, most, value }| {
            // Small numbers have three decimals.
            let digits = if *value < 1000.0 { 3 } else { 0 };
            format!(
                "the student cannot qualify: its untrained network has {constraint} {value:.digits$}, and at most {most} is \
                 allowed. Choose a smaller student"
            )
        });
        let reason = self.latency_unknown.iter();
        let unknown = reason
            .map(|reason| format!("whether the student's latency can qualify is not known before training: {reason}"));
        missed.chain(unknown).collect()
    }
}

/// Judges the student of a job before it is trained, by its network and its number of classes; `None` without
/// constraints.
///
/// # Errors
/// The database or storage cannot be read.
pub async fn foresee(
    state: &AppState,
    (network, classes): (&NetworkKey, u32),
    constraints: Constraints,
) -> Result<Option<Qualification>, ApiError> {
    if constraints.is_empty() {
        return Ok(None);
    }
    let latency = match constraints.bound_latency() {
        true => Some(latencies::of_untrained(state, network, classes).await?),
        false => None,
    };
    Ok(Some(constraints.qualification(network, latency)))
}

/// The same for several students, each network once, within four fifths of the time for a request. What is measured is
/// remembered: a later request goes on with the networks for which there was no time.
///
/// # Errors
/// As for [`foresee`].
pub async fn foresee_each(
    state: &AppState,
    students: impl IntoIterator<Item = (NetworkKey, u32)>,
    constraints: Constraints,
) -> Result<Vec<Option<Qualification>>, ApiError> {
    let (begun, patience) = (Instant::now(), state.settings.timeout * 4 / 5);
    let mut judged: Vec<((NetworkKey, u32), Option<Qualification>)> = Vec::new();
    let mut found = Vec::new();
    for student in students {
        let known = judged.iter().find(|(other, _)| *other == student).map(|(_, known)| known.clone());
        let qualification = match known {
            Some(known) => known,
            None => {
                let left = patience.saturating_sub(begun.elapsed());
                match tokio::time::timeout(left, foresee(state, (&student.0, student.1), constraints)).await {
                    Ok(qualification) => qualification?,
                    Err(_) => {
                        let seconds = patience.as_secs();
                        let reason = format!("the networks of this sweep take more than {seconds} s: ask again");
                        Some(constraints.qualification(&student.0, Some(Err(reason))))
                    }
                }
            }
        };
        judged.push((student, qualification.clone()));
        found.push(qualification);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missed_decides_even_if_something_is_unknown() {
        let constraints = Constraints { latency_ms: Some(5.0), size_mb: Some(4.0), ..Constraints::default() };
        let judge = |latency_ms, size_mb| {
            let has = Measures { latency_ms, size_mb, ..Measures::default() };
            constraints.judge(has).qualifies
        };
        assert_eq!(judge(Some(5.0), Some(4.0)), Some(true), "a bound is allowed");
        assert_eq!(judge(Some(5.1), Some(4.0)), Some(false));
        assert_eq!(judge(None, Some(4.0)), None);
        assert_eq!(judge(None, Some(4.1)), Some(false));
        assert_eq!(Constraints::default().judge(Measures::default()).qualifies, Some(true));
    }

    #[test]
    fn a_bound_is_a_positive_number() {
        for most in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let constraints = Constraints { size_mb: Some(most), ..Constraints::default() };
            assert!(constraints.checked().is_err(), "{most}");
        }
    }
}
