//! What the machine and its GPU have to do, as a worker tells with its heartbeats.

use nvml_wrapper::{Device, Nvml, error::NvmlError};
use sysinfo::System;

use crate::db::workers::{GpuUsage, Usage};

/// Reads the usage of the machine and of the worker's device.
#[derive(Debug)]
pub(super) struct Monitor {
    /// None where the system does not tell.
    system: Option<System>,
    /// Processor times are counted between two readings.
    is_first: bool,
    gpu: Option<Gpu>,
}

#[derive(Debug)]
struct Gpu {
    nvml: Nvml,
    which: Which,
}

/// A GPU as the driver knows it.
#[derive(Debug, PartialEq, Eq)]
enum Which {
    Index(u32),
    Uuid(String),
}

impl Monitor {
    /// For a worker on that device, `cpu` or `cuda:0`.
    pub(super) fn new(device: &str) -> Self {
        Self { system: System::new().ok(), is_first: true, gpu: Gpu::open(device) }
    }

    /// The usage since the last reading; that of the processors is not known at the first.
    pub(super) fn read(&mut self) -> Usage {
        let gpu = self.gpu.as_ref().and_then(Gpu::read);
        let Some(system) = &mut self.system else { return Usage { gpu, ..Usage::default() } };
        system.refresh_cpu_usage();
        system.refresh_memory();
        let cpu_share = f64::from(system.global_cpu_usage()) / 100.0;
        let is_known = !std::mem::take(&mut self.is_first) && cpu_share.is_finite();
        let total = Some(system.total_memory()).filter(|&bytes| bytes > 0);
        Usage {
            cpu_share: is_known.then(|| cpu_share.clamp(0.0, 1.0)),
            memory_used_bytes: total.map(|total| total.saturating_sub(system.available_memory())),
            memory_total_bytes: total,
            gpu,
        }
    }
}

/// The GPUs that a job was given.
#[derive(Debug)]
pub(super) struct Gpus(Vec<Gpu>);

impl Gpus {
    /// Those among these devices that are GPUs whose driver tells of them.
    pub(super) fn among(devices: &[String]) -> Self {
        Self(devices.iter().filter_map(|device| Gpu::open(device)).collect())
    }

    /// Bytes in use on all of them, by whichever process. None where there are none.
    pub(super) fn memory_in_use(&self) -> Option<u64> {
        let each: Option<Vec<u64>> = self.0.iter().map(|gpu| Some(gpu.read()?.memory_used_bytes)).collect();
        each.filter(|each| !each.is_empty()).map(|each| each.iter().sum())
    }
}

impl Gpu {
    fn open(device: &str) -> Option<Self> {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        physical(device, visible.as_deref()).and_then(|which| match Nvml::init() {
            Ok(nvml) => Some(Self { nvml, which }),
            Err(error) => {
                tracing::info!(%error, "the driver does not tell what the GPU has to do");
                None
            }
        })
    }

    fn device(&self) -> Result<Device<'_>, NvmlError> {
        match &self.which {
            Which::Index(index) => self.nvml.device_by_index(*index),
            Which::Uuid(uuid) => self.nvml.device_by_uuid(uuid.as_str()),
        }
    }

    fn read(&self) -> Option<GpuUsage> {
        let told = self.device().and_then(|device| {
            let memory = device.memory_info()?;
            Ok(GpuUsage {
                name: device.name()?,
                // Not every GPU counts: a part of one (MIG) does not.
                busy_share: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu.min(100)) / 100.0),
                memory_used_bytes: memory.used,
                memory_total_bytes: memory.total,
            })
        });
        told.inspect_err(|error| tracing::debug!(%error, "the GPU does not tell what it has to do")).ok()
    }
}

/// The GPU that CUDA calls by that name: it counts those that `CUDA_VISIBLE_DEVICES` lists, the driver all of them.
/// None for what is no GPU, and for one that is not listed.
fn physical(device: &str, visible: Option<&str>) -> Option<Which> {
    let index: u32 = device.strip_prefix("cuda:")?.parse().ok()?;
    let Some(visible) = visible else { return Some(Which::Index(index)) };
    let entry = visible.split(',').map(str::trim).nth(usize::try_from(index).ok()?)?;
    match entry.parse() {
        Ok(index) => Some(Which::Index(index)),
        Err(_) if entry.starts_with("GPU-") || entry.starts_with("MIG-") => Some(Which::Uuid(entry.to_owned())),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_the_one_that_cuda_shows_under_that_number() {
        let index = |number| Some(Which::Index(number));
        assert_eq!(physical("cuda:1", None), index(1));
        assert_eq!(physical("cuda:0", Some("3,1")), index(3));
        assert_eq!(physical("cuda:1", Some("3, 1")), index(1));
        assert_eq!(physical("cuda:0", Some("GPU-8a1f")), Some(Which::Uuid("GPU-8a1f".into())));
        for (device, visible) in [("cpu", None), ("cuda:0", Some("")), ("cuda:0", Some("-1")), ("cuda:2", Some("0,1"))]
        {
            assert_eq!(physical(device, visible), None, "{device} of {visible:?}");
        }
    }

    #[test]
    fn a_machine_tells_its_memory_at_once_and_its_processors_from_the_second_time_on() {
        let mut monitor = Monitor::new("cpu");
        let first = monitor.read();
        assert_eq!((first.cpu_share, first.gpu.clone()), (None, None));
        let (used, total) = (first.memory_used_bytes.unwrap(), first.memory_total_bytes.unwrap());
        assert!(0 < used && used < total);
        std::thread::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL);
        let share = monitor.read().cpu_share.unwrap();
        assert!((0.0..=1.0).contains(&share), "{share}");
    }
}
