//! Why a teacher may not fit the data: its classes have another order, its images another normalisation, or its input
//! the channels of images in another order.

use std::time::{Duration, Instant};

use tch::{Kind, Tensor};

use super::predictions::PredictionRows;
use super::setup::Setup;
use crate::data::Batch;
use crate::data::normalisation::Normalisation;
use crate::device::cuda::Tf32;
use crate::error::Result;
use crate::models::Network;
use crate::worker_link::report::warning;
use distillery_core::class_order::{self, ClassOrder, OrderGuess};
use distillery_core::dataset::MeanStd;
use distillery_core::protocol::{Evaluation, Event, Level};

/// Evaluation images that normalisations are tried on, for each class; no fewer and no more than those that follow.
const SAMPLE_OF_CLASS: u64 = 10;
const LEAST_SAMPLE: u64 = 256;
const MOST_SAMPLE: u64 = 512;
/// Images that are evaluated at a time.
const BATCH: u32 = 64;
/// No further normalisation is tried after this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Percentage points of top-1 on the sample that another normalisation must gain to be named.
const LEAST_GAIN: f64 = 10.0;
/// Percentage points that the other order of the channels must gain over the usual one.
const LEAST_GAIN_REVERSED: f64 = 5.0;
/// The part of the way from chance to 100 % that a teacher must come to be explained.
const LEAST_PART: f64 = 0.25;
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

/// A way to prepare images, with the teacher's top-1 accuracy in percent on the sample, its classes in their order.
#[derive(Debug, Clone)]
struct Trial {
    name: &'static str,
    normalisation: MeanStd,
    /// Whether the channels come as blue, green, red.
    is_reversed: bool,
    top1: f64,
    /// The order of the classes that makes it far better.
    guess: Option<OrderGuess>,
}

impl Trial {
    /// Top-1 in percent with the best order of the classes: that they are permuted says nothing about the images.
    fn score(&self) -> f64 {
        self.guess.as_ref().map_or(self.top1, |guess| guess.top1)
    }
}

/// What explains that a teacher is no better, for the job's history. Its predictions are read in any case;
/// normalisations are tried where it `is_far_below` what it should be. Returns early if `goes_on` returns false.
///
/// # Errors
/// Images cannot be read.
pub fn explain(
    setup: &Setup,
    evaluation: &Evaluation,
    is_far_below: bool,
    goes_on: impl Fn() -> bool,
) -> Result<Vec<Event>> {
    let classes = setup.data.classes.count;
    let pairs = setup.state.predictions.teacher.as_ref().map(PredictionRows::pairs).transpose()?;
    let guess = pairs.and_then(|pairs| ClassOrder::guess(&pairs, classes));
    let teacher = setup.objective.teacher.as_ref().filter(|_| is_far_below && evaluation.loss.is_finite());
    let tried = teacher.map(|teacher| try_all(setup, teacher, goes_on)).transpose()?.flatten();
    let of_order = guess.as_ref().map(|guess| permuted(&Order::new(setup, guess), guess.top1, evaluation.top1));
    let Some((trials, images)) = tried else { return Ok(of_order.map(warning).into_iter().collect()) };
    let as_it_is = trials[0].score().max(guess.map_or(0.0, |guess| guess.top1));
    let Some(best) = clearly_better(&trials, as_it_is, classes) else {
        return Ok(vec![of_order.map_or_else(|| tried_in_vain(&trials, images), warning)]);
    };
    let order = best.guess.as_ref().map(|guess| Order::new(setup, guess));
    Ok(vec![warning(described(best, &trials[0], images, order.as_ref()))])
}

/// Another order of the classes, in words.
struct Order {
    cycles: String,
    remedy: String,
}

impl Order {
    fn new(setup: &Setup, guess: &OrderGuess) -> Self {
        let classes = &setup.data.classes;
        let names = class_order::names_or_numbers(classes.names.as_deref(), classes.count);
        let applied = setup.objective.teacher.as_ref().and_then(Network::output_order);
        let outputs = guess.order.after(applied.as_deref());
        let remedy = if names.len() <= MOST_LISTED {
            let listed = serde_json::to_string(&outputs.names(&names)).expect("names are JSON");
            format!("set teacher.classes to {listed}")
        } else {
            "list the classes in the order of its outputs in teacher.classes".to_owned()
        };
        Self { cycles: guess.order.cycles(&names), remedy }
    }
}

/// That another order of the classes alone explains the predictions.
fn permuted(Order { cycles, remedy }: &Order, with_it: f64, top1: f64) -> String {
    format!(
        "the teacher's classes look permuted: {cycles}. With them in this order, its top-1 accuracy is {with_it:.1} % \
         instead of {top1:.1} %. If its classes have another order than the data set's, {remedy}"
    )
}

/// Evaluates the teacher on a sample with its own normalisation, which comes first, and with all others, in both orders
/// of the channels. Returns the number of images, too; `None` if `goes_on` returned false.
fn try_all(setup: &Setup, teacher: &Network, goes_on: impl Fn() -> bool) -> Result<Option<(Vec<Trial>, u64)>> {
    let _guard = tch::no_grad_guard();
    let _full_precision = Tf32::set(false);
    let loader = &setup.data.eval;
    let classes = setup.data.classes.count;
    let wanted = (SAMPLE_OF_CLASS * u64::from(classes)).clamp(LEAST_SAMPLE, MOST_SAMPLE).min(loader.len());
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
        let normalisation = Normalisation::new(mean, std, setup.hardware.device);
        let mut pairs: Vec<[u32; 2]> = Vec::new();
        for batch in &batches {
            let normalised = normalisation.apply(&batch.images);
            let seen = if trial.is_reversed { normalised.flip([1]) } else { normalised };
            let predicted = network.logits(&seen, false).argmax(-1, false);
            let [labels, predicted] = [&batch.labels, &predicted].map(numbers);
            pairs.extend(labels?.into_iter().zip(predicted?).map(|(label, predicted)| [label, predicted]));
        }
        let right = pairs.iter().filter(|[label, predicted]| label == predicted).count();
        trial.top1 = 100.0 * right as f64 / pairs.len().max(1) as f64;
        trial.guess = ClassOrder::guess(&pairs, classes);
        trials.push(trial);
    }
    Ok(Some((trials, images.unsigned_abs())))
}

/// The elements of a tensor of classes `[B]`.
fn numbers(classes: &Tensor) -> Result<Vec<u32>> {
    let numbers = Vec::<i64>::try_from(&classes.to_kind(Kind::Int64))?;
    Ok(numbers.into_iter().map(|class| u32::try_from(class).unwrap_or(u32::MAX)).collect())
}

/// What there is to try: first what is done now.
fn candidates(setup: &Setup) -> Vec<Trial> {
    let trial = |name, normalisation, is_reversed| Trial { name, normalisation, is_reversed, top1: 0.0, guess: None };
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

/// The best of the trials, of which the first is what is done now, if it explains the predictions: it must be far above
/// `as_it_is`, the top-1 with the best order of the classes now, and above chance.
fn clearly_better(trials: &[Trial], as_it_is: f64, classes: u32) -> Option<&Trial> {
    let best = |is_reversed: bool| {
        let others = trials.iter().skip(1).filter(|trial| trial.is_reversed == is_reversed);
        // The first of equally good ones.
        others.rev().max_by(|one, other| one.score().total_cmp(&other.score()))
    };
    let (straight, reversed) = (best(false), best(true));
    // Reversed channels are rare, and a wrong guess costs a new file.
    let least = straight.map_or(as_it_is, Trial::score).max(as_it_is) + LEAST_GAIN_REVERSED;
    let best = reversed.filter(|reversed| reversed.score() >= least).or(straight)?;
    let chance = 100.0 / f64::from(classes.max(1));
    let is_clear = best.score() >= as_it_is + LEAST_GAIN && best.score() >= chance + LEAST_PART * (100.0 - chance);
    is_clear.then_some(best)
}

fn tried_in_vain(trials: &[Trial], images: u64) -> Event {
    let message = format!(
        "{} other ways to normalise the teacher's images and to order their channels were tried on {images} evaluation \
         images, each with the classes in their best order, and none makes it clearly better",
        trials.len() - 1
    );
    Event::Log { level: Level::Info, message }
}

/// What the best of the trials says about the teacher, and the order of its classes if that is another, too.
fn described(best: &Trial, present: &Trial, images: u64, order: Option<&Order>) -> String {
    let MeanStd { mean, std } = best.normalisation;
    let with_order = if order.is_some() { " and its classes in another order" } else { "" };
    let gain = format!(
        "on {images} evaluation images its top-1 accuracy is {:.1} % with it{with_order}, and {:.1} % as it is",
        best.score(),
        present.top1
    );
    let normalisation = format!("teacher.mean to {mean:?} and teacher.std to {std:?}");
    let swap = "swap the input channels of its first convolution (weight[:, [2, 1, 0]] in PyTorch) and upload it again";
    let of_images = match (best.is_reversed, best.name == present.name) {
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
    };
    match order {
        None => of_images,
        Some(Order { cycles, remedy }) => {
            format!(
                "{of_images}. Its classes look permuted, too: {cycles}. If they have another order than the data set's, \
                 {remedy}"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trials(numbers: &[(&'static str, bool, f64)]) -> Vec<Trial> {
        let normalisation = MeanStd { mean: [0.5; 3], std: [0.25; 3] };
        let trial = |&(name, is_reversed, top1)| Trial { name, normalisation, is_reversed, top1, guess: None };
        numbers.iter().map(trial).collect()
    }

    fn said(numbers: &[(&'static str, bool, f64)]) -> (Level, String) {
        let trials = trials(numbers);
        if let Some(best) = clearly_better(&trials, trials[0].score(), 10) {
            return (Level::Warning, described(best, &trials[0], 256, None));
        }
        let Event::Log { level, message } = tried_in_vain(&trials, 256) else { panic!("a log line") };
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
    fn normalisations_are_judged_with_the_classes_in_their_best_order() {
        let mut trials =
            trials(&[("now", false, 12.0), ("that of ImageNet", false, 11.0), ("values from 0 to 255", true, 40.0)]);
        let names = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        let order = ClassOrder::by_name(&names("b a"), &names("a b")).unwrap();
        trials[1].guess = Some(OrderGuess { order, top1: 88.0 });
        let best = clearly_better(&trials, 12.0, 10).unwrap();
        let order = Order { cycles: "a↔b".to_owned(), remedy: "set teacher.classes".to_owned() };
        let message = described(best, &trials[0], 256, Some(&order));
        assert!(message.contains("that of ImageNet fits it best"), "{message}");
        assert!(message.contains("88.0 % with it and its classes in another order, and 12.0 % as it is"), "{message}");
        assert!(message.contains("Its classes look permuted, too: a↔b"), "{message}");
        // What the order alone explains is no matter of the images.
        assert!(clearly_better(&trials, 80.0, 10).is_none());
    }

    #[test]
    fn weak_evidence_names_nothing() {
        // A few more by luck than with the present one, and both near chance.
        let (level, message) = said(&[("now", false, 10.0), ("that of ImageNet", false, 14.0), ("x", true, 30.0)]);
        assert_eq!((level, message.contains("none makes it clearly better")), (Level::Info, true), "{message}");
        let (_, message) = said(&[("now", false, 30.0), ("that of ImageNet", false, 70.0), ("x", true, 74.0)]);
        assert!(message.contains("that of ImageNet fits it best") && !message.contains("blue"), "{message}");
    }

    #[test]
    fn what_was_tried_in_vain_is_said() {
        let (level, message) = said(&[("now", false, 40.0), ("that of ImageNet", false, 49.0)]);
        assert_eq!(level, Level::Info);
        assert!(message.contains("1 other ways") && message.contains("none makes it clearly better"), "{message}");
    }
}
