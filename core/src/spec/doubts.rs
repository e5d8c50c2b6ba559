//! What a specification allows, but few people mean.

use super::{BaseLoss, DistillationSpec, LabelLoss, ScheduleSpec, TrainingSpec};
use crate::text::counted;

/// Warnings about values that contradict each other, of which a run would otherwise say nothing for hours.
#[must_use]
pub fn doubts(distillation: &DistillationSpec, training: &TrainingSpec) -> Vec<String> {
    let epochs = training.epochs;
    let trained = counted(epochs, "epoch", "epochs");
    let mut doubts = Vec::new();
    if let Some(warmup) = distillation.warmup_epochs.filter(|&warmup| warmup > epochs) {
        doubts.push(format!(
            "distillation.warmup_epochs is {warmup}, but the job trains for {trained}: the distillation loss gets {:.0} \
             % of its weight at most. Lower warmup_epochs, or train longer",
            100.0 * f64::from(epochs) / f64::from(warmup)
        ));
    }
    if let ScheduleSpec::Multistep { milestones, .. } = &training.schedule
        && let Some(late) = milestones.iter().find(|&&milestone| milestone > epochs)
    {
        doubts.push(format!(
            "training.schedule.milestones has {late}, but the job trains for {trained}: the learning rate does not \
             drop there"
        ));
    }
    if training.optimizer.learning_rate() == 0.0 {
        doubts.push("training.optimizer.learning_rate is 0: no weight will change".to_owned());
    }
    if let Some(patience) = training.early_stopping_patience
        && u64::from(patience) * u64::from(training.eval_every_epochs) >= u64::from(epochs)
    {
        doubts.push(format!(
            "training.early_stopping_patience is {}, but the job trains for {trained}: it never stops early",
            counted(patience, "evaluation", "evaluations")
        ));
    }
    let weights = &distillation.scale_weights;
    let has_clustering = distillation.weights.clustering.is_some();
    if !weights.is_empty() && weights.iter().all(|&weight| weight == 0.0) && !has_clustering {
        doubts.push(
            "distillation.scale_weights are all 0: the student learns nothing from the teacher. Give a scale a weight"
                .to_owned(),
        );
    }
    if has_clustering && distillation.scales == [1] {
        doubts.push(
            "distillation.weights.clustering compares the regions of an image at each scale, and scale 1 has only one: it \
             has no effect. Add a scale to distillation.scales"
                .to_owned(),
        );
    }
    doubts.extend(single_images(distillation, training));
    doubts.extend(faint_labels(distillation, training));
    doubts
}

/// A warning if there is nothing to correlate over the images of a device.
fn single_images(distillation: &DistillationSpec, training: &TrainingSpec) -> Option<String> {
    let images = training.batch_size / (training.devices * training.parts()).max(1);
    let whole = if training.parts() > 1 { "a part of a batch" } else { "a batch" };
    (distillation.method.base() == Some(BaseLoss::Dist) && images < 2).then(|| {
        format!(
            "a device has {} of {whole}, and distillation.gamma of dist compares the images there: it has no effect. Raise \
             training.batch_size",
            counted(images, "image", "images")
        )
    })
}

/// A warning if the binary cross entropy, which is a mean over the classes, has a weight for one that is not.
fn faint_labels(distillation: &DistillationSpec, training: &TrainingSpec) -> Option<String> {
    let weight = distillation.weights.cross_entropy;
    let is_mean = training.label_loss == Some(LabelLoss::BinaryCrossEntropy) && distillation.method.base().is_some();
    (is_mean && weight > 0.0 && weight <= 1.0).then(|| {
        format!(
            "training.label_loss binary_cross_entropy is a mean over the classes, and distillation.weights.cross_entropy is \
             {weight}: the labels hardly count beside the teacher. For the balance of a cross entropy, multiply that weight \
             by the number of classes"
        )
    })
}

/// Warnings about values that do not go with the number of training `images`.
pub fn of_images(training: &TrainingSpec, images: u64) -> impl Iterator<Item = String> {
    let oversized = oversized_batch(training, images);
    let steps = u64::from(training.epochs) * images.div_ceil(u64::from(training.batch_size.max(1)));
    oversized.into_iter().chain(slow_average(training, steps))
}

/// A warning if a batch is larger than the number of training `images`.
fn oversized_batch(training: &TrainingSpec, images: u64) -> Option<String> {
    let batch_size = training.batch_size;
    (u64::from(batch_size) > images).then(|| {
        format!(
            "training.batch_size is {batch_size}, but the data set has {}: every epoch is one step with all of them. \
             Lower batch_size",
            counted(images, "training image", "training images")
        )
    })
}

/// A warning if the average still consists of the initial weights by a percent or more at the end.
fn slow_average(training: &TrainingSpec, steps: u64) -> Option<String> {
    let decay = training.ema_decay?;
    let left = 100.0 * decay.powf(steps as f64);
    (left >= 1.0).then(|| {
        format!(
            "training.ema_decay is {decay}, an average over about {:.0} steps, but the job has {}: {left:.0} % of the \
             student would be the initial weights. Lower ema_decay, for example to {:.4}",
            1.0 / (1.0 - decay),
            counted(steps, "step", "steps"),
            // A tenth of the steps.
            (1.0 - 10.0 / steps.max(20) as f64).max(0.5)
        )
    })
}
