//! CUDA beyond the bindings. It is loaded at run time, so that one program runs with and without a GPU.
#![allow(unsafe_code, reason = "opens libraries at run time and calls functions of C")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;

use rustix::fs::{MemfdFlags, memfd_create};

use super::ffi::{message, unwrap};
use crate::error::Error;

unsafe extern "C" {
    fn distillery_deterministic() -> *mut c_char;
    fn distillery_tf32(allowed: *mut bool) -> *mut c_char;
}

/// Loads libtorch's CUDA half. This must precede any query about CUDA, because libtorch remembers the first answer.
///
/// # Errors
/// There is no driver, or a library is missing.
pub(crate) fn open() -> Result<(), String> {
    // Without a driver the library would load as well, which takes a moment and 200 MB.
    if !std::path::Path::new("/dev/nvidiactl").exists() && !std::path::Path::new("/dev/dxg").exists() {
        return Err("this machine has no NVIDIA driver".to_owned());
    }
    load()
}

/// Loads libtorch's CUDA half, with a driver or without.
///
/// # Errors
/// A library is missing.
pub(crate) fn load() -> Result<(), String> {
    library(c"libtorch_cuda.so", libc::RTLD_GLOBAL).map(drop)
}

/// A function of a library.
///
/// # Safety
/// The library is open and never closed, and `F` is the type of a pointer to that function.
///
/// # Errors
/// The library has no such function.
pub(super) unsafe fn function<F: Copy>(library: *mut c_void, name: &CStr) -> Result<F, String> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: the library is open and the name NUL-terminated.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    if found.is_null() {
        return Err(format!("there is no function {}", name.to_string_lossy()));
    }
    // SAFETY: F is a pointer to a function of that type, as the caller says.
    Ok(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&found) })
}

/// Opens a library and never closes it.
pub(super) fn library(name: &CStr, scope: c_int) -> Result<*mut c_void, String> {
    // SAFETY: the name is NUL-terminated, and the libraries have PyTorch's initialisers or none. dlerror's text is
    // copied before another call can replace it.
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

/// Restricts cuDNN to deterministic algorithms.
pub fn compute_deterministically() {
    // SAFETY: it sets a flag of libtorch's.
    unwrap(unsafe { distillery_deterministic() });
}

/// Allows or forbids TF32 (10 bits of mantissa) in float32 convolutions on GPUs until it is dropped. libtorch allows it
/// by default.
#[derive(Debug)]
pub struct Tf32 {
    before: bool,
}

impl Tf32 {
    /// Takes effect at once, on all threads.
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
    unwrap(unsafe { distillery_tf32(&raw mut allowed) });
    allowed
}

/// The compiled `cuda/`; empty if the program was built without CUDA's headers.
const PLUGIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cuda.so"));

type Work = extern "C" fn(*mut c_void) -> bool;
/// Returns the current stream of this thread on a GPU.
pub(super) type StreamOf = extern "C" fn(i8) -> *mut c_void;

/// The functions of `cuda/`.
#[derive(Debug)]
pub struct Plugin {
    begin: extern "C" fn(i8) -> *mut c_char,
    record: extern "C" fn(*mut *mut c_void, Work, *mut c_void) -> *mut c_char,
    replay: extern "C" fn(*mut c_void) -> *mut c_char,
    free: extern "C" fn(*mut c_void),
    stream: StreamOf,
    nccl: Option<ptr::NonNull<c_void>>,
}

impl Plugin {
    /// Loads the plugin. libtorch's CUDA half must be loaded already.
    ///
    /// # Errors
    /// The program was built without the plugin, or a library that it needs is missing.
    pub fn load() -> Result<Rc<Self>, String> {
        if PLUGIN.is_empty() {
            return Err(
                "distillery-trainer was built without CUDA's headers: run scripts/setup cuda_headers and build it again"
                    .to_owned(),
            );
        }
        let unwritten = |error: std::io::Error| format!("the CUDA plugin cannot be unpacked in memory: {error}");
        let file = memfd_create(c"distillery-cuda", MemfdFlags::CLOEXEC).map_err(|error| unwritten(error.into()))?;
        let mut file = File::from(file);
        file.write_all(PLUGIN).map_err(unwritten)?;
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("a path without NUL");
        let library = library(&path, libc::RTLD_LOCAL)?;
        let function = |name: &CStr| {
            // SAFETY: the library is open and the name NUL-terminated.
            let found = unsafe { libc::dlsym(library, name.as_ptr()) };
            ptr::NonNull::new(found).ok_or_else(|| format!("the CUDA plugin has no {}", name.to_string_lossy()))
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
                stream: std::mem::transmute::<*mut c_void, StreamOf>(function(c"distillery_cuda_stream")?.as_ptr()),
                nccl: function(c"distillery_nccl_backend").ok(),
            }))
        }
    }

    /// Makes a GPU the current one of this thread, with a stream that can be recorded. Earlier work must have finished.
    ///
    /// # Errors
    /// There is no such GPU.
    pub fn begin(&self, index: usize) -> Result<(), String> {
        let index = i8::try_from(index).map_err(|_| format!("cuda:{index} does not exist"))?;
        checked((self.begin)(index))
    }

    /// The function that returns this thread's stream.
    pub(super) fn stream(&self) -> StreamOf {
        self.stream
    }

    /// The function that creates NCCL's backend of a process group: a `MakeBackend` of `cpp/ranks.h`.
    ///
    /// # Errors
    /// The program was built without NCCL.
    pub(crate) fn nccl(&self) -> Result<ptr::NonNull<c_void>, String> {
        self.nccl.ok_or_else(|| {
            "distillery-trainer was built without NCCL's header, which comes with a libtorch for GPUs: run \
             TORCH_VARIANT=gpu scripts/setup and build it again"
                .to_owned()
        })
    }

    /// Records the kernels that `work` issues to the thread's stream, without running them. What `work` does on the
    /// host happens.
    ///
    /// # Errors
    /// `work` cannot be recorded, because it waits for the device or panics. Then nothing has run on the device.
    pub fn record(self: &Rc<Self>, work: &mut dyn FnMut()) -> Result<CudaGraph, String> {
        struct Context<'a> {
            work: &'a mut dyn FnMut(),
            panicked: Option<String>,
        }
        extern "C" fn call(context: *mut c_void) -> bool {
            // SAFETY: it is the context below, which nothing else uses meanwhile.
            let context = unsafe { &mut *context.cast::<Context<'_>>() };
            let result = catch_unwind(AssertUnwindSafe(|| (context.work)()));
            context.panicked = result.err().map(|payload| Error::from_panic(&*payload).message);
            context.panicked.is_none()
        }
        let mut context = Context { work, panicked: None };
        let mut handle = ptr::null_mut();
        let recorded = checked((self.record)(&raw mut handle, call, (&raw mut context).cast()));
        match (recorded, context.panicked) {
            (Ok(()), _) => Ok(CudaGraph { plugin: Rc::clone(self), handle }),
            (Err(error), None) => Err(error),
            (Err(error), Some(panicked)) => Err(format!("{error}: {panicked}")),
        }
    }
}

/// The first line of a message: libtorch appends a location and hints for its developers.
fn checked(failed: *mut c_char) -> Result<(), String> {
    message(failed)
        .map_or(Ok(()), |message| Err(message.lines().next().unwrap_or("an error without a message").to_owned()))
}

/// A recorded CUDA graph.
#[derive(Debug)]
pub struct CudaGraph {
    plugin: Rc<Plugin>,
    handle: *mut c_void,
}

impl CudaGraph {
    /// Issues all recorded kernels to the thread's stream.
    ///
    /// # Errors
    /// The device failed.
    pub fn replay(&self) -> Result<(), String> {
        checked((self.plugin.replay)(self.handle))
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        (self.plugin.free)(self.handle);
    }
}
