//! What was drawn for the images of an epoch: crops, rectangles to erase, and mixes.

use tch::{Device, Tensor};

use crate::data::{Batch, Crops, DrawSource, Erasures, MixSource, Mixes};
use distillery_core::spec::{Augmentation, TeacherCache, TrainingPlan, TrainingSpec};

/// The variation of an epoch's images, on their device.
#[derive(Debug)]
pub struct EpochVariation {
    crops: Option<Crops>,
    erasures: Option<Erasures>,
    mixes: Option<Mixes>,
}

/// The variation of a batch's images: see [`Inputs`](super::step::Inputs).
#[derive(Debug)]
pub struct BatchVariation {
    pub crops: Option<Tensor>,
    pub erased: Option<Tensor>,
    pub mix: Option<Tensor>,
}

/// The part of an epoch that is trained on.
#[derive(Debug, Clone, Copy)]
pub struct EpochPart {
    pub epoch: u32,
    /// The view of the images that the epoch shows.
    pub view: u32,
    /// Batches before this one have been trained on.
    pub first_batch: u64,
    pub batches: u64,
}

impl EpochVariation {
    /// Draws the variation of a split of `images` images on a device.
    #[must_use]
    pub fn draw(spec: &TrainingPlan, images: u64, device: Device, part: EpochPart) -> Self {
        let TrainingSpec { seed, augmentation, teacher_cache, random_erasing, .. } = spec.training;
        let side = spec.dataset.image_size;
        let source = DrawSource { seed, images, side: side.into(), device };
        let is_view = matches!(teacher_cache, Some(TeacherCache::Views(_)));
        let EpochPart { epoch, view, first_batch, batches } = part;
        let batch_size = u64::from(spec.training.batch_size);
        // Resized crops, and crops that operations follow, are taken while the images are decoded.
        let crops = (augmentation == Augmentation::CropFlip && spec.training.auto_augment.is_none()).then(|| {
            if is_view { Crops::of_view(source, view) } else { Crops::of_epoch(source, epoch, first_batch, batch_size) }
        });
        let erasures = random_erasing.map(|probability| {
            if is_view {
                Erasures::of_view(source, probability, view)
            } else {
                Erasures::of_epoch(source, probability, epoch, first_batch, batch_size)
            }
        });
        let mixes = MixSource::of(&spec.training, side)
            .map(|source| Mixes::of_epoch(source, epoch, first_batch, batches, device));
        Self { crops, erasures, mixes }
    }

    /// The variation of batch `index`, counted from the beginning of the epoch.
    #[must_use]
    pub fn of_batch(&self, index: u64, batch: &Batch) -> BatchVariation {
        let (row, images) = (batch.portion.rows.start, &batch.index_tensor);
        BatchVariation {
            crops: self.crops.as_ref().map(|crops| crops.of_batch(index, row, images)),
            erased: self.erasures.as_ref().map(|erasures| erasures.of_batch(index, row, images)),
            mix: self.mixes.as_ref().map(|mixes| mixes.of_batch(index)),
        }
    }
}
