//! What the command line decides about a run, and how a run can end.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use tch::Device;

use crate::cache::Cache;
use crate::data::Shard;
use crate::data::open::Resources;
use crate::device;

/// What the command line decides.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// The directory of all files that the run writes.
    pub output: PathBuf,
    /// `auto`, `cpu`, `cuda` or `cuda:N`; a comma-separated list of those before each rank gets its own.
    pub device: String,
    /// The devices of all ranks, if there are several.
    pub all_devices: Option<String>,
    /// The rank, and its part of the images.
    pub shard: Shard,
    /// Threads that compute on the CPU, over all ranks.
    pub threads: usize,
    /// Bytes of decoded images that are kept in memory. Larger splits are decoded again in every epoch.
    pub data_memory: u64,
    /// Whether symbolic links that lead out of the data set are followed.
    pub follow_links: bool,
    /// Whether steps on a GPU are recorded as CUDA graphs.
    pub cuda_graphs: bool,
    /// Whether kernels of our own crop and normalise images and compute batch norms on a GPU and the distillation loss,
    /// where they can.
    pub own_kernels: bool,
    /// Whether images of the data set are written: those with which exports of the students are checked, and pictures
    /// of what the student gets wrong.
    pub samples: bool,
    /// Keeps the teacher's logits and decoded images for later runs. Without it, logits are kept in memory.
    pub cache_dir: Option<PathBuf>,
    /// Bytes that the cache directory, or the logits in memory, may take.
    pub cache_limit: u64,
    /// Scales at which the logits in the cache directory are kept for other runs, besides those of this one.
    pub cache_scales: Vec<u32>,
    /// Epochs after which the run stops as if paused, if they are not the last.
    pub pause_after: Option<u32>,
    /// The number of this attempt at the job, from 1, for the manifest.
    pub attempt: u32,
}

impl Settings {
    /// What this rank loads its data with. A cache directory that cannot be used is left alone: the images are decoded.
    #[must_use]
    pub fn resources(&self, device: Device) -> Resources {
        let cache = self.cache_dir.as_ref().and_then(|directory| Cache::open(directory, self.cache_limit).ok());
        let follow_links = self.follow_links;
        Resources { device, shard: self.shard, memory_limit: self.data_memory, follow_links, cache }
    }

    /// Sets up this process with a rank's part of the threads. Comes before the first tensor.
    pub fn prepare(&self, devices: u32) {
        device::prepare((self.threads / devices.max(1) as usize).max(1));
    }
}

/// How a run ended that did not fail.
#[derive(Debug)]
pub enum Ending {
    /// All epochs are done and all files written.
    Finished,
    /// It stopped on request.
    Stopped,
}
