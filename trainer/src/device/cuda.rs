//! CUDA beyond the bindings: opened at run time, so that one program serves machines with GPUs and without.
#![allow(unsafe_code, reason = "libraries are opened at run time, and their functions are of C")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;

use rustix::fs::{MemfdFlags, memfd_create};
use tch::Device;

use crate::device::kernels::{done, message};
use crate::error::Error;

unsafe extern "C" {
    fn distillery_deterministic() -> *mut c_char;
    fn distillery_tf32(allowed: *mut bool) -> *mut c_char;
}

/// Loads libtorch's CUDA half. This must come before any question about CUDA: libtorch remembers the first answer.
///
/// # Errors
/// There is no driver, or a library is missing.
pub(crate) fn open() -> Result<(), String> {
    // Without a driver the library would load all the same, for a fraction of a second and 200 MB.
    if !std::path::Path::new("/dev/nvidiactl").exists() && !std::path::Path::new("/dev/dxg").exists() {
        return Err("this machine has no NVIDIA driver".to_owned());
    }
    library(c"libtorch_cuda.so", libc::RTLD_GLOBAL).map(drop)
}

/// Opens a library, which is never closed.
fn library(name: &CStr, scope: c_int) -> Result<*mut c_void, String> {
    // SAFETY: the name is NUL-terminated, and the libraries' initialisers are PyTorch's or none. dlerror's text is copied
    // before anything else can replace it.
    unsafe {
        let library = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | scope);
        if !library.is_null() {
            return Ok(library);
        }
        let reason = libc::dlerror();
        if reason.is_null() {
            return Err(format!("{} could not be opened", name.to_string_lossy()));
        }
        Err(CStr::from_ptr(reason).to_string_lossy().into_owned())
    }
}

/// A function of CUDA's run time, which libtorch links even on the CPU.
fn runtime(name: &CStr) -> Option<ptr::NonNull<c_void>> {
    // SAFETY: the name is NUL-terminated.
    ptr::NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
}

/// What a GPU can do: (9, 0) is a Hopper. None for the CPU.
#[must_use]
pub fn capability(device: Device) -> Option<(i32, i32)> {
    let Device::Cuda(index) = device else { return None };
    let ask = runtime(c"cudaDeviceGetAttribute")?;
    // SAFETY: this is the function's type: where to, an attribute's number, a device's.
    let ask: extern "C" fn(*mut c_int, c_int, c_int) -> c_int = unsafe { std::mem::transmute(ask.as_ptr()) };
    // cudaDevAttrComputeCapabilityMajor and Minor.
    let [major, minor] = [75, 76].map(|attribute| {
        let mut value = 0;
        (ask(&raw mut value, attribute, c_int::try_from(index).unwrap_or(c_int::MAX)) == 0).then_some(value)
    });
    major.zip(minor)
}

/// Bytes of the current GPU's memory that are free. None for the CPU.
#[must_use]
pub fn free_bytes(device: Device) -> Option<u64> {
    let Device::Cuda(_) = device else { return None };
    let ask = runtime(c"cudaMemGetInfo")?;
    // SAFETY: this is the function's type: where free and total go.
    let ask: extern "C" fn(*mut usize, *mut usize) -> c_int = unsafe { std::mem::transmute(ask.as_ptr()) };
    let (mut free, mut total) = (0, 0);
    (ask(&raw mut free, &raw mut total) == 0).then_some(free as u64)
}

/// Has cuDNN take only algorithms that give the same every time.
pub(crate) fn compute_deterministically() {
    // SAFETY: it sets a number of libtorch's.
    done(unsafe { distillery_deterministic() });
}

/// Whether convolutions of float32 on GPUs are multiplied with 10 bits of mantissa (TF32), until it is dropped. libtorch's
/// own default is that they are.
#[derive(Debug)]
pub struct Tf32 {
    before: bool,
}

impl Tf32 {
    /// From now on, on all threads.
    #[must_use]
    pub fn set(allowed: bool) -> Self {
        Self { before: swap_tf32(allowed) }
    }
}

impl Drop for Tf32 {
    fn drop(&mut self) {
        swap_tf32(self.before);
    }
}

fn swap_tf32(mut allowed: bool) -> bool {
    // SAFETY: it reads and writes the flag while it is called.
    done(unsafe { distillery_tf32(&raw mut allowed) });
    allowed
}

/// `cuda/`, compiled; empty where CUDA's headers were not there.
const PLUGIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cuda.so"));

type Work = extern "C" fn(*mut c_void) -> bool;

/// The functions of `cuda/`.
#[derive(Debug)]
pub struct Plugin {
    begin: extern "C" fn(i8) -> *mut c_char,
    record: extern "C" fn(*mut *mut c_void, Work, *mut c_void) -> *mut c_char,
    replay: extern "C" fn(*mut c_void) -> *mut c_char,
    free: extern "C" fn(*mut c_void),
    nccl: Option<ptr::NonNull<c_void>>,
}

impl Plugin {
    /// Opens it; libtorch's CUDA half has to be open.
    ///
    /// # Errors
    /// The program was built without it, or what it needs is missing.
    pub fn load() -> Result<Rc<Self>, String> {
        if PLUGIN.is_empty() {
            return Err(
                "distillery-trainer was built without CUDA's headers: run scripts/setup cuda_headers, and build \
                        it again"
                    .to_owned(),
            );
        }
        let unwritten = |error: std::io::Error| format!("the plugin for CUDA cannot be unpacked in memory: {error}");
        let file = memfd_create(c"distillery-cuda", MemfdFlags::CLOEXEC).map_err(|error| unwritten(error.into()))?;
        let mut file = File::from(file);
        file.write_all(PLUGIN).map_err(unwritten)?;
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("a path without NUL");
        let library = library(&path, libc::RTLD_LOCAL)?;
        let function = |name: &CStr| {
            // SAFETY: the library is open and the name NUL-terminated.
            let found = unsafe { libc::dlsym(library, name.as_ptr()) };
            ptr::NonNull::new(found).ok_or_else(|| format!("the plugin for CUDA has no {}", name.to_string_lossy()))
        };
        // SAFETY: the types are those of cuda/graph.cpp, which was compiled with this program.
        unsafe {
            Ok(Rc::new(Self {
                begin: std::mem::transmute::<*mut c_void, extern "C" fn(i8) -> *mut c_char>(
                    function(c"distillery_cuda_begin")?.as_ptr(),
                ),
                record: std::mem::transmute::<
                    *mut c_void,
                    extern "C" fn(*mut *mut c_void, Work, *mut c_void) -> *mut c_char,
                >(function(c"distillery_graph_record")?.as_ptr()),
                replay: std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void) -> *mut c_char>(
                    function(c"distillery_graph_replay")?.as_ptr(),
                ),
                free: std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void)>(
                    function(c"distillery_graph_free")?.as_ptr(),
                ),
                nccl: function(c"distillery_nccl_backend").ok(),
            }))
        }
    }

    /// Makes a GPU this thread's, and has the thread issue to a stream that can be recorded. What was issued before has
    /// to be waited for.
    ///
    /// # Errors
    /// There is no such GPU.
    pub fn begin(&self, index: usize) -> Result<(), String> {
        let index = i8::try_from(index).map_err(|_| format!("cuda:{index} is too many"))?;
        said((self.begin)(index))
    }

    /// What makes NCCL's half of a group of ranks: a `MakeBackend` of `cpp/ranks.h`.
    ///
    /// # Errors
    /// The program was built without NCCL.
    pub(crate) fn nccl(&self) -> Result<ptr::NonNull<c_void>, String> {
        self.nccl.ok_or_else(|| {
            "distillery-trainer was built without NCCL's header, which is beside a libtorch for GPUs: run \
             TORCH_VARIANT=gpu scripts/setup, and build it again"
                .to_owned()
        })
    }

    /// Records what `work` issues to the thread's stream, without doing it. What it does on the host is done.
    ///
    /// # Errors
    /// Something in it cannot be recorded: it waits for the device, or panics. Then nothing was done on the device.
    pub fn record(self: &Rc<Self>, work: &mut dyn FnMut()) -> Result<Graph, String> {
        struct Context<'a> {
            work: &'a mut dyn FnMut(),
            panicked: Option<String>,
        }
        extern "C" fn call(context: *mut c_void) -> bool {
            // SAFETY: it is the context below, which nobody else uses meanwhile.
            let context = unsafe { &mut *context.cast::<Context<'_>>() };
            let result = catch_unwind(AssertUnwindSafe(|| (context.work)()));
            context.panicked = result.err().map(|payload| Error::from_panic(&*payload).message);
            context.panicked.is_none()
        }
        let mut context = Context { work, panicked: None };
        let mut handle = ptr::null_mut();
        let recorded = said((self.record)(&raw mut handle, call, (&raw mut context).cast()));
        match (recorded, context.panicked) {
            (Ok(()), _) => Ok(Graph { plugin: Rc::clone(self), handle }),
            (Err(error), None) => Err(error),
            (Err(error), Some(panicked)) => Err(format!("{error}: {panicked}")),
        }
    }
}

/// The first line of what was said: libtorch adds where it was and what might help its developers.
fn said(failed: *mut c_char) -> Result<(), String> {
    message(failed).map_or(Ok(()), |message| Err(message.lines().next().unwrap_or("an error without words").to_owned()))
}

/// What was recorded.
#[derive(Debug)]
pub struct Graph {
    plugin: Rc<Plugin>,
    handle: *mut c_void,
}

impl Graph {
    /// Issues all of it again, to the thread's stream.
    ///
    /// # Errors
    /// The device fails.
    pub fn replay(&self) -> Result<(), String> {
        said((self.plugin.replay)(self.handle))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        (self.plugin.free)(self.handle);
    }
}
