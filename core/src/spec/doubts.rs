//! What a specification allows, but few people mean.

use super::{BaseLoss, DistillationSpec, ScheduleSpec, TrainingSpec};
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
    let images = training.batch_size / training.devices.max(1);
    if distillation.method.base() == Some(BaseLoss::Dist) && images < 2 {
        doubts.push(format!(
            "a device has {} of a batch, and distillation.gamma of dist compares the images of a batch: it has no effect. \
             Raise training.batch_size",
            counted(images, "image", "images")
        ));
    }
    doubts
}

/// A warning if a batch is larger than the number of training `images`.
#[must_use]
pub fn oversized_batch(training: &TrainingSpec, images: u64) -> Option<String> {
    let batch_size = training.batch_size;
    (u64::from(batch_size) > images).then(|| {
        format!(
            "training.batch_size is {batch_size}, but the data set has {}: every epoch is one step with all of them. \
             Lower batch_size",
            counted(images, "training image", "training images")
        )
    })
}
