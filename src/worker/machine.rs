//! What this machine has.

use std::fs;

/// Turns a device of the command line (`auto`, `cpu`, `cuda`, `cuda:1`) into one.
pub(super) fn device(text: &str) -> anyhow::Result<String> {
    match text {
        "auto" if gpus() > 0 => Ok("cuda:0".to_owned()),
        "auto" | "cpu" => Ok("cpu".to_owned()),
        "cuda" => Ok("cuda:0".to_owned()),
        _ if text.strip_prefix("cuda:").is_some_and(|index| index.parse::<u32>().is_ok()) => Ok(text.to_owned()),
        _ => anyhow::bail!("unknown device {text:?}: expected auto, cpu, cuda or cuda:1"),
    }
}

/// Number of NVIDIA GPUs that this process may use.
pub(super) fn gpus() -> usize {
    if let Ok(visible) = std::env::var("CUDA_VISIBLE_DEVICES") {
        return visible.split(',').filter(|device| !device.trim().is_empty() && device.trim() != "-1").count();
    }
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let is_gpu = |name: &str| name.strip_prefix("nvidia").is_some_and(|index| index.parse::<u32>().is_ok());
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_gpu)).count()
}

/// The name of this machine.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
