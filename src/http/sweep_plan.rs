//! Checks the jobs of a sweep as any other job, and estimates what they cost together.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::AppState;
use super::constraints::{self, Constraints, Qualification};
use super::error::ApiError;
use super::estimate::{Memory, Time};
use super::extract::fault;
use super::measurements::Measurements;
use super::resolve::{self, Resolved};
use super::statistics::Looks;
use crate::spec::{Fault, JobSpec, TeacherCache};
use crate::sweep::{Combination, Strategy, SweepSpec, halving_counts};
use crate::text::counted;

/// Number of faults after which no further combinations are checked.
const MOST_FAULTS: usize = 100;
/// Most warnings of a sweep.
const MOST_WARNINGS: usize = 50;
/// Most bytes of the documents of all jobs.
const MOST_BYTES: usize = 8 << 20;

/// A sweep whose jobs can all run.
#[derive(Debug)]
pub struct SweepPlan {
    pub sweep: SweepSpec,
    pub combinations: Vec<PlannedCombination>,
    /// What was left out, or may not be intended.
    pub warnings: Vec<String>,
    /// What was decided for its jobs, which needs no action. The history of each job has it.
    pub remarks: Vec<String>,
}

/// A combination whose jobs can run.
#[derive(Debug)]
pub struct PlannedCombination {
    pub combination: Combination,
    /// Its job with the last seed: the others differ in their seed alone.
    pub resolved: Resolved,
    /// Whether its student can keep the constraints; `None` without constraints.
    pub qualification: Option<Qualification>,
}

/// A job of a sweep.
#[derive(Debug)]
pub struct PlannedJob {
    /// Its document.
    pub submitted: String,
    pub spec: JobSpec,
}

impl PlannedCombination {
    /// Which constraints its student cannot keep, or may not.
    pub fn misses(&self) -> Vec<String> {
        self.qualification.iter().flat_map(Qualification::warnings).collect()
    }
}

impl SweepPlan {
    /// Reads the body of `POST /v1/sweeps`, and checks every job of it.
    ///
    /// # Errors
    /// All faults, or why the jobs could not be checked.
    pub async fn new(state: &AppState, document: &Value) -> Result<Self, ApiError> {
        let sweep = SweepSpec::read(document).map_err(ApiError::faults)?;
        let combinations = sweep.combinations();
        check_bytes(&sweep, combinations.len())?;
        let (mut planned, mut faults, mut left_out) = (Vec::new(), FoundFaults::default(), Vec::new());
        let mut known: BTreeMap<String, u32> = BTreeMap::new();
        for combination in combinations {
            match plan(state, &sweep, &combination).await? {
                Ok(resolved) => {
                    faults.checked += 1;
                    let identity = identity(&resolved.spec);
                    if let Some(other) = known.get(&identity) {
                        left_out.push((combination.number, *other));
                    } else {
                        known.insert(identity, combination.number);
                        planned.push(PlannedCombination { combination, resolved, qualification: None });
                    }
                }
                Err(found) => faults.add(found, &sweep.summary(&combination)),
            }
            if faults.found.len() >= MOST_FAULTS {
                break;
            }
        }
        if !faults.found.is_empty() {
            return Err(ApiError::faults(faults.finish()));
        }
        let mut plan = Self { sweep, combinations: planned, warnings: Vec::new(), remarks: Vec::new() };
        plan.warnings = plan.find_warnings(&left_out);
        plan.remarks = at_most(plan.of_jobs(|planned| planned.resolved.remarks()), "remark");
        Ok(plan)
    }

    /// Judges the students before they are trained, and warns of those that cannot keep the constraints.
    ///
    /// # Errors
    /// The database or storage cannot be read.
    pub async fn qualify(&mut self, state: &AppState, constraints: Constraints) -> Result<(), ApiError> {
        let students: Vec<_> = self.combinations.iter().map(|planned| planned.resolved.student_network()).collect();
        let qualifications = constraints::foresee_each(state, students, constraints).await?;
        for (planned, qualification) in self.combinations.iter_mut().zip(qualifications) {
            planned.qualification = qualification;
        }
        let mut warnings = self.of_jobs(PlannedCombination::misses);
        warnings.append(&mut self.warnings);
        self.warnings = at_most(warnings, "warning");
        Ok(())
    }

    /// Number of its jobs.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.combinations.len() * self.sweep.seeds as usize
    }

    /// The jobs, with their combination, in the order in which they are to run: all combinations with one seed first.
    ///
    /// # Errors
    /// None for a plan that was made by [`new`](Self::new).
    pub fn documents(&self) -> Result<Vec<(&PlannedCombination, PlannedJob)>, ApiError> {
        let pairs = (0..self.sweep.seeds).flat_map(|seed| self.combinations.iter().map(move |one| (seed, one)));
        let jobs = pairs.map(|(seed, planned)| {
            let document = self.sweep.document(&planned.combination, seed);
            let document = document.map_err(|fault| ApiError::faults(vec![fault]))?;
            let mut spec = planned.resolved.spec.clone();
            if let Some(seed) = document.pointer("/training/seed").and_then(Value::as_u64) {
                spec.training.seed = seed;
            }
            if let Some(name) = document["name"].as_str() {
                name.clone_into(&mut spec.name);
            }
            Ok((planned, PlannedJob { submitted: document.to_string(), spec }))
        });
        jobs.collect()
    }

    /// The settings of a combination, by the axes' pointers.
    #[must_use]
    pub fn settings(&self, combination: &Combination) -> Value {
        let pairs = self.sweep.axes.iter().zip(self.sweep.settings(combination));
        Value::Object(pairs.map(|(axis, value)| (axis.pointer.clone(), value)).collect::<Map<_, _>>())
    }

    fn find_warnings(&self, left_out: &[(u32, u32)]) -> Vec<String> {
        let mut warnings: Vec<String> = left_out
            .iter()
            .map(|(number, other)| {
                format!("combination {number} is left out: it is combination {other}, written differently")
            })
            .collect();
        if let Strategy::Random { jobs, .. } = &self.sweep.strategy
            && (self.jobs() as u64) < u64::from(*jobs)
        {
            let made = counted(self.jobs() as u64, "job is", "jobs are");
            warnings
                .push(format!("{made} made, fewer than the {jobs} allowed: every combination has all of its seeds"));
        }
        let seeds: BTreeSet<u64> = self.combinations.iter().map(|one| one.resolved.spec.training.seed).collect();
        if seeds.len() > 1 {
            warnings.push(format!(
                "every seed is a combination of its own, without mean and deviation over seeds: take training.seed out \
                 of the axes, and write \"seeds\": {} to train every combination with as many",
                seeds.len()
            ));
        }
        if self.jobs() > 1 && self.combinations.iter().all(|planned| evaluates_teacher(&planned.resolved.spec)) {
            warnings.push(
                "the teacher is evaluated for every image in every epoch of every job, because training.teacher_cache \
                 is off: with views:4, say, the first job of each seed on a machine computes its logits for the others"
                    .to_owned(),
            );
        }
        let seeds = seeds.len().max(self.sweep.seeds as usize);
        if seeds > 1 && self.combinations.iter().any(|planned| has_views(&planned.resolved.spec)) {
            warnings.push(format!(
                "each of the {seeds} seeds has views of its own (training.teacher_cache): on each machine, the teacher \
                 is evaluated once for each seed, and not once for the sweep"
            ));
        }
        warnings.extend(self.of_jobs(|planned| planned.resolved.doubts()));
        at_most(warnings, "warning")
    }

    /// What is said of the jobs, each with the combinations of which it is said unless it is said of all.
    fn of_jobs(&self, said: impl Fn(&PlannedCombination) -> Vec<String>) -> Vec<String> {
        let mut of_jobs: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for planned in &self.combinations {
            for line in said(planned) {
                of_jobs.entry(line).or_default().push(planned.combination.number);
            }
        }
        let all = self.combinations.len();
        let lines = of_jobs.into_iter().map(|(line, numbers)| match numbers.as_slice() {
            numbers if numbers.len() == all => line,
            [only] => format!("combination {only}: {line}"),
            [first, ..] => format!("{} combinations, such as {first}: {line}", numbers.len()),
            [] => line,
        });
        lines.collect()
    }

    /// What is found in the images of data sets at which nobody has looked yet, or why that is not known.
    pub async fn look_at_images(&self, state: &AppState) -> Vec<String> {
        let mut looks = Looks::from_now();
        let mut found = BTreeMap::new();
        for planned in &self.combinations {
            found.insert(planned.combination.number, planned.resolved.look_at_images(state, &mut looks).await);
        }
        at_most(self.of_jobs(|planned| found[&planned.combination.number].clone()), "warning")
    }

    /// Memory and time of each combination.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn estimates(&self, state: &AppState) -> Result<Vec<(Memory, Option<Time>)>, ApiError> {
        let (mut measurements, mut estimates) = (Measurements::default(), Vec::new());
        for planned in &self.combinations {
            estimates.push(planned.resolved.estimate(state, &mut measurements).await?);
        }
        Ok(estimates)
    }

    /// The part of the epochs of all jobs that is trained: less than 1 with halving.
    #[must_use]
    pub fn trained_part(&self) -> f64 {
        let Strategy::Halving { rungs, keep } = &self.sweep.strategy else { return 1.0 };
        let all = self.combinations.len();
        let counts = halving_counts(all, rungs.len(), *keep);
        let lengths = rungs.iter().zip(std::iter::once(&0).chain(rungs)).map(|(end, start)| f64::from(end - start));
        let trained: f64 = counts.iter().zip(lengths).map(|(count, length)| *count as f64 * length).sum();
        let whole = all as f64 * rungs.last().copied().map_or(1.0, f64::from);
        trained / whole.max(1.0)
    }
}

/// The first of these lines, and how many more there are.
fn at_most(mut lines: Vec<String>, noun: &str) -> Vec<String> {
    let more = lines.len().saturating_sub(MOST_WARNINGS);
    if more > 0 {
        lines.truncate(MOST_WARNINGS);
        lines.push(format!("and {}", counted(more as u64, &format!("more {noun}"), &format!("more {noun}s"))));
    }
    lines
}

/// Refuses a sweep whose documents would take too much memory together.
fn check_bytes(sweep: &SweepSpec, combinations: usize) -> Result<(), ApiError> {
    let jobs = combinations * sweep.seeds as usize;
    let values = |axis: &crate::sweep::Axis| axis.values.iter().map(|value| value.to_string().len()).max().unwrap_or(0);
    let bytes = sweep.base.to_string().len() + sweep.axes.iter().map(values).sum::<usize>();
    if bytes * jobs <= MOST_BYTES {
        return Ok(());
    }
    let detail = format!(
        "{jobs} jobs of up to {bytes} bytes would take more than {MOST_BYTES} bytes together: shorten the base, or make \
         fewer jobs"
    );
    Err(ApiError::faults(vec![fault("/base", detail)]))
}

/// Checks the job of a combination.
async fn plan(
    state: &AppState,
    sweep: &SweepSpec,
    combination: &Combination,
) -> Result<Result<Resolved, Vec<Fault>>, ApiError> {
    // The last seed, because it is the largest.
    let document = match sweep.document(combination, sweep.seeds - 1) {
        Ok(document) => document,
        Err(fault) => return Ok(Err(vec![fault])),
    };
    let resolved = match resolve::resolve(state, &document).await {
        Ok(resolved) => resolved,
        Err(ApiError::Invalid { faults, .. }) if !faults.is_empty() => {
            return Ok(Err(faults.into_iter().map(|fault| sweep.fault(combination, fault)).collect()));
        }
        Err(other) => return Err(other),
    };
    let faults = rung_faults(&sweep.strategy, &resolved.spec);
    Ok(if faults.is_empty() { Ok(resolved) } else { Err(faults) })
}

/// Rungs at which the job would have no accuracy of its own to be compared by.
fn rung_faults(strategy: &Strategy, spec: &JobSpec) -> Vec<Fault> {
    let Strategy::Halving { rungs, .. } = strategy else { return Vec::new() };
    let (epochs, every) = (spec.training.epochs, spec.training.eval_every_epochs.max(1));
    if rungs.last() != Some(&epochs) {
        let detail = format!(
            "the last rung is the end of training, and the job has {}: leave out training.epochs, or make the last \
             rung {epochs}",
            counted(epochs, "epoch", "epochs")
        );
        return vec![fault("/strategy/rungs", detail)];
    }
    let compared = rungs.iter().enumerate().filter(|(_, rung)| **rung != epochs && !rung.is_multiple_of(every));
    let detail =
        format!("the job is evaluated after every {every} epochs (training.eval_every_epochs), but not after this one");
    compared.map(|(place, _)| fault(&format!("/strategy/rungs/{place}"), detail.clone())).collect()
}

/// The faults of all combinations: those that share a wrong value share its fault.
#[derive(Default)]
struct FoundFaults {
    /// Each with the first combination that has it, and the number of those that have it.
    found: Vec<(Fault, String, usize)>,
    /// Number of combinations that were checked.
    checked: usize,
}

impl FoundFaults {
    fn add(&mut self, faults: Vec<Fault>, summary: &str) {
        self.checked += 1;
        for fault in faults {
            match self.found.iter().position(|(known, ..)| *known == fault) {
                Some(place) => self.found[place].2 += 1,
                None => self.found.push((fault, summary.to_owned(), 1)),
            }
        }
    }

    /// A fault that is not one of the base alone says with which settings it occurs.
    fn finish(self) -> Vec<Fault> {
        let faults = self.found.into_iter().map(|(fault, summary, count)| {
            let is_of_some = count < self.checked && fault.pointer.starts_with("/base");
            let detail = if is_of_some { format!("{} (with {summary})", fault.detail) } else { fault.detail };
            Fault { pointer: fault.pointer, detail }
        });
        faults.collect()
    }
}

/// Everything that decides what a job trains, apart from its seed: equal for jobs whose documents only look different.
fn identity(spec: &JobSpec) -> String {
    let mut value = json!(spec);
    value["name"] = Value::Null;
    value.to_string()
}

/// Whether the teacher's logits are cached for crops that depend on the seed.
fn has_views(spec: &JobSpec) -> bool {
    spec.teacher.is_some() && matches!(spec.training.teacher_cache, Some(TeacherCache::Views(_)))
}

/// Whether the teacher's logits are not cached, although they could be.
fn evaluates_teacher(spec: &JobSpec) -> bool {
    let training = &spec.training;
    let is_mixed = training.mixup_alpha.or(training.cutmix_alpha).is_some();
    spec.teacher.is_some() && !is_mixed && matches!(training.teacher_cache, None | Some(TeacherCache::Off))
}
