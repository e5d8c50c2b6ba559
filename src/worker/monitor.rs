//! Usage of the machine and of its GPUs, which a worker reports with its heartbeats.

use nvml_wrapper::{Device, Nvml, error::NvmlError};
use sysinfo::System;

use crate::db::workers::{GpuUsage, Usage};

/// Reads the usage of the machine and of the worker's first device.
#[derive(Debug)]
pub(super) struct Monitor {
    /// `None` if the operating system does not provide it.
    system: Option<System>,
    /// The first reading has no processor usage, which is measured between two readings.
    is_first: bool,
    gpu: Option<MonitoredGpu>,
}

#[derive(Debug)]
struct MonitoredGpu {
    nvml: Nvml,
    id: GpuId,
}

/// How the driver identifies a GPU.
#[derive(Debug, PartialEq, Eq)]
enum GpuId {
    Index(u32),
    Uuid(String),
}

impl Monitor {
    /// For a worker on a device such as `cpu` or `cuda:0`.
    pub(super) fn new(device: &str) -> Self {
        Self { system: System::new().ok(), is_first: true, gpu: MonitoredGpu::open(device) }
    }

    /// The usage now; that of the processors is the mean since the last reading, and `None` at the first.
    pub(super) fn read(&mut self) -> Usage {
        let gpu = self.gpu.as_ref().and_then(MonitoredGpu::read);
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
pub(super) struct Gpus(Vec<MonitoredGpu>);

impl Gpus {
    /// The GPUs among these devices that the driver can be asked about.
    pub(super) fn among(devices: &[String]) -> Self {
        Self(devices.iter().filter_map(|device| MonitoredGpu::open(device)).collect())
    }

    /// Bytes in use on all of them, by any process. `None` if there is no GPU or one cannot be read.
    pub(super) fn memory_in_use(&self) -> Option<u64> {
        let each: Option<Vec<u64>> = self.0.iter().map(|gpu| Some(gpu.read()?.memory_used_bytes)).collect();
        each.filter(|each| !each.is_empty()).map(|each| each.iter().sum())
    }
}

impl MonitoredGpu {
    fn open(device: &str) -> Option<Self> {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        physical(device, visible.as_deref()).and_then(|id| match Nvml::init() {
            Ok(nvml) => Some(Self { nvml, id }),
            Err(error) => {
                tracing::info!(%error, "cannot read GPU usage: NVML is not available");
                None
            }
        })
    }

    fn device(&self) -> Result<Device<'_>, NvmlError> {
        match &self.id {
            GpuId::Index(index) => self.nvml.device_by_index(*index),
            GpuId::Uuid(uuid) => self.nvml.device_by_uuid(uuid.as_str()),
        }
    }

    fn read(&self) -> Option<GpuUsage> {
        let usage = self.device().and_then(|device| {
            let memory = device.memory_info()?;
            Ok(GpuUsage {
                name: device.name()?,
                // Not available for a partition of a GPU (MIG).
                busy_share: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu.min(100)) / 100.0),
                memory_used_bytes: memory.used,
                memory_total_bytes: memory.total,
            })
        });
        usage.inspect_err(|error| tracing::debug!(%error, "cannot read GPU usage")).ok()
    }
}

/// The GPU behind a CUDA device name. CUDA numbers only the GPUs listed in `CUDA_VISIBLE_DEVICES`; the driver numbers
/// all of them. `None` if the device is not a GPU, or is not listed.
fn physical(device: &str, visible: Option<&str>) -> Option<GpuId> {
    let index: u32 = device.strip_prefix("cuda:")?.parse().ok()?;
    let Some(visible) = visible else { return Some(GpuId::Index(index)) };
    let entry = visible.split(',').map(str::trim).nth(usize::try_from(index).ok()?)?;
    match entry.parse() {
        Ok(index) => Some(GpuId::Index(index)),
        Err(_) if entry.starts_with("GPU-") || entry.starts_with("MIG-") => Some(GpuId::Uuid(entry.to_owned())),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_device_numbers_map_to_physical_gpus() {
        let index = |number| Some(GpuId::Index(number));
        assert_eq!(physical("cuda:1", None), index(1));
        assert_eq!(physical("cuda:0", Some("3,1")), index(3));
        assert_eq!(physical("cuda:1", Some("3, 1")), index(1));
        assert_eq!(physical("cuda:0", Some("GPU-8a1f")), Some(GpuId::Uuid("GPU-8a1f".into())));
        for (device, visible) in [("cpu", None), ("cuda:0", Some("")), ("cuda:0", Some("-1")), ("cuda:2", Some("0,1"))]
        {
            assert_eq!(physical(device, visible), None, "{device} of {visible:?}");
        }
    }

    #[test]
    fn memory_is_known_at_once_and_processor_usage_from_the_second_reading_on() {
        let mut monitor = Monitor::new("cpu");
        let first = monitor.read();
        assert_eq!((first.cpu_share, first.gpu.clone()), (None, None));
        let (used, total) = (first.memory_used_bytes.unwrap(), first.memory_total_bytes.unwrap());
        assert!(0 < used && used < total);
        // A second reading that comes sooner is not taken.
        std::thread::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL);
        let share = monitor.read().cpu_share.unwrap();
        assert!((0.0..=1.0).contains(&share), "{share}");
    }
}
