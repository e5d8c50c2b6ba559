//! Logits of the regions of feature maps. A network without a map has scale 1 only.

use tch::Tensor;

use super::Network;
use crate::loss::sdd::{Regions, classify_by_scale, classify_regions};

impl Network {
    /// Logits of the regions of feature maps [B, C, H, W] at these scales.
    #[must_use]
    pub fn regions(&self, features: &Tensor, scales: &[u32], train: bool) -> Regions {
        if !self.has_map() {
            return Regions::split(&self.logits_without_map(features, scales, train), scales);
        }
        classify_regions(|pooled| self.classify(pooled, train), features, scales)
    }

    /// Logits [B, 1 + finer regions, K] of the whole image and of the regions of the finer `scales`, in evaluation
    /// mode. Those of a scale are the same, to the last bit, whatever the others are.
    pub fn logits_by_scale(&self, features: &Tensor, scales: &[u32]) -> Tensor {
        if !self.has_map() {
            return self.logits_without_map(features, scales, false);
        }
        classify_by_scale(|pooled| self.classify(pooled, false), features, scales)
    }

    /// [B, 1, K]
    fn logits_without_map(&self, features: &Tensor, scales: &[u32], train: bool) -> Tensor {
        assert_eq!(scales, [1], "{self:?} has no feature map");
        self.classify_map(features, train).unsqueeze(1)
    }
}
