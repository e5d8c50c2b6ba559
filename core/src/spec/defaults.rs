//! Defaults that follow from other fields: the published recipe's, or the field's usual ones.

use super::{Augmentation, StudentRequest};

/// Images up to this side are augmented like CIFAR's by default: Tiny ImageNet's size.
const LARGEST_SMALL_IMAGE: u32 = 64;

/// CIFAR's for small images. On larger ones a crop by 4 pixels changes next to nothing, so they get ImageNet's.
pub(super) fn usual_augmentation(image_size: u32) -> Augmentation {
    if image_size <= LARGEST_SMALL_IMAGE { Augmentation::CropFlip } else { Augmentation::ResizedCropFlip }
}

/// The published CIFAR-100 recipe: 0.01 for the light students, 0.05 for the others. An exported network may be light
/// or trained already.
pub(super) fn published_learning_rate(student: &StudentRequest) -> f64 {
    if student.exported.is_some() {
        return 0.01;
    }
    let name = student.architecture.map_or("", |student| student.name);
    if name.starts_with("shufflenet") || name.starts_with("mobilenet") { 0.01 } else { 0.05 }
}

/// 62.5, 75 and 87.5 % of the epochs: 150, 180, 210 of 240.
pub(super) fn published_milestones(epochs: u32) -> Vec<u32> {
    let mut milestones: Vec<u32> =
        [5, 6, 7].iter().map(|eighths| (epochs * eighths + 4) / 8).filter(|&epoch| epoch > 0).collect();
    milestones.dedup();
    milestones
}

/// The side to which ImageNet's images are usually resized before the centre of `side` pixels is taken: 256 for 224.
#[must_use]
pub fn usual_resize(side: u32) -> u32 {
    (f64::from(side) * 256.0 / 224.0).round() as u32
}
