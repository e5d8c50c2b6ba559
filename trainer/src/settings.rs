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
    /// Where files go.
    pub output: PathBuf,
    /// `auto`, `cpu`, `cuda` or `cuda:N`; before ranks are given one each, so many with commas between them.
    pub device: String,
    /// The devices of all ranks, where there are several.
    pub all_devices: Option<String>,
    /// This rank's part of the training images, and its number.
    pub shard: Shard,
    /// Threads of the arithmetic, of all ranks together.
    pub threads: usize,
    /// Bytes of decoded images that are kept in memory; more are read again in every epoch.
    pub data_memory: u64,
    /// Whether steps on a GPU are recorded as CUDA graphs.
    pub cuda_graphs: bool,
    /// Where the teacher's logits and decoded images are kept for later runs; without it the logits are kept in memory.
    pub cache_dir: Option<PathBuf>,
    /// Bytes that may be kept there.
    pub cache_limit: u64,
    /// Which attempt at the job this is, from 1, for the manifest.
    pub attempt: u32,
}

impl Settings {
    /// What this rank loads its data with. A cache directory that cannot be used is left alone: the images are decoded.
    #[must_use]
    pub fn resources(&self, device: Device) -> Resources {
        let cache = self.cache_dir.as_ref().and_then(|directory| Cache::open(directory, self.cache_limit).ok());
        Resources { device, shard: self.shard, memory_limit: self.data_memory, cache }
    }

    /// Sets this process up for its part of the threads, before the first tensor, where so many devices train.
    pub fn prepare(&self, devices: u32) {
        device::prepare((self.threads / devices.max(1) as usize).max(1));
    }
}

/// How a run ended that did not fail.
#[derive(Debug)]
pub enum Ending {
    /// All epochs are done and all files written.
    Finished,
    /// It was told to stop.
    Stopped,
}
