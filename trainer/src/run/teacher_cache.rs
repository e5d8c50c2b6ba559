//! Opens the cache of a run's teacher, under keys that name everything its logits depend on.

use serde_json::{Value, json};
use tch::Device;

use super::manifest::Versions;
use super::setup::Setup;
use crate::cache::Cache;
use crate::cache::teacher_logits::{LogitStorage, TeacherLogitCache};
use crate::data::open::DECODER;
use crate::error::Result;
use crate::loss::sdd::region_count;
use crate::ranks::Ranks;
use crate::settings::Settings;
use crate::worker_link::report::{Report, warning};
use distillery_core::architecture::Architecture;
use distillery_core::spec::{TeacherCache, TrainingPlan};

/// Opens the cache that the specification asks for; `None` where it asks for none. Several `ranks` share files, because
/// each of them sees other images in the next epoch. Warnings go to `report`.
///
/// # Errors
/// The data set's files cannot be read, or another rank is gone.
pub fn open(
    spec: &TrainingPlan,
    settings: &Settings,
    ranks: &Ranks,
    setup: &mut Setup,
    report: &mut dyn Report,
) -> Result<Option<TeacherLogitCache>> {
    let Some(kind) = spec.training.teacher_cache.filter(|kind| *kind != TeacherCache::Off) else { return Ok(None) };
    let images = usize::try_from(setup.data.train.len()).unwrap_or(usize::MAX);
    let size = [region_count(setup.objective.scales()), i64::from(setup.started.classes)];
    let directory = settings.cache_dir.as_deref().or(ranks.directory());
    let key = match directory {
        Some(_) => ranks.broadcast_text(|| Ok(logits_key(spec, settings, setup)?.to_string()))?,
        None => String::new(),
    };
    let in_memory = LogitStorage::Memory { device: setup.device, limit: settings.cache_limit };
    let storage = match directory.map(|directory| Cache::open(directory, settings.cache_limit)) {
        None => in_memory,
        Some(Ok(cache)) => {
            let key = serde_json::from_str(&key).expect("a key is JSON");
            // A copy on the device would lack what other ranks write.
            let device = if settings.shard.world_size == 1 { setup.device } else { Device::Cpu };
            LogitStorage::Files { cache, key, device }
        }
        Some(Err(error)) => {
            report.event(&warning(format!(
                "the directory of --cache-dir cannot be used ({error}): the teacher's logits are kept in memory until \
                 the run ends"
            )));
            in_memory
        }
    };
    Ok(TeacherLogitCache::new(kind, images, size, storage))
}

/// Everything that the logits of an image and their rounding depend on, except the view.
fn logits_key(spec: &TrainingPlan, settings: &Settings, setup: &mut Setup) -> Result<Value> {
    let training = &spec.training;
    let seed = matches!(training.teacher_cache, Some(TeacherCache::Views(_))).then_some(training.seed);
    let split = setup.data.splits.train.clone();
    Ok(json!({
        "asked": teacher_key(spec, settings, setup, &split)?,
        "images": [json!(setup.data.selected.train), json!(setup.data.train.len()), json!(training.augmentation), json!(seed)],
        // In memory, unreadable images are left out before the others are numbered.
        "numbered_in_memory": setup.data.train.is_in_memory(),
        "batch_size": training.batch_size,
    }))
}

/// Everything that the teacher's outputs for a split depend on.
///
/// # Errors
/// The data set's files cannot be read.
pub(super) fn teacher_key(spec: &TrainingPlan, settings: &Settings, setup: &mut Setup, split: &str) -> Result<Value> {
    let files = setup.data.fingerprints.get()?.get(split).cloned();
    let normalisation = setup.objective.teacher_normalisation();
    let (teacher, data) = (&spec.teacher, &spec.dataset);
    Ok(json!({
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
    }))
}

/// The teacher's files, and its architecture; of an exported network the file with its graph, if that is another.
fn teacher_files(setup: &Setup, architecture: Option<&'static Architecture>) -> Value {
    let hashes = setup.hashes.teacher.as_ref();
    let network = hashes.and_then(|hashes| hashes.network.as_ref());
    json!([hashes.map(|hashes| &hashes.checkpoint), architecture.map_or_else(|| json!(network), |known| json!(known))])
}
