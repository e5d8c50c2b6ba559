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
    /// Of the binary cross entropy: labels with a larger share of an image than this count as a whole, and others not
    /// at all. `None` for labels that count by their shares. Smoothing has no effect with it.
    pub threshold: Option<f64>,
    /// Whether there may be images without labels. Their cross entropy is 0, and the mean includes them.
    pub has_unlabelled: bool,
}

impl CrossEntropy {
    /// The mean over the images of `logits` [B, K]: a scalar with gradient. That of a mixed image is the mean of those
    /// with its two labels, weighted by their shares (Zhang et al. 2018), which is the cross entropy with the mixed
    /// label; with a threshold it is that with all of its labels (Wightman et al. 2021).
    pub fn of(&self, logits: &Tensor, target: &Target) -> Tensor {
        if let (true, Some(threshold)) = (self.is_binary, self.threshold) {
            return self.thresholded(logits, target, threshold);
        }
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
        let losses = binary_losses(logits, &(one_hot(labels, logits) * (1.0 - self.smoothing) + off));
        if self.has_unlabelled {
            return (losses * labels.unsqueeze(-1).ge(0).to_kind(logits.kind())).mean(None::<Kind>);
        }
        losses.mean(None::<Kind>)
    }

    /// The mean over the images and classes, like timm's `BinaryCrossEntropy` with `target_threshold`: the target of a
    /// class is 1 if its share of the image is larger, and else 0. A mixed image one of whose labels is not known has
    /// its loss weighted by the other's share.
    fn thresholded(&self, logits: &Tensor, Target { labels, mixed }: &Target, threshold: f64) -> Tensor {
        let with_partners = |of: fn(&Tensor, &Tensor) -> Tensor| match mixed {
            None => of(labels, logits),
            Some(MixedLabels { labels: others, own_share }) => {
                of(others, logits).lerp_tensor(&of(labels, logits), &own_share.to_kind(logits.kind()))
            }
        };
        let shares = with_partners(one_hot);
        let losses = binary_losses(logits, &shares.gt(threshold).to_kind(logits.kind()));
        if self.has_unlabelled {
            let known = with_partners(|labels, logits| labels.ge(0).to_kind(logits.kind()));
            return (losses * known.unsqueeze(-1)).mean(None::<Kind>);
        }
        losses.mean(None::<Kind>)
    }
}

/// 1 at each label's class and 0 elsewhere, [B, K] of the kind of `logits` [B, K]. A negative label has no class.
fn one_hot(labels: &Tensor, logits: &Tensor) -> Tensor {
    let classes = Tensor::arange(logits.size()[1], (Kind::Int64, logits.device()));
    classes.eq_tensor(&labels.unsqueeze(-1)).to_kind(logits.kind())
}

/// The binary cross entropy of each image and class: [B, K]
fn binary_losses(logits: &Tensor, target: &Tensor) -> Tensor {
    logits.binary_cross_entropy_with_logits::<Tensor>(target, None, None, Reduction::None)
}
