//! The processes of a run as libtorch's c10d has them: `cpp/ranks.cpp`.
#![allow(unsafe_code, reason = "they are functions of C")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::device::kernels::{Pointers, message};
use crate::error::{Error, Result};

unsafe extern "C" {
    fn distillery_ranks_meet(
        result: *mut *mut c_void,
        file: *const c_char,
        rank: c_int,
        count: c_int,
        make: *const c_void,
    ) -> *mut c_char;
    fn distillery_ranks_combine(ranks: *mut c_void, tensor: *const C_tensor, least: bool) -> *mut c_char;
    fn distillery_ranks_copy_first(ranks: *mut c_void, tensors: *const *mut C_tensor, count: i64) -> *mut c_char;
    fn distillery_ranks_average(ranks: *mut c_void, tensors: *const *mut C_tensor, count: i64) -> *mut c_char;
    fn distillery_ranks_expect(ranks: *mut c_void, loss: *const C_tensor) -> *mut c_char;
    fn distillery_ranks_part(ranks: *mut c_void);
}

/// All ranks of a run, seen from one of them. Each function is called by all of them at the same place of the run, and
/// waits for the others.
#[derive(Debug)]
pub(super) struct Group(*mut c_void);

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: made by `meet`, and nobody else has it.
        unsafe { distillery_ranks_part(self.0) }
    }
}

impl Group {
    /// Meets the others by a file that the first of them makes. `nccl` is [`Plugin::nccl`](crate::device::cuda::Plugin::nccl).
    pub(super) fn meet(file: &Path, number: u32, count: u32, nccl: Option<NonNull<c_void>>) -> Result<Self> {
        let path =
            CString::new(file.as_os_str().as_bytes()).map_err(|_| Error::user("the output's path holds a NUL"))?;
        let [number, count] = [number, count].map(|small| c_int::try_from(small).expect("there are 64 at most"));
        let make = nccl.map_or(ptr::null(), |make| make.as_ptr().cast_const());
        let mut group = ptr::null_mut();
        // SAFETY: the path is NUL-terminated; `make` is null or the function of that type in our own library.
        checked(unsafe { distillery_ranks_meet(&raw mut group, path.as_ptr(), number, count, make) })?;
        Ok(Self(group))
    }

    /// Replaces a tensor by the sum of all ranks', or by the least of each number.
    pub(super) fn combine(&self, tensor: &Tensor, least: bool) -> Result<()> {
        // SAFETY: the group lives, and so does the tensor until the call returns, which keeps it by counting references.
        checked(unsafe { distillery_ranks_combine(self.0, tensor.as_ptr(), least) })
    }

    /// Overwrites tensors by the first rank's.
    pub(super) fn copy_first(&self, tensors: &[Tensor]) -> Result<()> {
        let pointers = Pointers::of(tensors);
        // SAFETY: as above.
        checked(unsafe { distillery_ranks_copy_first(self.0, pointers.first(), pointers.count()) })
    }

    /// Has every backward average the gradients of these parameters, in the order of forward.
    pub(super) fn average(&self, parameters: &[Tensor]) -> Result<()> {
        let pointers = Pointers::of(parameters);
        // SAFETY: as above.
        checked(unsafe { distillery_ranks_average(self.0, pointers.first(), pointers.count()) })
    }

    /// Precedes each backward.
    pub(super) fn expect(&self, loss: &Tensor) -> Result<()> {
        // SAFETY: as above, and `average` came before.
        checked(unsafe { distillery_ranks_expect(self.0, loss.as_ptr()) })
    }
}

fn checked(failed: *mut c_char) -> Result<()> {
    message(failed).map_or(Ok(()), |message| Err(Error::from_torch(&message)))
}
