//! Why a teacher may not fit the data: its classes have another order, its images another normalisation, or its input
//! the channels of images in another order.

use std::time::{Duration, Instant};

use tch::Kind;

use super::setup::Setup;
use crate::data::Batch;
use crate::data::normalisation::Normalisation;
use crate::device::cuda::Tf32;
use crate::error::Result;
use crate::models::Network;
use crate::worker_link::report::warning;
use distillery_core::class_order::{self, ClassOrder};
use distillery_core::dataset::MeanStd;
use distillery_core::protocol::{Evaluation, Event, Level};

/// Evaluation images that normalisations are tried on.
const SAMPLE: u64 = 256;
/// Images that are evaluated at a time.
const BATCH: u32 = 64;
/// No further normalisation is tried after this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Percentage points of top-1 on the sample that another normalisation must gain to be named.
const LEAST_GAIN: f64 = 10.0;
/// Most classes that a suggestion lists.
const MOST_LISTED: usize = 20;

/// The normalisations that networks are usually trained with.
const USUAL: [(&str, [f64; 3], [f64; 3]); 6] = [
    ("that of ImageNet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ("that of CIFAR-10", [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]),
    ("that of CIFAR-100", [0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),
    ("that to values from -1 to 1", [0.5; 3], [0.5; 3]),
    ("none, with values from 0 to 1", [0.0; 3], [1.0; 3]),
    ("none, with values from 0 to 255", [0.0; 3], [1.0 / 255.0; 3]),
];

/// A way to prepare images, with the teacher's top-1 accuracy in percent on the sample.
#[derive(Debug, Clone)]
struct Trial {
    name: &'static str,
    normalisation: MeanStd,
    /// Whether the channels come as blue, green, red.
    is_reversed: bool,
    top1: f64,
}

/// What explains that a teacher is no better, for the job's history. Its predictions are read in any case; normalisations
/// are tried where it `is_far_below` what it should be. Returns early if `goes_on` returns false.
///
/// # Errors
/// Images cannot be read.
pub fn explain(
    setup: &Setup,
    evaluation: &Evaluation,
    is_far_below: bool,
    goes_on: impl Fn() -> bool,
) -> Result<Vec<Event>> {
    if let Some(message) = permuted(setup, evaluation)? {
        return Ok(vec![warning(message)]);
    }
    let Some(teacher) = setup.objective.teacher.as_ref().filter(|_| is_far_below && evaluation.loss.is_finite()) else {
        return Ok(Vec::new());
    };
    let Some((trials, images)) = try_all(setup, teacher, goes_on)? else { return Ok(Vec::new()) };
    Ok(vec![judged(&trials, images)])
}

/// A message if another order of the classes explains the predictions.
fn permuted(setup: &Setup, evaluation: &Evaluation) -> Result<Option<String>> {
    let Some(rows) = &setup.predictions.teacher else { return Ok(None) };
    let classes = &setup.data.classes;
    let Some(guess) = ClassOrder::guess(&rows.pairs()?, classes.count) else { return Ok(None) };
    let names = class_order::names_or_numbers(classes.names.as_deref(), classes.count);
    let applied = setup.objective.teacher.as_ref().and_then(Network::output_order);
    let outputs = guess.order.after(applied.as_deref());
    let remedy = if names.len() <= MOST_LISTED {
        let listed = serde_json::to_string(&outputs.names(&names)).expect("names are JSON");
        format!("set teacher.classes to {listed}")
    } else {
        "list the classes in the order of its outputs in teacher.classes".to_owned()
    };
    Ok(Some(format!(
        "the teacher's classes look permuted: {}. With them in this order, its top-1 accuracy is {:.1} % instead of {:.1} %. \
         If its classes have another order than the data set's, {remedy}",
        guess.order.cycles(&names),
        guess.top1,
        evaluation.top1
    )))
}

/// Evaluates the teacher on a sample with its own normalisation, which comes first, and with all others, in both orders
/// of the channels. Returns the number of images, too; `None` if `goes_on` returned false.
fn try_all(setup: &Setup, teacher: &Network, goes_on: impl Fn() -> bool) -> Result<Option<(Vec<Trial>, u64)>> {
    let _guard = tch::no_grad_guard();
    let _full_precision = Tf32::set(false);
    let loader = &setup.data.eval;
    let wanted = SAMPLE.min(loader.len());
    let positions: Vec<usize> = (0..wanted).map(|place| (place * loader.len() / wanted) as usize).collect();
    let batches = loader.at(&positions, BATCH).collect::<std::result::Result<Vec<Batch>, _>>()?;
    let images: i64 = batches.iter().map(|batch| batch.labels.size()[0]).sum();
    let network = teacher.constant(Kind::Float, BATCH, loader.side());
    let (begun, mut trials) = (Instant::now(), Vec::new());
    for mut trial in candidates(setup) {
        if !goes_on() {
            return Ok(None);
        }
        if !trials.is_empty() && begun.elapsed() > PATIENCE {
            break;
        }
        let MeanStd { mean, std } = trial.normalisation;
        let normalisation = Normalisation::new(mean, std, setup.device);
        let mut right = 0;
        for batch in &batches {
            let normalised = normalisation.apply(&batch.images);
            let seen = if trial.is_reversed { normalised.flip([1]) } else { normalised };
            let predicted = network.logits(&seen, false).argmax(-1, false);
            right += predicted.eq_tensor(&batch.labels).sum(Kind::Int64).int64_value(&[]);
        }
        trial.top1 = 100.0 * right as f64 / images.max(1) as f64;
        trials.push(trial);
    }
    Ok(Some((trials, images.unsigned_abs())))
}

/// What there is to try: first what is done now.
fn candidates(setup: &Setup) -> Vec<Trial> {
    let trial = |name, normalisation, is_reversed| Trial { name, normalisation, is_reversed, top1: 0.0 };
    let present = setup.objective.teacher_normalisation();
    let present = MeanStd { mean: present.mean, std: present.std };
    let others = USUAL.map(|(name, mean, std)| (name, MeanStd { mean, std }));
    let all = [("that of the data set", setup.data.mean_std)].into_iter().chain(others);
    let others: Vec<_> = all.filter(|(_, normalisation)| *normalisation != present).collect();
    let mut trials = vec![trial("the present one", present, false), trial("the present one", present, true)];
    for is_reversed in [false, true] {
        trials.extend(others.iter().map(|&(name, normalisation)| trial(name, normalisation, is_reversed)));
    }
    trials
}

/// What the trials tell. The first is of what is done now.
fn judged(trials: &[Trial], images: u64) -> Event {
    let [present, others @ ..] = trials else { unreachable!("the present normalisation is tried") };
    // Of equally good ones the first, which does not reverse the channels.
    let best = others.iter().rev().max_by(|one, other| one.top1.total_cmp(&other.top1));
    let Some(best) = best.filter(|best| best.top1 >= present.top1 + LEAST_GAIN) else {
        let message = format!(
            "{} other ways to normalise the teacher's images and to order their channels were tried on {images} evaluation \
             images, and none makes it clearly better",
            others.len()
        );
        return Event::Log { level: Level::Info, message };
    };
    let MeanStd { mean, std } = best.normalisation;
    let gain = format!(
        "on {images} evaluation images its top-1 accuracy is {:.1} % with it, and {:.1} % as it is",
        best.top1, present.top1
    );
    let normalisation = format!("teacher.mean to {mean:?} and teacher.std to {std:?}");
    let swap = "swap the input channels of its first convolution (weight[:, [2, 1, 0]] in PyTorch) and upload it again";
    warning(match (best.is_reversed, best.name == present.name) {
        (false, _) => format!(
            "the teacher's images look wrongly normalised: of the usual normalisations, {} fits it best; {gain}. If it was \
             trained with that one, set {normalisation}",
            best.name
        ),
        (true, true) => format!(
            "the teacher seems to expect the channels of images in the order blue, green, red: {gain}. If it does, {swap}"
        ),
        (true, false) => format!(
            "the teacher seems to expect the channels of images in the order blue, green, red, and another normalisation, \
             {}: {gain}. If it does, {swap}, and set {normalisation}",
            best.name
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trials(numbers: &[(&'static str, bool, f64)]) -> Vec<Trial> {
        let normalisation = MeanStd { mean: [0.5; 3], std: [0.25; 3] };
        let trial = |&(name, is_reversed, top1)| Trial { name, normalisation, is_reversed, top1 };
        numbers.iter().map(trial).collect()
    }

    fn said(numbers: &[(&'static str, bool, f64)]) -> (Level, String) {
        let Event::Log { level, message } = judged(&trials(numbers), 256) else { panic!("a log line") };
        (level, message)
    }

    #[test]
    fn a_clearly_better_normalisation_is_named_with_its_values() {
        let (level, message) =
            said(&[("now", false, 30.0), ("that of ImageNet", false, 75.0), ("that of CIFAR-10", false, 60.0)]);
        assert_eq!(level, Level::Warning);
        assert!(message.contains("that of ImageNet fits it best") && message.contains("75.0 % with it, and 30.0 %"));
        assert!(message.contains("teacher.mean to [0.5, 0.5, 0.5] and teacher.std to [0.25, 0.25, 0.25]"), "{message}");
    }

    #[test]
    fn reversed_channels_are_named_with_or_without_another_normalisation() {
        let (_, message) = said(&[("now", false, 30.0), ("now", true, 80.0), ("that of ImageNet", true, 70.0)]);
        assert!(message.contains("blue, green, red: on 256") && !message.contains("teacher.mean"), "{message}");
        let (_, message) = said(&[("now", false, 30.0), ("now", true, 50.0), ("that of ImageNet", true, 70.0)]);
        assert!(message.contains("another normalisation, that of ImageNet: on 256"), "{message}");
        // Of equally good ones, the one that changes less.
        let (_, message) = said(&[("now", false, 30.0), ("x", false, 80.0), ("x", true, 80.0)]);
        assert!(message.contains("x fits it best"), "{message}");
    }

    #[test]
    fn what_was_tried_in_vain_is_said() {
        let (level, message) = said(&[("now", false, 40.0), ("that of ImageNet", false, 49.0)]);
        assert_eq!(level, Level::Info);
        assert!(message.contains("1 other ways") && message.contains("none makes it clearly better"), "{message}");
    }
}
