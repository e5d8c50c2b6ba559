//! How good the teacher is, and what its regions say, on the evaluation split: found before training, once for all runs
//! with the same teacher and data.

use serde_json::json;

use crate::cache::teacher_logits::asked;
use crate::cache::{Cache, record};
use crate::error::Result;
use crate::loss::region_report::{self, Tally};
use crate::loss::sdd::Distillation;
use crate::ranks::Ranks;
use crate::run::Settings;
use crate::run::evaluate::{Seen, evaluate};
use crate::run::setup::Setup;
use distillery::protocol::Evaluation;
use distillery::spec::JobSpec;

/// Regions are absent for methods without.
type Found = (Evaluation, Option<region_report::Report>);

/// What is known of the teacher of a run that has one; it goes into the run's counters, too. None where `go_on` said no.
///
/// # Errors
/// Images cannot be read.
pub fn evaluation(
    spec: &JobSpec,
    settings: &Settings,
    setup: &mut Setup,
    go_on: impl Fn() -> bool,
) -> Result<Option<Evaluation>> {
    if let Some(known) = setup.counters.teacher {
        return Ok(Some(known));
    }
    let kept = Kept::of_run(spec, settings, setup)?;
    let found = match kept.as_ref().and_then(Kept::find) {
        Some(found) => found,
        None => {
            let Some(found) = ask(setup, go_on)? else { return Ok(None) };
            if let Some(kept) = kept {
                kept.keep(&found);
            }
            found
        }
    };
    let (evaluation, regions) = found;
    setup.counters.regions = regions;
    Ok(Some(evaluation))
}

fn ask(setup: &Setup, go_on: impl Fn() -> bool) -> Result<Option<Found>> {
    let Some(teacher) = &setup.objective.teacher else { return Ok(None) };
    let normalisation = setup.objective.teacher_normalisation();
    // Scale 1 alone has nothing to tell: the whole image always agrees with itself.
    let decoupled = setup.objective.distillation.as_ref().filter(|loss| loss.scales != [1]);
    let mut tally = Tally::default();
    let count = |seen: Seen<'_>| {
        if let Some(distillation) = decoupled {
            tally.add(distillation, &teacher.regions(seen.features, &distillation.scales), seen.labels);
        }
    };
    let Some(evaluation) = evaluate(teacher, &setup.eval, normalisation, &Ranks::alone(), go_on, count)? else {
        return Ok(None);
    };
    let report = |loss: &Distillation| tally.report(&loss.scales, setup.class_names.as_deref());
    Ok(Some((evaluation, decoupled.map(report).transpose()?)))
}

/// A place for the teacher's evaluation, which later runs with the same teacher and data need not make again.
#[derive(Debug)]
struct Kept {
    cache: Cache,
    key: String,
}

impl Kept {
    /// Of a run's teacher; none where nothing is kept from run to run, or finding out whether it is would take long: the
    /// files of a split that is streamed are hashed while it trains.
    ///
    /// # Errors
    /// The data's files cannot be read.
    fn of_run(spec: &JobSpec, settings: &Settings, setup: &mut Setup) -> Result<Option<Self>> {
        let cache = settings.cache_dir.as_ref().map(|directory| Cache::open(directory, settings.cache_limit));
        let Some(Ok(cache)) = cache.filter(|_| setup.eval.is_in_memory() && setup.train.is_in_memory()) else {
            return Ok(None);
        };
        let split = setup.splits[1].clone();
        let asked = asked(spec, settings, setup, &split)?;
        let key = json!({"asked": asked, "images": setup.eval.len(), "names": setup.class_names,
                         "augmentation": spec.training.augmentation, "grouping": spec.distillation.grouping});
        Ok(Some(Self { cache, key: key.to_string() }))
    }

    /// What an earlier run found; none where it is not there or damaged.
    fn find(&self) -> Option<Found> {
        record::load(&self.cache, "evaluation", &self.key).ok().flatten()
    }

    /// Keeps it. What cannot be kept is found again.
    fn keep(&self, found: &Found) {
        if let Err(error) = record::store(&self.cache, "evaluation", &self.key, found) {
            tracing::warn!(%error, "the teacher's evaluation is not kept");
        }
    }
}
