//! Kernels of our own on a GPU: compiled by NVRTC for the GPU at hand, loaded by the driver.
#![allow(unsafe_code, reason = "calls functions of libraries that were opened at run time")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use tch::Device;

use super::card;
use super::cuda::{Plugin, StreamOf, function, library};
use super::nvrtc::Nvrtc;

type LoadModule = extern "C" fn(*mut *mut c_void, *const c_void) -> c_int;
type FindKernel = extern "C" fn(*mut *mut c_void, *mut c_void, *const c_char) -> c_int;
type LaunchKernel = extern "C" fn(
    *mut c_void,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;
type Describe = extern "C" fn(c_int, *mut *const c_char) -> c_int;

/// A kernel on a GPU: `GpuKernel` of `cpp/gpu_kernel.h`.
#[derive(Debug)]
#[repr(C)]
pub(super) struct GpuKernel {
    kernel: *mut c_void,
    launch: LaunchKernel,
    describe: Describe,
    stream: StreamOf,
}

// SAFETY: a kernel's handle and the functions of libraries may be used on any thread.
unsafe impl Send for GpuKernel {}
// SAFETY: as above; nothing changes them.
unsafe impl Sync for GpuKernel {}

impl GpuKernel {
    /// Compiles a source for a GPU, the current one of this thread, and loads its kernel `name`. `None` for the CPU.
    ///
    /// # Errors
    /// It cannot be compiled or loaded.
    pub(super) fn on(device: Device, source: &CStr, name: &CStr, macros: &[&str]) -> Result<Option<Self>, String> {
        Ok(Self::several(device, source, [name], macros)?.map(|[kernel]| kernel))
    }

    /// The same for several kernels of a source.
    ///
    /// # Errors
    /// It cannot be compiled or loaded.
    pub(super) fn several<const COUNT: usize>(
        device: Device,
        source: &CStr,
        names: [&CStr; COUNT],
        macros: &[&str],
    ) -> Result<Option<[Self; COUNT]>, String> {
        if device == Device::Cpu {
            return Ok(None);
        }
        let capability = card::capability(device).ok_or("the GPU's compute capability is unknown")?;
        let stream = Plugin::load()?.stream();
        // It depends on NVRTC and the driver's library, so a look-up in it finds their functions, too.
        let libraries = library(c"libcaffe2_nvrtc.so", libc::RTLD_LOCAL)?;
        let code = compiled(libraries, source, names[0], capability, macros)?;
        // SAFETY: the library is not closed, and the types are those of cuda.h.
        let (load_module, find_kernel, launch, describe) = unsafe {
            (
                function::<LoadModule>(libraries, c"cuModuleLoadData")?,
                function::<FindKernel>(libraries, c"cuModuleGetFunction")?,
                function::<LaunchKernel>(libraries, c"cuLaunchKernel")?,
                function::<Describe>(libraries, c"cuGetErrorString")?,
            )
        };
        let mut module = ptr::null_mut();
        // The module stays loaded until the process ends.
        let mut status = load_module(&raw mut module, code.as_ptr().cast());
        let kernels = names.map(|name| {
            let mut kernel = ptr::null_mut();
            if status == 0 {
                status = find_kernel(&raw mut kernel, module, name.as_ptr());
            }
            Self { kernel, launch, describe, stream }
        });
        match status {
            0 => Ok(Some(kernels)),
            _ => Err(format!("the driver cannot load it: status {status}")),
        }
    }
}

/// What NVRTC, which `libraries` need, makes of the source whose first kernel is `name`. This process compiles it once:
/// student and teacher may have a kernel each.
fn compiled(
    libraries: *mut c_void,
    source: &CStr,
    name: &CStr,
    capability: (i32, i32),
    macros: &[&str],
) -> Result<Arc<[u8]>, String> {
    static COMPILED: Mutex<BTreeMap<String, Arc<[u8]>>> = Mutex::new(BTreeMap::new());
    let key = format!("{name:?} {macros:?} {capability:?}");
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(code) = compiled.get(&key) {
        return Ok(Arc::clone(code));
    }
    let code: Arc<[u8]> = Nvrtc::of(libraries)?.compile(source, capability, macros)?.into();
    compiled.insert(key, Arc::clone(&code));
    Ok(code)
}
