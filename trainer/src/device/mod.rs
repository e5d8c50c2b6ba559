//! Where the arithmetic runs: the CPU, or CUDA, which is opened where it is asked for.

pub mod cuda;
pub(crate) mod kernels;

use std::os::unix::process::CommandExt;

use tch::{Cuda, Device};

use crate::error::{Error, Result};

/// The names of `count` devices: `names` are so many with commas between them, or one of `auto`, `cpu` and `cuda`, which
/// stand for as many as there have to be.
///
/// # Errors
/// They are not as many, or the machine has not so many.
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
                gpu(count - 1)?;
                Ok((0..count).map(|index| format!("cuda:{index}")).collect())
            }
            _ => Ok(vec!["cpu".to_owned(); count]),
        },
        _ => Err(Error::user(format!(
            "training.devices is {count}, and --device names {}: name {count} with commas between them, or change \
             training.devices",
            listed.len()
        ))),
    }
}

/// The device of that name: `auto`, `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// The name is none of these, or there is no such device.
pub fn open(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(if cuda::open().is_ok() && Cuda::is_available() { Device::Cuda(0) } else { Device::Cpu }),
        "cuda" => gpu(0),
        _ => match name.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(index)) => gpu(index),
            _ => Err(Error::user(format!("device {name:?} is unknown: use auto, cpu, cuda or cuda:N"))),
        },
    }
}

fn gpu(index: usize) -> Result<Device> {
    cuda::open().map_err(|reason| Error::user(format!("CUDA cannot be used: {reason}")))?;
    match usize::try_from(Cuda::device_count()).unwrap_or(0) {
        0 => Err(Error::user("CUDA finds no GPU: check nvidia-smi, or use --device cpu")),
        count if index >= count => Err(Error::user(format!("there is no cuda:{index}: the machine has {count} GPUs"))),
        _ => Ok(Device::Cuda(index)),
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

/// Sets what must be set before the first tensor: threads, signals, and memory that is kept rather than given back after each
/// step (without it large activations cost page faults again and again, about a fifth of the time of a step).
#[allow(unsafe_code, reason = "the C library's settings of memory and signals")]
pub fn prepare(threads: usize) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 256 << 20);
    }
    // SAFETY: ignoring a signal runs no code of ours. A file that grows over its limit then fails to be written, with
    // an error that names it, where the signal would end the process without a word.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    tch::set_num_interop_threads(1);
    // Fails where the pool is there already, which then serves.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
}

/// Lets idle threads of the arithmetic sleep soon. GNU OpenMP has them spin by default, which on a machine that does
/// other work as well costs many times the run's own time (measured on 2 busy cores: 57 s against 15 s). It reads its
/// environment before `main`, so the program starts itself once more; whoever sets either variable decides himself.
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
    // Returns only where it fails; then things are slower, and that is all.
    let error = again.args(arguments).env(VARIABLES[0], "1000").exec();
    tracing::debug!(%error, "idle threads spin");
}

/// Whether the device multiplies bfloat16 itself. Without such instructions a processor takes longer than for float32 (those
/// with tiles for it, AMX, have them as well), and cuDNN does not compute in it; GPUs have them from Ampere on, as they
/// have TF32.
#[must_use]
pub fn multiplies_bfloat16(device: Device) -> bool {
    if device != Device::Cpu {
        return cuda::capability(device).is_some_and(|capability| capability >= (8, 0));
    }
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Cores that this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Bytes of this process that are in the machine's memory, where the system tells. What lies in a GPU's is not among
/// them: libtorch's allocator knows, but tch has no way to ask it, and the worker asks the driver.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Ends the process at once, without destructors, which libtorch's threads would trip over.
#[allow(unsafe_code, reason = "the C library's exit without destructors")]
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit does not return and touches no memory of ours.
    unsafe { libc::_exit(i32::from(status)) }
}
