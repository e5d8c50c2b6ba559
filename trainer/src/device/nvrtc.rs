//! NVIDIA's run-time compiler, which makes kernels of our own for the GPU at hand. libtorch brings it.
#![allow(unsafe_code, reason = "calls functions of libraries that were opened at run time")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use super::cuda::{function, library};

type NvrtcProgram = *mut c_void;

/// The compiler, whose library stays open.
#[derive(Debug)]
pub struct Nvrtc {
    create: extern "C" fn(
        *mut NvrtcProgram,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: extern "C" fn(NvrtcProgram, c_int, *const *const c_char) -> c_int,
    log_size: extern "C" fn(NvrtcProgram, *mut usize) -> c_int,
    log: extern "C" fn(NvrtcProgram, *mut c_char) -> c_int,
    code_size: extern "C" fn(NvrtcProgram, *mut usize) -> c_int,
    code: extern "C" fn(NvrtcProgram, *mut c_char) -> c_int,
    destroy: extern "C" fn(*mut NvrtcProgram) -> c_int,
}

impl Nvrtc {
    /// The one in a directory with `libnvrtc.so.13`.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn in_directory(directory: &Path) -> Result<Self, String> {
        let open = |name: &str| {
            let path = CString::new(directory.join(name).into_os_string().into_encoded_bytes());
            library(&path.map_err(|error| error.to_string())?, libc::RTLD_LOCAL)
        };
        // It looks for this one by its name.
        open("libnvrtc-builtins.so.13.0")?;
        Self::of(open("libnvrtc.so.13")?)
    }

    /// The one in an open library, or in one that this needs.
    pub(super) fn of(library: *mut c_void) -> Result<Self, String> {
        // SAFETY: no library is closed, and the types are those of nvrtc.h.
        unsafe {
            Ok(Self {
                create: function(library, c"nvrtcCreateProgram")?,
                compile: function(library, c"nvrtcCompileProgram")?,
                log_size: function(library, c"nvrtcGetProgramLogSize")?,
                log: function(library, c"nvrtcGetProgramLog")?,
                code_size: function(library, c"nvrtcGetCUBINSize")?,
                code: function(library, c"nvrtcGetCUBIN")?,
                destroy: function(library, c"nvrtcDestroyProgram")?,
            })
        }
    }

    /// Compiles CUDA C++ for GPUs of a compute capability, such as (9, 0), with macros such as `A=1`. Returns what the
    /// driver loads.
    ///
    /// # Errors
    /// The compiler's messages.
    pub fn compile(&self, source: &CStr, capability: (i32, i32), macros: &[&str]) -> Result<Vec<u8>, String> {
        let (major, minor) = capability;
        let mut options = vec![format!("--gpu-architecture=sm_{major}{minor}"), "--std=c++17".to_owned()];
        options.extend(macros.iter().map(|definition| format!("--define-macro={definition}")));
        let options: Vec<CString> =
            options.into_iter().map(|option| CString::new(option).expect("an option without NUL")).collect();
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program = ptr::null_mut();
        let (none, name) = (ptr::null(), c"kernel.cu".as_ptr());
        let status = (self.create)(&raw mut program, source.as_ptr(), name, 0, none, none);
        if status != 0 {
            return Err(format!("NVRTC cannot start: status {status}"));
        }
        let compiled = (self.compile)(program, options.len() as c_int, options.as_ptr());
        let made = match compiled {
            0 => bytes(program, self.code_size, self.code),
            _ => {
                let log = bytes(program, self.log_size, self.log).unwrap_or_default();
                let log = String::from_utf8_lossy(&log).trim_end_matches(['\0', '\n']).to_owned();
                Err(format!("NVRTC cannot compile it: status {compiled}: {log}"))
            }
        };
        (self.destroy)(&raw mut program);
        made
    }
}

/// Something that a program has: one function tells its size, and another copies it.
fn bytes(
    program: NvrtcProgram,
    size: extern "C" fn(NvrtcProgram, *mut usize) -> c_int,
    copy: extern "C" fn(NvrtcProgram, *mut c_char) -> c_int,
) -> Result<Vec<u8>, String> {
    let mut count = 0;
    let mut status = size(program, &raw mut count);
    let mut all = vec![0_u8; count];
    if status == 0 {
        status = copy(program, all.as_mut_ptr().cast());
    }
    if status == 0 { Ok(all) } else { Err(format!("NVRTC: status {status}")) }
}
