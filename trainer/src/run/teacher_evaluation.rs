//! The teacher's accuracy on the evaluation split and what it sees in the regions there: measured before training, once
//! for all runs with the same teacher and data.

use std::path::Path;

use serde_json::json;

use super::cache_key::teacher_key;
use super::evaluate::{Seen, evaluate};
use super::predictions::{MOST_IMAGES, PredictionLog, PredictionRows};
use super::setup::Setup;
use crate::cache::{Cache, record};
use crate::error::{Error, Result};
use crate::loss::region_report::{RegionReport, Tally};
use crate::loss::sdd::Distillation;
use crate::ranks::Ranks;
use crate::settings::Settings;
use distillery_core::protocol::Evaluation;
use distillery_core::spec::TrainingPlan;

/// The evaluation, the report on regions for methods that have them, and the predictions unless these are too many.
type Findings = (Evaluation, Option<RegionReport>, Option<PredictionRows>);

/// The evaluation of a run's teacher, from an earlier attempt, the cache, or now. Puts the report on regions into the
/// run's counters, and the predictions beside the student's. `None` if `goes_on` returned false meanwhile.
///
/// # Errors
/// Images cannot be read.
pub fn evaluation(
    spec: &TrainingPlan,
    settings: &Settings,
    setup: &mut Setup,
    goes_on: impl Fn() -> bool,
) -> Result<Option<Evaluation>> {
    // Checkpoints of earlier versions have no predictions.
    let are_known = setup.state.predictions.teacher.is_some() || setup.data.eval.len() > MOST_IMAGES;
    if let Some(known) = setup.state.counters.teacher.filter(|_| are_known) {
        return Ok(Some(known));
    }
    let stored = CachedEvaluation::of_run(spec, settings, setup)?;
    let findings = match stored.as_ref().and_then(CachedEvaluation::load) {
        Some(findings) => findings,
        None => {
            let Some(findings) = evaluate_teacher(setup, goes_on)? else { return Ok(None) };
            if let Some(stored) = stored {
                stored.store(&findings);
            }
            findings
        }
    };
    let (evaluation, regions, predictions) = findings;
    setup.state.counters.regions = regions;
    setup.state.predictions.teacher = predictions;
    Ok(Some(evaluation))
}

/// Percentage points that a teacher may fall behind the accuracy that its file names. Another crop, resampling or split
/// costs a few.
const USUAL_LOSS: f64 = 5.0;

/// What the teacher is compared with.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedAccuracy<'a> {
    /// Its file.
    pub checkpoint: &'a Path,
    pub classes: u32,
    /// The accuracy in percent that its file names.
    pub recorded: Option<f64>,
    /// The accuracy in percent that the specification demands.
    pub least: Option<f64>,
}

/// Checks that the teacher can teach. Returns warnings if it is hardly better than chance, or far below its own record.
///
/// # Errors
/// Its outputs are not finite, or it is worse than the specification demands.
pub fn check(evaluation: &Evaluation, expected: ExpectedAccuracy<'_>) -> Result<Vec<String>> {
    let ExpectedAccuracy { checkpoint, classes, recorded, least } = expected;
    if !evaluation.loss.is_finite() {
        return Err(Error::user(format!(
            "the teacher's outputs are not finite: its checkpoint {} holds broken weights, use another one",
            checkpoint.display()
        )));
    }
    let top1 = evaluation.top1;
    if let Some(least) = least.filter(|&least| top1 < least) {
        return Err(Error::user(format!(
            "the teacher's top-1 accuracy is {top1:.2} %, below the {least} % of teacher.min_top1, so nothing was \
             trained. {ADVICE}"
        )));
    }
    let chance = 100.0 / f64::from(classes);
    let near_chance = is_near_chance(top1, classes)
        .then(|| format!("the teacher's top-1 accuracy is {top1:.1} %; chance is {chance:.1} %. {ADVICE}"));
    let below_record = recorded.filter(|&recorded| is_below(top1, recorded)).map(|recorded| {
        format!("the teacher's top-1 accuracy is {top1:.1} %, but its file says {recorded:.1} %. {ADVICE}")
    });
    Ok(near_chance.into_iter().chain(below_record).collect())
}

/// Whether the teacher is far below what it should be: near chance, below its own record, or below what the
/// specification demands.
#[must_use]
pub fn is_far_below(
    evaluation: &Evaluation,
    ExpectedAccuracy { classes, recorded, least, .. }: ExpectedAccuracy<'_>,
) -> bool {
    let top1 = evaluation.top1;
    is_near_chance(top1, classes)
        || recorded.is_some_and(|recorded| is_below(top1, recorded))
        || least.is_some_and(|least| top1 < least)
}

fn is_near_chance(top1: f64, classes: u32) -> bool {
    let chance = 100.0 / f64::from(classes);
    // With few classes, twice chance is too much to ask.
    top1 < (2.0 * chance).min(chance + 0.25 * (100.0 - chance))
}

fn is_below(top1: f64, recorded: f64) -> bool {
    top1 + USUAL_LOSS < recorded
}

const ADVICE: &str = "Check its normalisation (teacher.mean, teacher.std), the order of its classes (teacher.classes), and \
                      its architecture";

fn evaluate_teacher(setup: &Setup, goes_on: impl Fn() -> bool) -> Result<Option<Findings>> {
    let Some(teacher) = &setup.objective.teacher else { return Ok(None) };
    let normalisation = setup.objective.teacher_normalisation();
    // Scale 1 alone has nothing to report: the whole image always agrees with itself.
    let decoupled = setup.objective.distillation.as_ref().filter(|loss| loss.scales != [1]);
    let mut tally = Tally::default();
    let log = PredictionLog::new(setup.data.eval.len(), setup.hardware.device);
    let count = |seen: Seen<'_>| {
        log.iter().for_each(|log| log.add(&seen));
        if let Some(distillation) = decoupled {
            tally.add(distillation, &teacher.regions(seen.features, &distillation.scales, false), seen.labels);
        }
    };
    let evaluation = evaluate(
        teacher,
        &setup.data.eval,
        normalisation,
        &Ranks::single(),
        &setup.hardware.evaluation_size,
        goes_on,
        count,
    )?;
    let Some(evaluation) = evaluation else { return Ok(None) };
    let names = setup.data.classes.names.as_deref();
    let report = |distillation: &Distillation| tally.report(&distillation.scales, names);
    let predictions = log.map(|log| log.read(&Ranks::single())).transpose()?;
    Ok(Some((evaluation, decoupled.map(report).transpose()?, predictions)))
}

/// The cache entry of a teacher's evaluation.
#[derive(Debug)]
struct CachedEvaluation {
    cache: Cache,
    key: String,
}

impl CachedEvaluation {
    /// `None` where nothing is kept from run to run, and where a split is streamed: its files are hashed while training
    /// goes on, and the key would wait for the hash.
    ///
    /// # Errors
    /// The data set's files cannot be read.
    fn of_run(spec: &TrainingPlan, settings: &Settings, setup: &mut Setup) -> Result<Option<Self>> {
        let cache = settings.cache_dir.as_ref().map(|directory| Cache::open(directory, settings.cache_limit));
        let is_in_memory = setup.data.eval.is_in_memory() && setup.data.train.is_in_memory();
        let Some(Ok(cache)) = cache.filter(|_| is_in_memory) else { return Ok(None) };
        let split = setup.data.splits.eval.clone();
        let teacher = teacher_key(spec, settings, setup, &split)?;
        let data = &setup.data;
        let part = format!("{:?}", spec.dataset.eval_part(spec.training.augmentation));
        let key = json!({
            "asked": teacher, "images": data.eval.len(), "selected": data.selected.eval, "names": data.classes.names,
            "part": part, "grouping": spec.distillation.grouping,
        });
        Ok(Some(Self { cache, key: key.to_string() }))
    }

    /// `None` if there is none or it is damaged.
    fn load(&self) -> Option<Findings> {
        record::load(&self.cache, "evaluation", &self.key).ok().flatten()
    }

    fn store(&self, findings: &Findings) {
        if let Err(error) = record::store(&self.cache, "evaluation", &self.key, findings) {
            tracing::warn!(%error, "the teacher's evaluation could not be cached: the next run will repeat it");
        }
    }
}
