//! What a run warns of while it goes on: a student that learns nothing, and a disk that will be full.

use std::path::Path;

use distillery_core::protocol::Evaluation;
use distillery_core::text::counted;

/// The part of the steps after which a student should be better than chance.
const PATIENCE: f64 = 0.1;
/// With fewer steps nobody can tell a student that learns nothing from one that has hardly begun: batch normalisation
/// alone takes as many until its running statistics fit.
const FEW_STEPS: u64 = 50;
/// Training images per class at least, for a judgement on these alone.
const LEAST_IMAGES: f64 = 200.0;
/// The part of the loss of guessing, ln K for K classes, below which a loss shows that something was learned.
const FALLEN: f64 = 0.99;

/// Watches whether the student learns anything, and warns once.
#[derive(Debug, Default)]
pub struct ChanceWatch {
    /// Training images of the second half of the first tenth of the steps, after the first epoch and the warm-up.
    first: TrainingImages,
    since_evaluation: TrainingImages,
    /// The step up to which training images were noted.
    noted: u64,
    was_at_chance: bool,
    has_judged_training: bool,
    has_warned: bool,
}

#[derive(Debug, Default)]
struct TrainingImages {
    images: f64,
    right: f64,
}

impl TrainingImages {
    fn add(&mut self, top1: f64, images: f64) {
        self.images += images;
        self.right += top1 / 100.0 * images;
    }

    /// In percent; `None` without images.
    fn top1(&self) -> Option<f64> {
        (self.images > 0.0).then(|| 100.0 * self.right / self.images)
    }
}

/// How far the run is.
#[derive(Debug, Clone, Copy)]
pub struct RunPosition {
    pub step: u64,
    pub steps: u64,
    pub steps_per_epoch: u64,
    /// Epochs in which the learning rate rises.
    pub warmup_epochs: u32,
    pub classes: u32,
}

impl RunPosition {
    fn fraction(self) -> f64 {
        self.step as f64 / self.steps.max(1) as f64
    }

    /// The step after which every image was seen once and the learning rate is what it is set to.
    fn warmed_up(self) -> u64 {
        self.steps_per_epoch * u64::from(self.warmup_epochs.max(1))
    }

    fn is_early(self) -> bool {
        self.fraction() < PATIENCE || self.step < self.warmed_up().max(FEW_STEPS)
    }

    /// The epochs that are done, in words.
    fn epochs(self) -> String {
        let of_epoch = self.steps_per_epoch.max(1);
        match self.step % of_epoch {
            0 => counted(self.step / of_epoch, "epoch", "epochs"),
            _ => format!("{:.1} epochs", self.step as f64 / of_epoch as f64),
        }
    }
}

impl ChanceWatch {
    /// Notes the accuracy, in percent, on the last `images` training images.
    pub fn trained(&mut self, top1: f64, images: u64, place: RunPosition) -> Option<String> {
        let begun = std::mem::replace(&mut self.noted, place.step);
        let images = images as f64;
        self.since_evaluation.add(top1, images);
        if self.has_judged_training || place.fraction() < PATIENCE / 2.0 || begun < place.warmed_up() {
            return None;
        }
        self.first.add(top1, images);
        if place.is_early() || self.first.images < LEAST_IMAGES * f64::from(place.classes) {
            return None;
        }
        self.has_judged_training = true;
        let top1 = self.first.top1().filter(|&top1| is_chance(top1, self.first.images, place.classes))?;
        self.warn(top1, "training", NOTHING, place)
    }

    /// Judges an evaluation. One at chance counts if the training images since the last evaluation are at chance, too,
    /// if the evaluation before was, or if none follows: that of a student that has just begun to learn may be late.
    pub fn evaluated(&mut self, evaluation: &Evaluation, place: RunPosition) -> Option<String> {
        let training = std::mem::take(&mut self.since_evaluation);
        let is_last = place.step >= place.steps;
        if place.is_early() && !is_last {
            return None;
        }
        let is_at_chance = is_chance(evaluation.top1, evaluation.images as f64, place.classes)
            && evaluation.loss >= FALLEN * f64::from(place.classes).ln();
        let was_at_chance = std::mem::replace(&mut self.was_at_chance, is_at_chance);
        if !is_at_chance {
            return None;
        }
        if place.step < FEW_STEPS {
            return self.warn(evaluation.top1, "evaluation", FEW, place);
        }
        let learns = training.top1().is_some_and(|top1| !is_chance(top1, training.images, place.classes));
        if learns && (was_at_chance || is_last) {
            return self.warn(evaluation.top1, "evaluation", NOTHING_ELSE, place);
        }
        let is_certain = !learns && (training.images > 0.0 || was_at_chance || is_last);
        if is_certain { self.warn(evaluation.top1, "evaluation", NOTHING, place) } else { None }
    }

    fn warn(&mut self, top1: f64, of: &str, why: &str, place: RunPosition) -> Option<String> {
        let chance = 100.0 / f64::from(place.classes);
        let (epochs, steps) = (place.epochs(), counted(place.step, "step", "steps"));
        (!std::mem::replace(&mut self.has_warned, true)).then(|| {
            format!(
                "after {epochs} ({steps}) the student's top-1 accuracy on the {of} images is {top1:.1} %; chance is \
                 {chance:.1} %. {why}"
            )
        })
    }
}

const NOTHING: &str = "It seems to learn nothing: lower training.optimizer.learning_rate, and check that the training \
                       images have all classes";
const NOTHING_ELSE: &str = "It seems to learn nothing that carries over to other images: check that the training \
                            images have all classes, and that both splits have the same";
const FEW: &str = "So few steps teach little: raise training.epochs, or lower training.batch_size";

/// Whether guessing gives an accuracy as high, by luck in one of a thousand cases.
fn is_chance(top1: f64, images: f64, classes: u32) -> bool {
    let chance = 100.0 / f64::from(classes.max(1));
    let luck = 3.0 * (chance * (100.0 - chance) / images.max(1.0)).sqrt();
    // Few images would excuse anything.
    classes > 1 && top1 <= chance + luck.min(0.1 * (100.0 - chance))
}

/// A warning if the file system of a directory has less space than needed, in bytes.
#[must_use]
pub fn disk(directory: &Path, needed: u64) -> Option<String> {
    let found = rustix::fs::statvfs(directory).ok()?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    (free < needed).then(|| {
        format!(
            "{} has {} MiB of free space, and this run needs about {} MiB for its checkpoints and students, with \
             the images that exports are checked with: free some space, or it will fail",
            directory.display(),
            free >> 20,
            mib(needed)
        )
    })
}
