//! The device that computes, and what this process asks of the operating system.

pub mod card;
pub mod crop_kernel;
pub mod cuda;
pub(crate) mod ffi;
mod gpu_kernel;
pub(crate) mod kernels;
pub(crate) mod later;
pub mod norm_kernel;
pub mod nvrtc;
pub(crate) mod optimizers;
pub mod sdd_kernel;
pub mod trace;

use std::os::unix::process::CommandExt;

use tch::{Cuda, Device};

use crate::error::{Error, Result};

/// The names of `count` devices. `names` is a comma-separated list of them, or `auto`, `cpu` or `cuda`, which stand for
/// any number.
///
/// # Errors
/// The list has another length, or the machine has fewer GPUs.
pub fn several(names: &str, count: u32) -> Result<Vec<String>> {
    let count = count as usize;
    let listed: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).collect();
    if listed.len() == count {
        return Ok(listed);
    }
    match names {
        "cpu" => Ok(vec![names.to_owned(); count]),
        "auto" | "cuda" => match open(names)? {
            Device::Cuda(_) => {
                check_exists(count - 1)?;
                Ok((0..count).map(|index| format!("cuda:{index}")).collect())
            }
            _ => Ok(vec!["cpu".to_owned(); count]),
        },
        _ => Err(Error::user(format!(
            "training.devices is {count}, but --device lists {}: list {count} devices, separated by commas, or change \
             training.devices",
            listed.len()
        ))),
    }
}

/// The device named `auto`, `cpu`, `cuda` or `cuda:N`. A GPU becomes the current one of this thread.
///
/// # Errors
/// The name is none of these, or this machine's GPU cannot be used: class `machine`, since another machine's can.
pub fn open(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => automatic(),
        "cuda" => gpu(0),
        _ => match name.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(index)) => gpu(index),
            _ => Err(Error::user(format!("device {name:?} is unknown: use auto, cpu, cuda or cuda:N"))),
        },
    }
}

/// The first GPU, or the CPU of a machine without one. A GPU that cannot be used is an error: training on the CPU
/// instead would take a hundred times as long.
fn automatic() -> Result<Device> {
    match cuda::open() {
        Ok(()) if Cuda::device_count() > 0 => gpu(0),
        opened => {
            if !shows_gpu() {
                return Ok(Device::Cpu);
            }
            let reason = opened.err().unwrap_or_else(no_gpu);
            Err(Error::machine(format!(
                "this machine has an NVIDIA GPU, but CUDA cannot use it: {reason}. Run `distillery-trainer doctor`, or \
                 train on the CPU with --device cpu"
            )))
        }
    }
}

/// That there is no GPU, with CUDA's reason. libtorch prints it as a warning and counts none.
pub(crate) fn no_gpu() -> String {
    card::why_no_gpu().map_or_else(|| "CUDA finds no GPU".to_owned(), |reason| format!("CUDA finds no GPU ({reason})"))
}

/// Whether the driver shows a GPU to this process.
pub(crate) fn shows_gpu() -> bool {
    let files = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let names: Vec<String> = files.filter_map(|file| file.file_name().into_string().ok()).collect();
    has_gpu(&names, std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref())
}

/// Whether one of the files in `/dev` is a GPU that is not hidden. `visible` is `CUDA_VISIBLE_DEVICES`.
fn has_gpu(names: &[String], visible: Option<&str>) -> bool {
    let is_gpu = |name: &String| name.strip_prefix("nvidia").is_some_and(|index| index.parse::<u32>().is_ok());
    let is_hidden = visible.is_some_and(|list| matches!(list.split(',').next().map(str::trim), Some("" | "-1")));
    !is_hidden && names.iter().any(is_gpu)
}

fn gpu(index: usize) -> Result<Device> {
    check_exists(index)?;
    // Everything that asks about "the" GPU, such as its free memory, and what has no device of its own, is then about
    // this one.
    card::make_current(index).map_err(|reason| {
        Error::machine(format!("cuda:{index} cannot be opened: {reason}; run `distillery-trainer doctor`"))
    })?;
    Ok(Device::Cuda(index))
}

fn check_exists(index: usize) -> Result<()> {
    cuda::open().map_err(|reason| {
        Error::machine(format!("CUDA cannot be used: {reason}. Run `distillery-trainer doctor`, or use --device cpu"))
    })?;
    match usize::try_from(Cuda::device_count()).unwrap_or(0) {
        0 => Err(Error::machine(format!("{}: run `distillery-trainer doctor`, or use --device cpu", no_gpu()))),
        count if index >= count => {
            Err(Error::machine(format!("there is no cuda:{index}: the machine has {count} GPUs")))
        }
        _ => Ok(()),
    }
}

/// The name in events and manifests.
#[must_use]
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

/// Sets up the process before its first tensor: threads, signals, and an allocator that keeps freed memory. Without
/// that, large activations cause page faults in every step, which take about a fifth of its time.
#[allow(unsafe_code, reason = "the C library's settings of memory and signals")]
pub fn prepare(threads: usize) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 256 << 20);
    }
    // Writing beyond the limit on file sizes then fails with an error, where the signal would kill the process.
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    tch::set_num_interop_threads(1);
    // Fails if the pool exists already, which is fine.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
}

/// Makes idle OpenMP threads sleep soon. GNU OpenMP lets them spin by default, which multiplies the time of a run on a
/// machine that does other work as well (measured on 2 busy cores: 57 s against 15 s). It reads its environment before
/// `main`, so the program executes itself once more, unless one of the variables is already set.
pub fn idle_threads_sleep() {
    const VARIABLES: [&str; 2] = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"];
    if VARIABLES.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut again = std::process::Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // exec returns only if it fails. Then training is slower.
    let error = again.args(arguments).env(VARIABLES[0], "1000").exec();
    tracing::debug!(%error, "idle OpenMP threads will spin");
}

/// Whether the device multiplies bfloat16 natively. Otherwise bfloat16 is slower than float32 on a CPU, and cuDNN does
/// not support it. Processors with AMX have AVX-512 BF16 as well. GPUs from Ampere on have both bfloat16 and TF32.
#[must_use]
pub fn multiplies_bfloat16(device: Device) -> bool {
    if device != Device::Cpu {
        return card::capability(device).is_some_and(|capability| capability >= (8, 0));
    }
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The cores that this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Bytes of this process in the host's memory, if the system reports them. For GPU memory the worker asks the driver:
/// tch cannot query libtorch's allocator.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Ends the process at once, without destructors, which can crash while libtorch's threads still run.
#[allow(unsafe_code, reason = "the C library's exit without destructors")]
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit does not return and touches no memory of ours.
    unsafe { libc::_exit(i32::from(status)) }
}

#[cfg(test)]
mod tests {
    use distillery_core::protocol::ErrorClass;

    use super::*;

    #[test]
    fn a_machine_has_a_gpu_if_the_driver_shows_one_that_is_not_hidden() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let with = names(&["null", "nvidiactl", "nvidia0", "nvidia-uvm"]);
        assert!(has_gpu(&with, None) && has_gpu(&with, Some("0")) && has_gpu(&with, Some("GPU-8a1f")));
        assert!(!has_gpu(&with, Some("")) && !has_gpu(&with, Some("-1")));
        assert!(!has_gpu(&names(&["null", "nvidiactl", "nvidia-uvm"]), None));
    }

    #[test]
    fn a_gpu_that_is_not_there_is_the_machines_fault_and_a_name_that_is_no_device_the_users() {
        // More than any machine has.
        assert_eq!(open("cuda:1000").unwrap_err().class, ErrorClass::Machine);
        assert_eq!(open("tpu").unwrap_err().class, ErrorClass::User);
        assert_eq!(several("cpu,cpu,cpu", 2).unwrap_err().class, ErrorClass::User);
    }
}
