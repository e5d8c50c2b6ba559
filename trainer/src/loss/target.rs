//! The labels of a batch, whose images may be mixed or unlabelled, and the cross entropy with them.

use tch::{Kind, Reduction, Tensor};

/// The labels of a batch.
#[derive(Debug)]
pub struct Target {
    /// `[B]` int64, negative for an image without a label.
    pub labels: Tensor,
    /// `None` if no images are mixed.
    pub mixed: Option<MixedLabels>,
}

/// The labels of the images that were mixed in.
#[derive(Debug)]
pub struct MixedLabels {
    /// `[B]` int64, negative for an image without a label.
    pub labels: Tensor,
    /// The share of each mixed image that its own image has: a float32 scalar.
    pub own_share: Tensor,
}

impl Target {
    /// The target of images that are not mixed.
    #[must_use]
    pub fn of(labels: &Tensor) -> Self {
        Self { labels: labels.shallow_clone(), mixed: None }
    }

    /// The same, in which an image without a label has the class that the teacher predicts, by its logits [B, K] for
    /// the whole image.
    #[must_use]
    pub fn completed(&self, teacher: &Tensor) -> Self {
        let predicted = teacher.argmax(-1, false);
        let complete = |labels: &Tensor| labels.where_self(&labels.ge(0), &predicted);
        let mixed = self.mixed.as_ref().map(|MixedLabels { labels, own_share }| MixedLabels {
            labels: complete(labels),
            own_share: own_share.shallow_clone(),
        });
        Self { labels: complete(&self.labels), mixed }
    }

    /// The labels that have the larger share of each image: `[B]`.
    pub fn dominant(&self) -> Tensor {
        match &self.mixed {
            None => self.labels.shallow_clone(),
            Some(MixedLabels { labels, own_share }) => self.labels.where_self(&own_share.ge(0.5), labels),
        }
    }
}

/// The cross entropy with the labels, in PyTorch's formulation; or a binary one for each class, in timm's.
#[derive(Debug, Default)]
pub struct CrossEntropy {
    /// Whether each class has a sigmoid of its own.
    pub is_binary: bool,
    /// The part of each label that is spread over all classes, the label's own included.
    pub smoothing: f64,
    /// The weight of each class: `[K]` float32. `None` for equal weights.
    pub class_weights: Option<Tensor>,
    /// Whether there may be images without labels. Their cross entropy is 0, and the mean includes them.
    pub has_unlabelled: bool,
}

impl CrossEntropy {
    /// The mean over the images of `logits` [B, K]: a scalar with gradient. That of a mixed image is the mean of those
    /// with its two labels, weighted by their shares (Zhang et al. 2018), which is the cross entropy with the mixed
    /// label.
    pub fn of(&self, logits: &Tensor, target: &Target) -> Tensor {
        let own = self.of_labels(logits, &target.labels);
        let Some(MixedLabels { labels, own_share }) = &target.mixed else { return own };
        self.of_labels(logits, labels).lerp_tensor(&own, &own_share.to_kind(own.kind()))
    }

    /// With class weights or images without labels, the sum over the images is divided by their number. PyTorch divides
    /// by the sum of their weights, with which an image's share would depend on the others of its batch, part or rank.
    fn of_labels(&self, logits: &Tensor, labels: &Tensor) -> Tensor {
        if self.is_binary {
            return self.binary(logits, labels);
        }
        if self.class_weights.is_none() && !self.has_unlabelled {
            return logits.cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, self.smoothing);
        }
        let weights = self.class_weights.as_ref().map(|weights| weights.to_kind(logits.kind()));
        logits.cross_entropy_loss(labels, weights.as_ref(), Reduction::None, -1, self.smoothing).mean(None::<Kind>)
    }

    /// The mean over the images and classes, like timm's `BinaryCrossEntropy`: with smoothing, the label's class has
    /// the target 1 − ε + ε/K and the others ε/K.
    fn binary(&self, logits: &Tensor, labels: &Tensor) -> Tensor {
        let classes = logits.size()[1];
        let off = self.smoothing / classes as f64;
        let labels = labels.unsqueeze(-1);
        let hot = Tensor::arange(classes, (Kind::Int64, logits.device())).eq_tensor(&labels).to_kind(logits.kind());
        let target = hot * (1.0 - self.smoothing) + off;
        let losses = logits.binary_cross_entropy_with_logits::<Tensor>(&target, None, None, Reduction::None);
        if self.has_unlabelled {
            return (losses * labels.ge(0).to_kind(logits.kind())).mean(None::<Kind>);
        }
        losses.mean(None::<Kind>)
    }
}
