//! What a training step measures: each metric by its name, and the means over steps.

use std::fmt;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::loss::sdd::Distilled;
use crate::ranks::Ranks;
use distillery_core::protocol::series;

/// A metric of training steps. Its `Display` is the name of the series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    Loss,
    CrossEntropy,
    Top1,
    /// The fraction of the images that have a label.
    LabelledFraction,
    DistillationLoss,
    ConsistentLoss,
    ComplementaryLoss,
    ComplementaryFraction,
    /// The clustering loss.
    Clustering,
    /// The mean loss of one scale's regions.
    ScaleLoss {
        /// The scale's position in the specification.
        index: usize,
        scale: u32,
    },
    /// The fraction of one scale's regions that are complementary.
    ScaleComplementaryFraction {
        /// The scale's position in the specification.
        index: usize,
        scale: u32,
    },
}

impl Metric {
    /// The metrics of a distillation at these scales, in the order of the metrics file. No scales mean plain training.
    #[must_use]
    pub fn of_scales(scales: &[u32]) -> Vec<Self> {
        let mut metrics = vec![Self::Loss, Self::CrossEntropy, Self::Top1];
        if !scales.is_empty() {
            metrics.extend([
                Self::DistillationLoss,
                Self::ConsistentLoss,
                Self::ComplementaryLoss,
                Self::ComplementaryFraction,
            ]);
            let numbered = || scales.iter().copied().enumerate();
            metrics.extend(numbered().map(|(index, scale)| Self::ScaleLoss { index, scale }));
            metrics.extend(numbered().map(|(index, scale)| Self::ScaleComplementaryFraction { index, scale }));
        }
        metrics
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loss => f.write_str(series::TRAIN_LOSS),
            Self::CrossEntropy => f.write_str(series::TRAIN_LOSS_CE),
            Self::Top1 => f.write_str(series::TRAIN_TOP1),
            Self::LabelledFraction => f.write_str(series::TRAIN_LABELLED_FRACTION),
            Self::DistillationLoss => f.write_str(series::TRAIN_LOSS_DISTILL),
            Self::ConsistentLoss => f.write_str(series::TRAIN_LOSS_CONSISTENT),
            Self::ComplementaryLoss => f.write_str(series::TRAIN_LOSS_COMPLEMENTARY),
            Self::ComplementaryFraction => f.write_str(series::COMPLEMENTARY_FRACTION),
            Self::Clustering => f.write_str(series::TRAIN_LOSS_CLUSTERING),
            Self::ScaleLoss { scale, .. } => f.write_str(&series::scale_loss(*scale)),
            Self::ScaleComplementaryFraction { scale, .. } => {
                f.write_str(&series::scale_complementary_fraction(*scale))
            }
        }
    }
}

/// What one step measured: scalars on the device, means over the batch.
#[derive(Debug)]
pub struct StepMetrics<'a> {
    pub loss: &'a Tensor,
    pub cross_entropy: &'a Tensor,
    /// Percent of images whose label has the largest logit.
    pub top1: Tensor,
    /// `[B]`, negative without one.
    labels: &'a Tensor,
    /// `None` for plain training.
    pub distilled: Option<&'a Distilled>,
}

impl<'a> StepMetrics<'a> {
    /// Measures the step of `labels` `[B]` and the student's global `logits` [B, K].
    #[must_use]
    pub fn new(
        loss: &'a Tensor,
        cross_entropy: &'a Tensor,
        logits: &Tensor,
        labels: &'a Tensor,
        distilled: Option<&'a Distilled>,
    ) -> Self {
        // In float64, so that the means over several steps are exact.
        let top1 = logits.argmax(-1, false).eq_tensor(labels).to_kind(Kind::Double).mean(None::<Kind>) * 100.0;
        Self { loss, cross_entropy, top1, labels, distilled }
    }

    fn value(&self, metric: Metric) -> Tensor {
        let distilled = || self.distilled.expect("plain training has no scales");
        match metric {
            Metric::Loss => self.loss.detach(),
            Metric::CrossEntropy => self.cross_entropy.detach(),
            Metric::Top1 => self.top1.shallow_clone(),
            Metric::LabelledFraction => self.labels.ge(0).to_kind(Kind::Double).mean(None::<Kind>),
            Metric::DistillationLoss => distilled().loss.detach(),
            Metric::ConsistentLoss => distilled().consistent.shallow_clone(),
            Metric::ComplementaryLoss => distilled().complementary.shallow_clone(),
            Metric::ComplementaryFraction => distilled().complementary_fraction.shallow_clone(),
            Metric::Clustering => distilled().clustering.as_ref().expect("the loss has this part").detach(),
            Metric::ScaleLoss { index, .. } => distilled().per_scale.get(index as i64),
            Metric::ScaleComplementaryFraction { index, .. } => distilled().complementary_per_scale.get(index as i64),
        }
    }
}

/// Sums of metrics over steps, kept on the device until they are read.
#[derive(Debug)]
pub struct Meter {
    metrics: Vec<Metric>,
    /// One sum per metric, weighted by the images of each step: float64.
    sums: Tensor,
    images: u64,
    /// The first step whose loss was not finite, or the largest int64.
    first_bad_step: Tensor,
    /// The file of the weights that the run started from.
    first_weights: Option<PathBuf>,
}

/// Means over the images of all ranks since the last reading.
#[derive(Debug)]
pub struct Means {
    pub images: u64,
    /// Images with a label.
    pub labelled: u64,
    pub metrics: Vec<(Metric, f64)>,
}

impl Meter {
    /// For a distillation at these scales. No scales mean plain training.
    #[must_use]
    pub fn new(scales: &[u32], device: Device) -> Self {
        let metrics = Metric::of_scales(scales);
        let sums = Tensor::zeros([metrics.len() as i64], (Kind::Double, device));
        let first_bad_step = Tensor::full([] as [i64; 0], i64::MAX, (Kind::Int64, device));
        Self { metrics, sums, images: 0, first_bad_step, first_weights: None }
    }

    /// Adds the clustering loss, if the distillation has one.
    #[must_use]
    pub fn with_clustering(mut self, is_there: bool) -> Self {
        if is_there {
            self.metrics.push(Metric::Clustering);
            self.sums = Tensor::zeros([self.metrics.len() as i64], (Kind::Double, self.sums.device()));
        }
        self
    }

    /// For a run that starts from the weights in this file, if it does: they are suspected if its first loss is not
    /// finite.
    #[must_use]
    pub fn starting_from(self, weights: Option<&Path>) -> Self {
        Self { first_weights: weights.map(Path::to_owned), ..self }
    }

    /// For a run in which images may have no label: top-1 and cross entropy are then of the labelled ones, and missing
    /// where there was none.
    #[must_use]
    pub fn with_unlabelled(mut self) -> Self {
        self.metrics.push(Metric::LabelledFraction);
        self.sums = Tensor::zeros([self.metrics.len() as i64], (Kind::Double, self.sums.device()));
        self
    }

    /// Adds a step over `images` images. `step` is its number, an int64 scalar on the device.
    pub fn add(&mut self, measured: &StepMetrics<'_>, images: i64, step: &Tensor) {
        let values: Vec<Tensor> = self.metrics.iter().map(|&metric| measured.value(metric)).collect();
        self.sums += Tensor::stack(&values, 0).to_kind(Kind::Double) * images as f64;
        // The largest int64 where the loss is finite, the step's number where it is not.
        let bad = measured.loss.isfinite().to_kind(Kind::Int64) * (step.neg() + i64::MAX) + step;
        self.first_bad_step.copy_(&self.first_bad_step.minimum(&bad));
    }

    /// Counts the images of a step. [`add`](Self::add) does not, because a CUDA graph replays its kernels only.
    pub fn count(&mut self, images: u64) {
        self.images += images;
    }

    /// The means since the last reading; `None` if there was no step. Waits for the device.
    ///
    /// # Errors
    /// A loss was not finite, or another rank is gone.
    pub fn read(&mut self, ranks: &Ranks) -> Result<Option<Means>> {
        ranks.all_reduce_min(&self.first_bad_step)?;
        let first_bad_step = self.first_bad_step.int64_value(&[]);
        if first_bad_step != i64::MAX {
            return Err(not_finite(first_bad_step, self.first_weights.as_deref()));
        }
        let images = Tensor::from(std::mem::take(&mut self.images) as i64);
        ranks.all_reduce_sum(&images)?;
        let images = images.int64_value(&[]).unsigned_abs();
        if images == 0 {
            return Ok(None);
        }
        ranks.all_reduce_sum(&self.sums)?;
        let sums = Vec::<f64>::try_from(&self.sums)?;
        let means = sums.into_iter().map(|sum| sum / images as f64);
        let mut metrics: Vec<(Metric, f64)> = self.metrics.iter().copied().zip(means).collect();
        let fraction = metrics.iter().find(|(metric, _)| *metric == Metric::LabelledFraction).map(|&(_, mean)| mean);
        let labelled = fraction.map_or(images, |fraction| (fraction * images as f64).round() as u64);
        let of_labelled = |metric: Metric| matches!(metric, Metric::Top1 | Metric::CrossEntropy);
        if let Some(fraction) = fraction.filter(|_| labelled > 0) {
            metrics.iter_mut().filter(|(metric, _)| of_labelled(*metric)).for_each(|(_, mean)| *mean /= fraction);
        }
        // There is no mean of no images.
        metrics.retain(|(metric, _)| labelled > 0 || !of_labelled(*metric));
        let _ = self.sums.zero_();
        Ok(Some(Means { images, labelled, metrics }))
    }
}

/// The failure of a run whose loss is not finite at a step. At the first step, no update has changed any weight.
fn not_finite(step: i64, first_weights: Option<&Path>) -> Error {
    let advice = match (step, first_weights) {
        (1, Some(file)) => format!(
            "the run started from the weights in student.checkpoint {}, which are probably broken: use another \
             checkpoint",
            file.display()
        ),
        (1, None) => {
            "no weight has been changed yet, so the inputs or the weights of the losses are too large: correct \
             dataset.mean, dataset.std, teacher.mean, teacher.std or distillation.weights"
                .to_owned()
        }
        _ => "lower training.optimizer.learning_rate, or set training.clip_grad_norm".to_owned(),
    };
    Error::numeric(format!("the loss is not finite at step {step}: {advice}"))
}
