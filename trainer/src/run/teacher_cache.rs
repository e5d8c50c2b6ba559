//! Opens the cache of a run's teacher.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::cache_key::logits_key;
use super::setup::Setup;
use crate::cache::Cache;
use crate::cache::rows::Rows;
use crate::cache::teacher_logits::{LogitStorage, OwnScales, TeacherLogitCache};
use crate::error::Result;
use crate::loss::sdd::{of_scales, region_count};
use crate::models::Network;
use crate::ranks::Ranks;
use crate::settings::Settings;
use crate::worker_link::report::{Report, warning};
use distillery_core::protocol::{Event, Level};
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
    setup.objective.kept_scales = kept_scales(kind, settings, setup, report);
    let directory = settings.cache_dir.as_deref().or(ranks.directory());
    let keys = match directory {
        Some(_) => ranks.broadcast_text(|| Ok(json!(keys(spec, settings, setup)?).to_string()))?,
        None => String::new(),
    };
    let in_memory = LogitStorage::Memory { device: setup.hardware.device, limit: settings.cache_limit };
    let storage = match directory.map(|directory| Cache::open(directory, settings.cache_limit)) {
        None => in_memory,
        Some(Ok(cache)) => {
            let [key, own]: [Value; 2] = serde_json::from_str(&keys).expect("keys are JSON");
            let own = (own != key).then(|| OwnScales { key: own, regions: own_regions(setup) });
            // A copy on the device would lack what other ranks write.
            let device = if settings.shard.world_size == 1 { setup.hardware.device } else { Device::Cpu };
            LogitStorage::Files { cache, key, device, own }
        }
        Some(Err(error)) => {
            report.event(&warning(format!(
                "the directory of --cache-dir cannot be used ({error}): the teacher's logits are kept in memory until \
                 the run ends"
            )));
            // No other run finds those.
            setup.objective.kept_scales = own_scales(setup).into_iter().collect();
            in_memory
        }
    };
    let size = [region_count(&setup.objective.kept_scales), i64::from(setup.started.classes)];
    Ok(TeacherLogitCache::new(kind, images, size, storage))
}

/// The keys of the logits at all kept scales, and at the run's own.
fn keys(spec: &TrainingPlan, settings: &Settings, setup: &mut Setup) -> Result<[Value; 2]> {
    let all = logits_key(spec, settings, setup)?;
    let own = own_scales(setup).into_iter().collect();
    let kept = std::mem::replace(&mut setup.objective.kept_scales, own);
    let own = logits_key(spec, settings, setup);
    setup.objective.kept_scales = kept;
    Ok([all, own?])
}

/// The places of the regions of the run's own scales among those of all kept scales.
fn own_regions(setup: &Setup) -> Vec<i64> {
    let kept = &setup.objective.kept_scales;
    let places = Tensor::arange(region_count(kept), (Kind::Int64, Device::Cpu)).view([1, -1, 1]);
    let own: Vec<u32> = own_scales(setup).into_iter().collect();
    Vec::<i64>::try_from(of_scales(&places, kept, &own).flatten(0, -1)).expect("places are whole numbers")
}

fn own_scales(setup: &Setup) -> BTreeSet<u32> {
    setup.objective.scales().iter().copied().chain([1]).collect()
}

/// The scales whose logits are kept, ascending: those of the run, and those that `--cache-scales` names for other runs.
/// Files that later runs find have room for these, or else none of them is kept.
fn kept_scales(kind: TeacherCache, settings: &Settings, setup: &Setup, report: &mut dyn Report) -> Vec<u32> {
    let own = own_scales(setup);
    let all: BTreeSet<u32> = own.iter().chain(&settings.cache_scales).copied().collect();
    let has_map = setup.objective.teacher.as_ref().is_some_and(Network::has_map);
    if all == own || settings.cache_dir.is_none() || !has_map {
        return own.into_iter().collect();
    }
    let views = if let TeacherCache::Views(views) = kind { u64::from(views) } else { 1 };
    let listed: Vec<u32> = all.iter().copied().collect();
    let width = region_count(&listed) * i64::from(setup.started.classes);
    let bytes = Rows::bytes(setup.data.train.len(), usize::try_from(width).unwrap_or(usize::MAX)).saturating_mul(views);
    let fits = bytes <= settings.cache_limit;
    let mib = bytes.div_ceil(1 << 20);
    let message = if fits {
        format!(
            "the teacher's logits are kept at scales {listed:?}, {mib} MiB, so that jobs with other scales find them"
        )
    } else {
        format!(
            "the teacher's logits at scales {listed:?}, which other jobs take, need {mib} MiB, and the cache has {} MiB: \
             only those of this job's scales are kept",
            settings.cache_limit >> 20
        )
    };
    report.event(&Event::Log { level: Level::Info, message });
    if fits { listed } else { own.into_iter().collect() }
}
