//! What a run warns of while it goes on: a student that learns nothing, and a disk that will be full.

use std::path::Path;

use distillery_core::protocol::Evaluation;

/// The part of the steps after which a student should be better than chance.
const PATIENCE: f64 = 0.1;
/// Training images per class at least, for a judgement.
const LEAST_IMAGES: f64 = 200.0;

/// Watches whether the student learns anything, and warns once.
#[derive(Debug, Default)]
pub struct ChanceWatch {
    /// Training images seen in the second half of the first tenth of the steps, and how many were right.
    images: f64,
    right: f64,
    has_judged_training: bool,
    has_warned: bool,
}

/// How far the run is.
#[derive(Debug, Clone, Copy)]
pub struct RunPosition {
    pub step: u64,
    pub steps: u64,
    pub classes: u32,
}

impl RunPosition {
    fn fraction(self) -> f64 {
        self.step as f64 / self.steps.max(1) as f64
    }
}

impl ChanceWatch {
    /// Notes the accuracy, in percent, on the last `images` training images.
    pub fn trained(&mut self, top1: f64, images: u64, place: RunPosition) -> Option<String> {
        if self.has_judged_training || place.fraction() < PATIENCE / 2.0 {
            return None;
        }
        self.images += images as f64;
        self.right += top1 / 100.0 * images as f64;
        if place.fraction() < PATIENCE || self.images < LEAST_IMAGES * f64::from(place.classes) {
            return None;
        }
        self.has_judged_training = true;
        self.judge(100.0 * self.right / self.images, self.images, "training", place)
    }

    /// Judges an evaluation.
    pub fn evaluated(&mut self, evaluation: &Evaluation, place: RunPosition) -> Option<String> {
        if place.fraction() < PATIENCE {
            return None;
        }
        self.judge(evaluation.top1, evaluation.images as f64, "evaluation", place)
    }

    fn judge(&mut self, top1: f64, images: f64, of: &str, place: RunPosition) -> Option<String> {
        if self.has_warned || !is_chance(top1, images, place.classes) {
            return None;
        }
        self.has_warned = true;
        let chance = 100.0 / f64::from(place.classes);
        Some(format!(
            "after {:.0} % of its steps the student's top-1 accuracy on the {of} images is {top1:.1} %; chance is \
             {chance:.1} %. It seems to learn nothing: lower training.optimizer.learning_rate, and check that the \
             training images have all classes",
            100.0 * place.fraction()
        ))
    }
}

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
