//! What a GPU is and has: name, capability, memory, and the versions of the driver and of the libraries that compute on
//! it. libtorch's bindings have none of this, so CUDA is asked.
#![allow(unsafe_code, reason = "calls functions of libraries that were opened at run time")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::NonNull;

use serde::{Deserialize, Serialize};
use tch::Device;

use super::cuda::library;

/// Everything that the bytes computed by a GPU depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// The compute capability, such as `9.0`.
    pub capability: String,
    /// The version of cuDNN, such as `9.19.0`.
    pub cudnn: String,
    /// The version of NVIDIA's driver, such as `580.65.06`.
    pub driver: String,
}

impl std::fmt::Display for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, capability, cudnn, driver } = self;
        write!(f, "{name} (compute capability {capability}, cuDNN {cudnn}, driver {driver})")
    }
}

/// What cannot be found out.
const UNKNOWN: &str = "unknown";

impl Card {
    /// `None` for the CPU.
    #[must_use]
    pub fn of(device: Device) -> Option<Self> {
        let Device::Cuda(index) = device else { return None };
        let or_unknown = |found: Option<String>| found.unwrap_or_else(|| UNKNOWN.to_owned());
        let capability = capability(device).map(|(major, minor)| format!("{major}.{minor}"));
        Some(Self {
            name: or_unknown(name(index)),
            capability: or_unknown(capability),
            cudnn: or_unknown(cudnn_version()),
            driver: or_unknown(driver_version()),
        })
    }
}

/// Bytes of a GPU's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    pub free: u64,
    pub total: u64,
}

/// A function of a library that libtorch's CUDA half has loaded.
fn loaded(name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: the name is NUL-terminated.
    NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
}

/// A function of the driver's library. libtorch opens it for itself alone.
fn of_driver(name: &CStr) -> Option<NonNull<c_void>> {
    let library = library(c"libcuda.so.1", libc::RTLD_LOCAL).ok()?;
    // SAFETY: the library is open and never closed, and the name is NUL-terminated.
    NonNull::new(unsafe { libc::dlsym(library, name.as_ptr()) })
}

/// Makes a GPU the current one of this thread: CUDA's functions without a device use it. Creates its context.
///
/// # Errors
/// The GPU cannot be used.
pub(super) fn make_current(index: usize) -> Result<(), String> {
    let set = loaded(c"cudaSetDevice").ok_or("CUDA's runtime library is not loaded")?;
    // SAFETY: the function takes a device's number.
    let set: extern "C" fn(c_int) -> c_int = unsafe { std::mem::transmute(set.as_ptr()) };
    match set(c_int::try_from(index).unwrap_or(c_int::MAX)) {
        0 => Ok(()),
        status => Err(error_text(status)),
    }
}

/// What CUDA says of why it finds no GPU; `None` if it names no error.
#[must_use]
pub fn why_no_gpu() -> Option<String> {
    let ask = loaded(c"cudaGetDeviceCount")?;
    // SAFETY: the function takes a pointer to the count.
    let ask: extern "C" fn(*mut c_int) -> c_int = unsafe { std::mem::transmute(ask.as_ptr()) };
    let mut count = 0;
    match ask(&raw mut count) {
        0 => None,
        status => Some(error_text(status)),
    }
}

/// CUDA's text for a status.
fn error_text(status: c_int) -> String {
    let Some(describe) = loaded(c"cudaGetErrorString") else { return format!("CUDA error: status {status}") };
    // SAFETY: the function takes a status and returns a string that is never freed.
    let describe: extern "C" fn(c_int) -> *const c_char = unsafe { std::mem::transmute(describe.as_ptr()) };
    let text = describe(status);
    if text.is_null() {
        return format!("CUDA error: status {status}");
    }
    // SAFETY: the text is NUL-terminated.
    format!("CUDA error: {}", unsafe { CStr::from_ptr(text) }.to_string_lossy())
}

/// The compute capability of a GPU, such as (9, 0) for Hopper. `None` for the CPU.
#[must_use]
pub fn capability(device: Device) -> Option<(i32, i32)> {
    let Device::Cuda(index) = device else { return None };
    let ask = loaded(c"cudaDeviceGetAttribute")?;
    // SAFETY: the function's parameters are a pointer to the result, an attribute and a device.
    let ask: extern "C" fn(*mut c_int, c_int, c_int) -> c_int = unsafe { std::mem::transmute(ask.as_ptr()) };
    // cudaDevAttrComputeCapabilityMajor and cudaDevAttrComputeCapabilityMinor.
    let [major, minor] = [75, 76].map(|attribute| {
        let mut value = 0;
        (ask(&raw mut value, attribute, c_int::try_from(index).unwrap_or(c_int::MAX)) == 0).then_some(value)
    });
    major.zip(minor)
}

/// The memory of a GPU, which becomes the current one of this thread. `None` for the CPU.
#[must_use]
pub fn memory(device: Device) -> Option<DeviceMemory> {
    let Device::Cuda(index) = device else { return None };
    // The question is about the current one, which on a new thread is the first.
    make_current(index).ok()?;
    let ask = loaded(c"cudaMemGetInfo")?;
    // SAFETY: the function's parameters are pointers to the free and the total bytes.
    let ask: extern "C" fn(*mut usize, *mut usize) -> c_int = unsafe { std::mem::transmute(ask.as_ptr()) };
    let (mut free, mut total) = (0, 0);
    (ask(&raw mut free, &raw mut total) == 0).then_some(DeviceMemory { free: free as u64, total: total as u64 })
}

/// The name of a GPU, by the driver.
fn name(index: usize) -> Option<String> {
    const LENGTH: usize = 256;
    let (init, find, ask) = (of_driver(c"cuInit")?, of_driver(c"cuDeviceGet")?, of_driver(c"cuDeviceGetName")?);
    // SAFETY: the types are those of cuda.h: flags; the device and its number; a buffer, its length and the device.
    let (init, find, ask) = unsafe {
        (
            std::mem::transmute::<*mut c_void, extern "C" fn(c_uint) -> c_int>(init.as_ptr()),
            std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_int, c_int) -> c_int>(find.as_ptr()),
            std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_char, c_int, c_int) -> c_int>(ask.as_ptr()),
        )
    };
    let mut device = 0;
    if init(0) != 0 || find(&raw mut device, c_int::try_from(index).ok()?) != 0 {
        return None;
    }
    let mut name = [0_u8; LENGTH];
    // One byte stays zero.
    if ask(name.as_mut_ptr().cast(), LENGTH as c_int - 1, device) != 0 {
        return None;
    }
    Some(CStr::from_bytes_until_nul(&name).ok()?.to_string_lossy().into_owned())
}

/// The newest version of CUDA that the driver supports, such as (13, 0).
#[must_use]
pub fn cuda_of_driver() -> Option<(i32, i32)> {
    let ask = of_driver(c"cuDriverGetVersion")?;
    // SAFETY: the function takes a pointer to the version.
    let ask: extern "C" fn(*mut c_int) -> c_int = unsafe { std::mem::transmute(ask.as_ptr()) };
    let mut version = 0;
    (ask(&raw mut version) == 0).then_some((version / 1000, version % 1000 / 10))
}

/// The version of NVIDIA's driver, such as `580.65.06`.
#[must_use]
pub fn driver_version() -> Option<String> {
    let of_module = std::fs::read_to_string("/sys/module/nvidia/version").ok();
    let of_module = of_module.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    of_module
        .or_else(|| version_in(&std::fs::read_to_string("/proc/driver/nvidia/version").ok()?))
        .or_else(version_by_nvml)
}

/// The driver's version by its library for management, for containers that hide the kernel's files.
fn version_by_nvml() -> Option<String> {
    const LENGTH: usize = 96;
    let library = library(c"libnvidia-ml.so.1", libc::RTLD_LOCAL).ok()?;
    // SAFETY: the library is open and never closed, and the name is NUL-terminated.
    let function = |name: &CStr| NonNull::new(unsafe { libc::dlsym(library, name.as_ptr()) });
    let (init, ask) = (function(c"nvmlInit_v2")?, function(c"nvmlSystemGetDriverVersion")?);
    // SAFETY: the types are those of nvml.h: nothing; a buffer and its length.
    let (init, ask) = unsafe {
        (
            std::mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(init.as_ptr()),
            std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_char, c_uint) -> c_int>(ask.as_ptr()),
        )
    };
    let mut version = [0_u8; LENGTH];
    // One byte stays zero.
    if init() != 0 || ask(version.as_mut_ptr().cast(), LENGTH as c_uint - 1) != 0 {
        return None;
    }
    let version = CStr::from_bytes_until_nul(&version).ok()?.to_string_lossy().into_owned();
    Some(version).filter(|version| !version.is_empty())
}

/// The version in the driver's own description, whose first line is `NVRM version: NVIDIA UNIX … Kernel Module
/// 580.65.06  Release Build …`.
fn version_in(description: &str) -> Option<String> {
    let mut words = description.lines().next()?.split_whitespace();
    let is_version = |word: &&str| {
        word.contains('.') && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    };
    words.find(is_version).map(str::to_owned)
}

/// The version of the cuDNN that is loaded, such as `9.19.0`.
#[must_use]
pub fn cudnn_version() -> Option<String> {
    let ask = loaded(c"cudnnGetVersion")?;
    // SAFETY: the function has no parameters.
    let ask: extern "C" fn() -> usize = unsafe { std::mem::transmute(ask.as_ptr()) };
    let version = ask();
    Some(format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
}

/// The version of the NCCL that is loaded, such as `2.28.9`.
#[must_use]
pub fn nccl_version() -> Option<String> {
    let ask = loaded(c"ncclGetVersion")?;
    // SAFETY: the function takes a pointer to the version.
    let ask: extern "C" fn(*mut c_int) -> c_int = unsafe { std::mem::transmute(ask.as_ptr()) };
    let mut version = 0;
    (ask(&raw mut version) == 0).then(|| format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_no_card_and_has_no_memory_of_its_own() {
        assert_eq!((Card::of(Device::Cpu), memory(Device::Cpu), capability(Device::Cpu)), (None, None, None));
    }

    #[test]
    fn the_drivers_version_is_found_in_its_description() {
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)\n\
                    GCC version:  gcc version 12.2.0\n";
        assert_eq!(version_in(open).as_deref(), Some("580.65.06"));
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n";
        assert_eq!(version_in(closed).as_deref(), Some("550.54.15"));
        assert_eq!(version_in("GCC version:  gcc\n"), None);
    }
}
