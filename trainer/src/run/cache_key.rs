//! The keys of what a run caches of its teacher: everything that the logits and the evaluation depend on.

use serde_json::{Value, json};

use super::manifest::Versions;
use super::setup::Setup;
use crate::data::normalisation::Normalisation;
use crate::data::open::DECODER;
use crate::device::card::Card;
use crate::error::Result;
use crate::models::Network;
use crate::settings::Settings;
use distillery_core::architecture::Architecture;
use distillery_core::spec::{TeacherCache, TrainingPlan};

/// Everything that the logits of an image and their rounding depend on, except the view.
pub(super) fn logits_key(spec: &TrainingPlan, settings: &Settings, setup: &mut Setup) -> Result<Value> {
    let training = &spec.training;
    let seed = matches!(training.teacher_cache, Some(TeacherCache::Views(_))).then_some(training.seed);
    let split = setup.data.splits.train.clone();
    let mut asked = teacher_key(spec, settings, setup, &split)?;
    // Those of other jobs, too, and each scale classified by itself: earlier versions rounded differently.
    asked["scales"] = json!({"each": setup.objective.kept_scales});
    let mut key = json!({
        "asked": asked,
        "images": [
            json!(setup.data.selected.train), json!(setup.data.train.len()), json!(training.augmentation), json!(seed),
        ],
        // In memory, unreadable images are left out before the others are numbered.
        "numbered_in_memory": setup.data.train.is_in_memory(),
        "batch_size": training.batch_size,
    });
    if let Some(split) = setup.data.splits.unlabelled.clone() {
        key["unlabelled"] = json!([&split, setup.data.split_hashes.get()?.get(&split)]);
    }
    // Without them, the key is that of earlier versions. What is erased gets the mean colour of the student's images.
    if let Some(policy) = training.policy() {
        key["policy"] = json!(policy);
    }
    if let Some(probability) = training.random_erasing {
        let Normalisation { mean, .. } = &setup.objective.normalisation;
        key["erasing"] = json!([json!(probability), json!(mean)]);
    }
    Ok(key)
}

/// Everything that the teacher's outputs for a split depend on.
///
/// # Errors
/// The data set's files cannot be read.
pub(super) fn teacher_key(spec: &TrainingPlan, settings: &Settings, setup: &mut Setup, split: &str) -> Result<Value> {
    let files = setup.data.split_hashes.get()?.get(split).cloned();
    let normalisation = setup.objective.teacher_normalisation();
    let (teacher, data) = (&spec.teacher, &spec.dataset);
    let device = computes_on(setup.hardware.card.as_ref(), &setup.started.device, settings.shard.world_size);
    let mut key = json!({
        "teacher": teacher_files(setup, teacher.as_ref().and_then(|teacher| teacher.architecture)),
        "data": [files.as_ref(), data.image_column.as_ref(), data.label_column.as_ref()],
        "split": split,
        "decoder": DECODER,
        "side": data.image_size,
        "normalisation": [normalisation.mean, normalisation.std],
        "scales": setup.objective.scales(),
        "arithmetic": [
            json!(setup.started.precision), device, json!(settings.threads), json!(std::env::consts::ARCH),
            json!(Versions::current()),
        ],
    });
    // Without it, the key is that of earlier versions.
    if let Some(order) = setup.objective.teacher.as_ref().and_then(Network::output_order) {
        key["order"] = json!(order);
    }
    Ok(key)
}

/// What decides, beside the batch, how sums are rounded: a card is `cuda:0` on one machine and `cuda:1` on the next,
/// and another card is `cuda:0` there. The number of devices divides the batch. The CPU's key is that of earlier
/// versions.
fn computes_on(card: Option<&Card>, device: &str, devices: u32) -> Value {
    card.map_or_else(|| json!(device), |card| json!([card, devices]))
}

/// The teacher's files, and its architecture; of an exported network the file with its graph, if that is another.
fn teacher_files(setup: &Setup, architecture: Option<&'static Architecture>) -> Value {
    let hashes = setup.files.hashes.teacher.as_ref();
    let network = hashes.and_then(|hashes| hashes.network.as_ref());
    json!([hashes.map(|hashes| &hashes.checkpoint), architecture.map_or_else(|| json!(network), |known| json!(known))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_are_reused_on_the_same_card_under_any_number_and_on_no_other() {
        let card = Card {
            name: "NVIDIA H100".to_owned(),
            capability: "9.0".to_owned(),
            cudnn: "9.19.0".to_owned(),
            driver: "580.65.06".to_owned(),
        };
        let key = |card: &Card, device, devices| computes_on(Some(card), device, devices);
        assert_eq!(key(&card, "cuda:0", 1), key(&card, "cuda:1", 1));
        let others = [
            Card { name: "NVIDIA L4".to_owned(), ..card.clone() },
            Card { capability: "8.9".to_owned(), ..card.clone() },
            Card { cudnn: "9.10.0".to_owned(), ..card.clone() },
            Card { driver: "590.1".to_owned(), ..card.clone() },
        ];
        for other in &others {
            assert_ne!(key(&card, "cuda:0", 1), key(other, "cuda:0", 1));
        }
        assert_ne!(key(&card, "cuda:0", 1), key(&card, "cuda:0,cuda:1", 2));
        assert_eq!(computes_on(None, "cpu", 1), json!("cpu"));
    }
}
