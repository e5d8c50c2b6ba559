//! The keys of what a run caches of its teacher: everything that the logits and the evaluation depend on.

use serde_json::{Value, json};

use super::manifest::Versions;
use super::setup::Setup;
use crate::data::normalisation::Normalisation;
use crate::data::open::DECODER;
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
    let mut key = json!({
        "asked": teacher_key(spec, settings, setup, &split)?,
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
    let mut key = json!({
        "teacher": teacher_files(setup, teacher.as_ref().and_then(|teacher| teacher.architecture)),
        "data": [files.as_ref(), data.image_column.as_ref(), data.label_column.as_ref()],
        "split": split,
        "decoder": DECODER,
        "side": data.image_size,
        "normalisation": [normalisation.mean, normalisation.std],
        "scales": setup.objective.scales(),
        "arithmetic": [
            json!(setup.started.precision), json!(setup.started.device), json!(settings.threads),
            json!(std::env::consts::ARCH), json!(Versions::current()),
        ],
    });
    // Without it, the key is that of earlier versions.
    if let Some(order) = setup.objective.teacher.as_ref().and_then(Network::output_order) {
        key["order"] = json!(order);
    }
    Ok(key)
}

/// The teacher's files, and its architecture; of an exported network the file with its graph, if that is another.
fn teacher_files(setup: &Setup, architecture: Option<&'static Architecture>) -> Value {
    let hashes = setup.hashes.teacher.as_ref();
    let network = hashes.and_then(|hashes| hashes.network.as_ref());
    json!([hashes.map(|hashes| &hashes.checkpoint), architecture.map_or_else(|| json!(network), |known| json!(known))])
}
