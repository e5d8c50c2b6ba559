//! Opens the cache of a run's teacher.

use tch::Device;

use super::cache_key::logits_key;
use super::setup::Setup;
use crate::cache::Cache;
use crate::cache::teacher_logits::{LogitStorage, TeacherLogitCache};
use crate::error::Result;
use crate::loss::sdd::region_count;
use crate::ranks::Ranks;
use crate::settings::Settings;
use crate::worker_link::report::{Report, warning};
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
