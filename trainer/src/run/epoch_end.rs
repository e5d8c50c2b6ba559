//! What follows each epoch: evaluation, the state to resume from, and whether training ends early.

use std::time::Instant;

use super::average::WeightAverage;
use super::classes::{ClassCounts, ClassTally, balanced_accuracy, macro_f1};
use super::evaluate::{Seen, evaluate};
use super::predictions::PredictionLog;
use super::{Flow, Run, outputs};
use crate::error::{Error, Result};
use crate::models::{Network, state_dict};
use distillery_core::protocol::{Evaluation, Event, Level, StopRequest, series};

/// An evaluation of the student that would be published now.
struct Evaluated {
    published: EvaluatedNetwork,
    /// The weights as trained, where the average is published.
    raw: Option<Evaluation>,
}

struct EvaluatedNetwork {
    evaluation: Evaluation,
    /// The same by class.
    classes: Vec<ClassCounts>,
    /// By image; `None` if these are too many.
    log: Option<PredictionLog>,
}

impl Run<'_> {
    pub(super) fn end_epoch(&mut self) -> Result<Flow> {
        let training = &self.spec.training;
        let done = self.setup.state.counters.epoch + 1;
        let is_evaluated = done == training.epochs || done.is_multiple_of(training.eval_every_epochs);
        if is_evaluated && self.evaluate_student(done)? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        let counters = &mut self.setup.state.counters;
        counters.epoch = done;
        counters.step_in_epoch = 0;
        let has_lost_patience = training.early_stopping_patience.is_some_and(|patience| counters.stale >= patience);
        counters.ended_early = has_lost_patience && done < training.epochs;
        let is_over = counters.is_over(training.epochs);
        let next_may_be_last = !is_over && counters.next_may_be_last(training);
        if is_over {
            self.tell_how_it_ended();
        }
        let pauses = self.is_at_pause();
        if is_over || next_may_be_last || pauses || done.is_multiple_of(training.checkpoint_every_epochs) {
            self.save()?;
        }
        if next_may_be_last && self.ranks.is_leader() {
            outputs::keep_for_verification(self.output)?;
        }
        Ok(if pauses { Flow::Stop } else { Flow::Continue })
    }

    /// Whether the epochs are done after which the run stops as if paused. Never after its last epoch.
    pub(super) fn is_at_pause(&self) -> bool {
        let counters = &self.setup.state.counters;
        let is_over = counters.is_over(self.spec.training.epochs);
        !is_over && self.pause_after.is_some_and(|epochs| counters.epoch >= epochs)
    }

    fn evaluate_student(&mut self, epochs_done: u32) -> Result<Flow> {
        let begun = Instant::now();
        let Some(Evaluated { published, raw }) = self.evaluate_networks()? else {
            if self.control.stop_request() == Some(StopRequest::Pause) {
                self.save()?;
            }
            return Ok(Flow::Stop);
        };
        let EvaluatedNetwork { evaluation: published, classes, log } = published;
        self.seconds_per_evaluation = begun.elapsed().as_secs_f64();
        let setup = &mut self.setup;
        if [Some(published), raw].iter().flatten().any(|evaluation| !evaluation.loss.is_finite()) {
            let step = setup.state.counters.step;
            return Err(Error::numeric(format!(
                "the loss on the evaluation split is not finite after step {step}: lower \
                 training.optimizer.learning_rate, or set training.clip_grad_norm"
            )));
        }
        let counters = &mut setup.state.counters;
        (counters.last, counters.last_raw) = (Some(published), raw);
        counters.stale += 1;
        if counters.best.is_none_or(|(best, _)| published.top1 > best.top1) {
            counters.best = Some((published, epochs_done));
            counters.stale = 0;
            counters.best_classes.clone_from(&classes);
            setup.state.predictions.best = log.map(|log| log.read(&self.ranks)).transpose()?;
            let copy =
                || setup.optimizer.average().map_or_else(|| state_dict::copy_of(&setup.student), WeightAverage::copy);
            setup.state.best = if self.ranks.is_leader() { Some(copy()?) } else { None };
        }
        let place = self.place();
        // The average lags behind the weights, which are therefore judged.
        if let Some(message) = self.chance_watch.evaluated(&raw.unwrap_or(published), place) {
            self.warn(message);
        }
        let names = [series::EVAL_TOP1, series::EVAL_TOP5, series::EVAL_LOSS];
        let of_raw = [series::EVAL_RAW_TOP1, series::EVAL_RAW_TOP5, series::EVAL_RAW_LOSS];
        let of_classes =
            [(series::EVAL_BALANCED_ACCURACY, balanced_accuracy(&classes)), (series::EVAL_F1, macro_f1(&classes))];
        let points = points(names, published)
            .chain(of_classes.map(|(name, value)| (name.to_owned(), value)))
            .chain(raw.into_iter().flat_map(|raw| points(of_raw, raw)));
        self.record(points.collect())?;
        Ok(Flow::Continue)
    }

    /// Evaluates the student and, if there is one, its average. `None` if the run is to stop.
    fn evaluate_networks(&self) -> Result<Option<Evaluated>> {
        let setup = &self.setup;
        let Some(raw) = self.evaluate_network(&setup.student)? else { return Ok(None) };
        let Some(average) = setup.optimizer.average() else {
            return Ok(Some(Evaluated { published: raw, raw: None }));
        };
        let averaged = self.evaluate_network(&average.network(&setup.student))?;
        Ok(averaged.map(|published| Evaluated { published, raw: Some(raw.evaluation) }))
    }

    fn evaluate_network(&self, network: &Network) -> Result<Option<EvaluatedNetwork>> {
        let goes_on = || self.control.stop_request().is_none();
        self.ranks.broadcast_statistics(network)?;
        let (loader, normalisation) = (&self.setup.data.eval, &self.setup.objective.normalisation);
        let size = &self.setup.hardware.evaluation_size;
        let tally = ClassTally::new(network.classes(), self.setup.hardware.device);
        let log = PredictionLog::new(loader.len(), self.setup.hardware.device);
        let see = |seen: Seen<'_>| {
            tally.add(&seen);
            log.iter().for_each(|log| log.add(&seen));
        };
        let Some(evaluation) = evaluate(network, loader, normalisation, &self.ranks, size, goes_on, see)? else {
            return Ok(None);
        };
        Ok(Some(EvaluatedNetwork { evaluation, classes: tally.read(&self.ranks)?, log }))
    }

    /// Says which student is published and why training ended where it did.
    fn tell_how_it_ended(&mut self) {
        if !self.ranks.is_leader() {
            return;
        }
        let (counters, training) = (&self.setup.state.counters, &self.spec.training);
        let mut messages = Vec::new();
        if let (true, Some((best, best_epoch))) = (counters.ended_early, counters.best) {
            messages.push(format!(
                "training ends early, after epoch {} of {}: top-1 has not exceeded the {:.2} % of epoch {best_epoch} in {} \
                 evaluations (early_stopping_patience)",
                counters.epoch, training.epochs, best.top1, counters.stale
            ));
        }
        if let (Some(decay), Some(last), Some(raw)) = (training.ema_decay, counters.last, counters.last_raw) {
            messages.push(format!(
                "the students that are published are averages of the weights (ema_decay {decay}): after the last epoch \
                 the average has a top-1 of {:.2} % and the weights as trained {:.2} %",
                last.top1, raw.top1
            ));
        }
        for message in messages {
            self.report.event(&Event::Log { level: Level::Info, message });
        }
    }
}

fn points(names: [&str; 3], Evaluation { top1, top5, loss, .. }: Evaluation) -> impl Iterator<Item = (String, f64)> {
    let named = names.map(str::to_owned);
    named.into_iter().zip([top1, top5, loss])
}
