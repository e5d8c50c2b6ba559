//! The name and the devices of this machine.

use std::fs;

/// Most devices of one worker.
const MOST_DEVICES: usize = 64;

/// Parses the devices on the command line: `auto`, `cpu`, `cuda`, or a list such as `cuda:0,cuda:1`.
pub(super) fn devices(text: &str) -> anyhow::Result<Vec<String>> {
    if text == "auto" {
        return Ok(all());
    }
    let devices: Vec<String> = text.split(',').map(|name| device(name.trim())).collect::<anyhow::Result<_>>()?;
    let is_gpu = |device: &String| device != "cpu";
    anyhow::ensure!(
        devices.iter().all(is_gpu) || !devices.iter().any(is_gpu),
        "the devices {text:?} mix CPU and GPU: start a separate worker for each"
    );
    let twice = devices.iter().enumerate().find(|(place, device)| is_gpu(device) && devices[..*place].contains(device));
    anyhow::ensure!(twice.is_none(), "the devices {text:?} name the same GPU twice");
    anyhow::ensure!(devices.len() <= MOST_DEVICES, "a worker can have at most {MOST_DEVICES} devices");
    Ok(devices)
}

/// All GPUs, or the CPU.
pub(super) fn all() -> Vec<String> {
    match gpus() {
        0 => vec!["cpu".to_owned()],
        count => (0..count).map(gpu).collect(),
    }
}

fn device(name: &str) -> anyhow::Result<String> {
    match name {
        "cpu" => Ok("cpu".to_owned()),
        "cuda" => Ok(gpu(0)),
        _ if name.strip_prefix("cuda:").is_some_and(|index| index.parse::<u32>().is_ok()) => Ok(name.to_owned()),
        _ => anyhow::bail!("unknown device {name:?}: expected auto, cpu, cuda or cuda:1, or a comma-separated list"),
    }
}

/// The name of a GPU.
pub(super) fn gpu(index: usize) -> String {
    format!("cuda:{index}")
}

/// A short name for a list of devices: `cuda:1`, or `2×cuda`.
pub(super) fn label(devices: &[String]) -> String {
    match devices {
        [one] => one.clone(),
        _ => format!("{}×{}", devices.len(), if devices.iter().any(|device| device == "cpu") { "cpu" } else { "cuda" }),
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

pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_parsed_and_impossible_combinations_are_refused() {
        assert_eq!(devices("cpu").unwrap(), ["cpu"]);
        assert_eq!(devices("cuda").unwrap(), ["cuda:0"]);
        assert_eq!(devices("cuda:3, cuda:1").unwrap(), ["cuda:3", "cuda:1"]);
        assert_eq!(devices("cpu,cpu").unwrap(), ["cpu", "cpu"]);
        let refused = |text: &str| devices(text).unwrap_err().to_string();
        assert!(refused("cpu,cuda:0").contains("mix CPU and GPU"));
        assert!(refused("cuda:0,cuda,cuda:1").contains("same GPU twice"));
        assert!(refused("cuda:0,").contains("unknown device \"\""));
        assert!(refused("tpu").contains("expected auto, cpu, cuda or cuda:1"));
        assert!(refused(&["cpu"; 65].join(",")).contains("at most 64 devices"));
    }

    #[test]
    fn several_devices_have_a_short_name() {
        assert_eq!(label(&["cuda:1".to_owned()]), "cuda:1");
        assert_eq!(label(&devices("cuda:0,cuda:1,cuda:2").unwrap()), "3×cuda");
        assert_eq!(label(&devices("cpu,cpu").unwrap()), "2×cpu");
    }
}
